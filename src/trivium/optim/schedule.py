"""Learning-rate schedules as pure functions of the step."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def lr_scale(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule, decay_fraction: float) -> float:
    """Factor on the peak rate at `step` (0-based).

    Linear warm-up over `warmup_steps`, then flat, then a decay to zero over the last `decay_fraction` of
    all steps: along a line ("linear", the trapezoid of Hägele et al. 2024, arXiv:2405.18392) or a half
    cosine. "constant" never decays.
    """
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    if schedule == "constant":
        return warmup
    decay_steps = max(1, round(total_steps * decay_fraction))
    left = min(1.0, max(0.0, (total_steps - step) / decay_steps))
    return warmup * (left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left))
