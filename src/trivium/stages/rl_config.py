"""What a recipe's `[rl]` section holds."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from trivium.base.config import MOST
from trivium.model import LoRAConfig
from trivium.optim import OptimConfig
from trivium.rewards import AnyReward
from trivium.rewards.learned import ModelPart
from trivium.rl.cispo import CISPOConfig
from trivium.rl.dapo import DAPOConfig
from trivium.rl.dpo import DPOConfig
from trivium.rl.dr_grpo import DrGRPOConfig
from trivium.rl.grpo import GRPOConfig
from trivium.rl.gspo import GSPOConfig
from trivium.rl.learner import LearnerConfig
from trivium.rl.ppo import PPOConfig
from trivium.rl.reinforce import ReinforceConfig
from trivium.rl.rloo import RLOOConfig
from trivium.stages.tasks import TaskConfig
from trivium.training import LoopConfig


class RLConfig(LoopConfig):
    """How M2 is trained."""

    algorithm: Literal["ppo", "rloo", "grpo", "dr_grpo", "dapo", "reinforce", "gspo", "cispo", "dpo", "ipo"] = "ppo"
    """The algorithm; its switches are in the section of its name. Only `ppo` has a critic; `dpo` and `ipo` learn from
    the comparisons themselves, without rollouts or R."""
    rewards: tuple[AnyReward, ...] = (ModelPart(),)
    """What is maximised, a list of tables with `kind` and `weight`: `model` is R, `execution` the tests, `length`,
    `format`, `function` your own Python, `judge` a chat model. Each is normalised by frozen statistics, then weighed.
    Where a kind's options stay as they are its name alone is enough. Without `execution` the tests only measure."""
    normalise_samples: int = Field(default=512, ge=2, le=MOST)
    """Responses of M1 on which the statistics of rewards other than R are measured and frozen."""
    rounds: int = Field(default=2, ge=1, le=1000)
    """Rounds of collect, reward and rl; each later one compares the policy of that time and refreshes R."""
    steps: int = Field(default=10, ge=1)
    """Rollouts a round."""
    prompts_per_step: int = Field(default=96, ge=1, le=MOST)
    """Prompts of a rollout."""
    samples_per_prompt: int = Field(default=4, ge=1, le=MOST)
    """Responses a prompt."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Cap on a response, in tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the policy everywhere: sampler, old, new and reference."""
    tasks: TaskConfig = TaskConfig(count=5_000)
    """Prompts to draw from."""
    learner: LearnerConfig = LearnerConfig(
        alpha=1.0,
        gamma=0.2,
        optim=OptimConfig(lr=5e-5, vector_lr=2e-2, eps=1e-5, warmup_steps=5, decay_fraction=1.0),
    )
    """The update."""
    lora: LoRAConfig = LoRAConfig()
    """Low-rank adapters on M1 instead of all the policy's weights; the critic trains in full all the same."""
    sft_rows: int = Field(default=12, ge=1, le=MOST)
    """Packed rows of fine-tuning data in each update, when alpha > 0 (PPO-ptx)."""
    ppo: PPOConfig = PPOConfig()
    """Proximal policy optimisation, with a critic."""
    rloo: RLOOConfig = RLOOConfig()
    """Leave-one-out baseline."""
    grpo: GRPOConfig = GRPOConfig()
    """Group-relative advantages."""
    dr_grpo: DrGRPOConfig = DrGRPOConfig()
    """GRPO without its divisors."""
    dapo: DAPOConfig = DAPOConfig()
    """DAPO's parts."""
    reinforce: ReinforceConfig = ReinforceConfig()
    """REINFORCE++."""
    gspo: GSPOConfig = GSPOConfig()
    """One ratio a response."""
    cispo: CISPOConfig = CISPOConfig()
    """Clipped weights, whole gradients."""
    dpo: DPOConfig = DPOConfig()
    """Offline, from comparisons; `ipo` takes this section too."""
    gold_responses: int = Field(default=32, ge=0)
    """Responses of each rollout whose tests are run, to compare proxy and gold; they never enter the reward."""
    eval_every: int = Field(default=10, ge=1)
    """Steps between measurements of U on held-out prompts."""
    eval_tasks: int = Field(default=64, ge=2)
    """Held-out prompts of them, one response each."""
    keep: Literal["last", "lowest_u", "highest_gold"] = "last"
    """Which weights are handed on: the last, or at a measurement on held-out prompts those of lowest U or of highest
    pass rate."""
    on_alarm: Literal["warn", "stop"] = "warn"
    """When the pass rate has fallen by two standard errors while the reward rose: warn, or end the round too. Looked at
    with each measurement."""
    save_rollouts: bool = False
    """Write every rollout with its log-probabilities, values, advantages and rewards to `samples/rollouts-*.jsonl`."""
    max_kl: float | None = Field(default=None, gt=0)
    """End the round when the KL to M1 per response, in nats, exceeds this; unset never does."""
    checkpoint_every: int = Field(default=8, ge=1)
    """Steps between checkpoints."""

    @property
    def offline(self) -> bool:
        """Whether the policy learns from stored comparisons alone."""
        return self.algorithm in ("dpo", "ipo")

    @property
    def tests_rewarded(self) -> bool:
        """Whether the tests' verdicts are part of what is maximised."""
        return any(part.kind == "execution" for part in self.rewards)

    @property
    def switches(self) -> Any:
        """The section of the algorithm in use."""
        return self.dpo if self.offline else getattr(self, self.algorithm)

    @property
    def reward_inputs(self) -> dict[str, Path | str]:
        """Files that the rewards depend on, by name."""
        return {name: path for part in self.rewards for name, path in part.inputs.items()}

    @field_validator("rewards", mode="before")
    @classmethod
    def _name_is_enough(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [{"kind": item} if isinstance(item, str) else item for item in value]
        return value

    @field_validator("rewards")
    @classmethod
    def _rewards_differ(cls, value: tuple[AnyReward, ...]) -> tuple[AnyReward, ...]:
        if not value:
            raise ValueError("rewards is empty: name at least one")
        labels = [part.label for part in value]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"two rewards are called {twice!r}. Give one of them another name")
        return value

    @model_validator(mode="after")
    def _switches_fit(self) -> "RLConfig":
        responses = self.prompts_per_step * (1 if self.offline else self.samples_per_prompt)
        if self.learner.minibatches > responses:
            raise ValueError(
                f"learner.minibatches = {self.learner.minibatches} exceeds the {responses} responses of a step "
                "(prompts_per_step × samples_per_prompt). Lower it"
            )
        if self.algorithm == "ipo" and self.dpo.label_smoothing:
            raise ValueError(
                f"dpo.label_smoothing = {self.dpo.label_smoothing:g} is for dpo, and algorithm is ipo. Leave it out"
            )
        if self.samples_per_prompt < 2 and self.algorithm not in ("ppo", "reinforce", "dpo", "ipo"):
            raise ValueError(
                f"samples_per_prompt = 1 leaves {self.algorithm} nothing to compare a response with. Set it to 2"
            )
        return self
