"""What an algorithm is: a way to turn a scored rollout into advantages, and advantages into a loss."""

from typing import Literal, Protocol

from torch import Tensor

from trivium.batch import LossOutput
from trivium.objectives.tokens import Aggregate
from trivium.rl.rollout import Rollout

KLPlace = Literal["reward", "k1", "k2", "k3"]
"""Where the penalty for leaving M1 sits: in the token rewards, or in the loss under the estimator's name."""


class Algorithm(Protocol):
    """One file under rl/ offers these; the learner owns everything else."""

    needs_critic: bool
    aggregate: Aggregate
    kl: KLPlace

    def advantages(self, rollout: Rollout) -> dict[str, float]:
        """Fill `rollout.advantages` (and `returns`, where there is a critic); figures for the log, `sigma` among them.

        `sigma` is what advantages were divided by: the learner divides alpha by it too. Rows that belong outside the
        loss are marked in `rollout.valid`.
        """
        ...

    def loss(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_mask: Tensor) -> LossOutput:
        """Policy loss of some rows, all arguments (n, L)."""
        ...
