"""The reward stage's options."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from trivium.base.config import MOST
from trivium.optim import OptimConfig
from trivium.rewards.ensemble import Aggregate
from trivium.rewards.learning import RewardLossConfig
from trivium.rewards.model import Normalisation
from trivium.stages.tasks import TaskConfig
from trivium.training import TrainConfig

MOST_MEMBERS = 64


class RewardConfig(TrainConfig):
    """How R is trained."""

    epochs: float = Field(default=3.0, gt=0, le=MOST)
    """Passes over the comparisons of the first round."""
    later_epochs: float = Field(default=1.0, gt=0, le=MOST)
    """Passes in each later round, which goes on from the R before, over old and new comparisons."""
    replay: int = Field(default=450, ge=0)
    """Prompts of earlier rounds, drawn by the seed, that a later round goes over again."""
    prompts_per_step: int = Field(default=32, ge=1, le=MOST)
    """Prompts of one optimiser step; each with all its completions."""
    max_completions: int = Field(default=4, ge=2)
    """Completions a prompt in training, passing and failing in balance."""
    seq_len: int = Field(default=256, ge=8)
    """Longest prompt with one completion, in tokens; a longer prompt loses its beginning."""
    source_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """How much a comparison counts in the ranking term by who judged, as `{human = 2.0}`; sources not named count 1."""
    ensemble: int = Field(default=1, ge=1, le=MOST_MEMBERS)
    """Reward models that are trained on the same comparisons, each from a head and in an order of its own."""
    aggregate: Aggregate = "mean"
    """How an ensemble's scores become one: their `mean`, their `min`, `mean_minus_sd`; or `weight_average`, the one
    model with the mean of the members' weights, which then share the head that they begin with."""
    sd_coef: float = Field(default=1.0, ge=0)
    """Standard deviations over the members that `mean_minus_sd` takes off their mean."""
    loss: RewardLossConfig = RewardLossConfig()
    """The objective."""
    optim: OptimConfig = OptimConfig(kind="muon", lr=1e-3, muon_lr=0.01, warmup_steps=10, decay_fraction=0.7)
    """The optimiser."""
    eval_every: int = Field(default=50, ge=1)
    """Steps between evaluations on held-out prompts."""
    normalise_samples: int = Field(default=1024, ge=2, le=MOST)
    """Samples of M1 whose scores' mean and deviation are frozen in R."""
    normalise: Normalisation = "scale"
    """What the frozen statistics do: `scale` makes their mean 0 and their deviation 1; `shift` makes their mean 0 and
    keeps the unit, log-odds."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Cap on those samples, in tokens."""
    tasks: TaskConfig = TaskConfig(count=256)
    """Prompts of those samples."""
    probe_floor: float = Field(default=0.6, ge=0, le=1)
    """Share of good answers that must score above a damaged copy of themselves, in each probe."""
    gate_on_probes: bool = False
    """Fail where a probe lies below that; otherwise it is a warning."""
    allow_chance: bool = False
    """Hand on an R whose held-out accuracy is not above chance; otherwise the stage fails."""

    adjustable: ClassVar[frozenset[str]] = TrainConfig.adjustable | {"allow_chance", "probe_floor", "gate_on_probes"}

    @model_validator(mode="after")
    def _aggregate_fits(self) -> "RewardConfig":
        if self.ensemble == 1 and self.aggregate != "mean":
            raise ValueError(f"aggregate = {self.aggregate!r} is for ensembles. Set ensemble to 2 or more")
        return self
