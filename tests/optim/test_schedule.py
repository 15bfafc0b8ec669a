import math
from typing import Any

import pytest

from trivium.optim.schedule import lr_scale


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant", "warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear", "decay_fraction": 0.5}, [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]),
        ({"schedule": "linear", "decay_fraction": 0.4, "warmup_steps": 2}, [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "decay_fraction": 0.0}, [1] * 10),
        (
            {"schedule": "cosine", "decay_fraction": 1.0},
            [0.5 + 0.5 * math.cos(math.pi * step / 10) for step in range(10)],
        ),
        # warm-up and decay overlap: both apply
        (
            {"schedule": "linear", "decay_fraction": 1.0, "warmup_steps": 5},
            [0.2, 0.36, 0.48, 0.56, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
        ),
    ],
)
def test_ten_steps_by_hand(options: dict[str, Any], expected: list[float]) -> None:
    settings = {"total_steps": 10, "warmup_steps": 0, "decay_fraction": 0.5} | options
    assert [lr_scale(step, **settings) for step in range(10)] == pytest.approx(expected)


def test_the_rate_stays_at_zero_beyond_the_end() -> None:
    assert lr_scale(12, total_steps=10, warmup_steps=0, schedule="cosine", decay_fraction=0.5) == 0
