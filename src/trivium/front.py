"""The Python front door: the three stages as one would sketch them on a whiteboard.

These are thin faces of what the stages run; there is no second implementation behind them.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from trivium.base.config import Config
from trivium.base.errors import ConfigError, DataError, InputError
from trivium.base.machine import tune_allocator
from trivium.base.seeding import derive_seed, python_rng
from trivium.batch import Batch
from trivium.data.branches import length_mask
from trivium.data.front import batches, tokenize
from trivium.generation import generate
from trivium.model import Decoder, LoRAConfig, ModelConfig, Scorer, load_model
from trivium.model.lora import add_lora, load_adapter, merged, read_lora_config
from trivium.optim import OptimConfig, Optimizer
from trivium.preferences.pairs import ranked_from_records
from trivium.records import Preference, Task
from trivium.rewards import model as reward_model
from trivium.rewards.learning import (
    RewardLossConfig,
    RewardSchedule,
    RewardStep,
    as_trained,
    in_training,
    learning_rates,
)
from trivium.rl import ALGORITHMS
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.ppo import PPOConfig
from trivium.rl.rollout import Rollout
from trivium.stages.artifacts import write_model
from trivium.stages.comparisons import tokenise
from trivium.stages.judging import encode_prompt
from trivium.tasks.ladder import generate_tasks
from trivium.tokenizer import Tokenizer
from trivium.training.losses import next_token_loss

__all__ = [
    "LoRAConfig",
    "ModelConfig",
    "Response",
    "RewardModel",
    "Tokenizer",
    "TransformerModel",
    "batches",
    "generate_tasks",
    "load_weights",
    "ppo_update",
    "run",
    "sample_prompts",
    "save_weights",
    "tokenize",
]

FRONT_OPTIM = OptimConfig(kind="muon", lr=3e-3, muon_lr=0.02, warmup_steps=10, schedule="constant")


@dataclass(frozen=True)
class Response:
    """One sampled answer."""

    text: str
    ids: list[int]
    """The end token included where it was drawn."""
    logprobs: list[float]
    """Of each id under the sampling distribution, in nats."""
    finish: str
    """`stop` (the end token was drawn) or `length` (the cap was reached)."""
    temperature: float = 1.0
    """It was drawn at; `ppo_update` trains at the same."""


class TransformerModel(Decoder):
    """A decoder with its tokenizer and optimiser: `loss`, `update`, `generate`.

    `model(ids)` gives logits (B, T, V) in fp32. Weights are drawn from `seed`.
    """

    def __init__(
        self, config: ModelConfig, tokenizer: Tokenizer, optim: OptimConfig = FRONT_OPTIM, seed: int = 0
    ) -> None:
        tokenizer.check_fits(config.vocab_size)
        tune_allocator()
        super().__init__(config)
        self.initialise(torch.Generator().manual_seed(derive_seed(seed, "initialise")))
        self.tokenizer, self.optim = tokenizer, optim
        self.last_stats: dict[str, float] = {}
        """Figures of the last `ppo_update`."""
        self.base = ""
        """Name or path of what it was loaded from: the model that adapters are for."""
        self._optimizer: Optimizer | None = None
        self._steps = self._rollouts = 0
        self._learner: Learner | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A model of its own. The optimiser and what `ppo_update` keeps stay behind: they belong to these weights."""
        memo[id(self.tokenizer)] = self.tokenizer
        memo |= {id(kept): None for kept in (self._optimizer, self._learner) if kept is not None}
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__setstate__(copy.deepcopy(self.__dict__, memo))
        return other

    def add_adapter(self, config: LoRAConfig | None = None, seed: int = 0) -> Self:
        """Freeze the weights and train low-rank adapters on them instead, as `peft.get_peft_model` does; in place.

        The model computes what it did until the first `update` or `ppo_update`. `save_weights` then writes the merged
        weights and `adapter/` beside them.

        Args:
            config: rank (8 without), alpha and targets.
            seed: with each map's name it decides the adapters' first values.
        Raises:
            ConfigError: the rank is 0 or exceeds a matrix.
            InputError: the model has an adapter, or PPO has begun.
        """
        config = config or LoRAConfig(rank=8)
        if config.rank < 1:
            raise ConfigError("an adapter of rank 0 has nothing to train. Set a rank of 1 or more.")
        self._make_way()
        add_lora(self, config, seed, "front")
        return self

    def load_adapter(self, path: str | Path) -> Self:
        """Put the adapter of a folder, written by `save_weights`, by a stage or by PEFT, on this model, its base.

        It goes on training; the weights are frozen. In place.

        Raises:
            ModelError: there is none, or it is of another kind or shape.
            InputError: the model has an adapter, or PPO has begun.
        """
        config = read_lora_config(Path(path))
        self._make_way()
        add_lora(self, config, 0, "front")
        load_adapter(self, Path(path))
        return self

    def merge_and_unload(self) -> "TransformerModel":
        """A model of its own without adapters that computes the same, all of whose weights train."""
        return copy.deepcopy(merged(self)).requires_grad_(True)

    def _make_way(self) -> None:
        """Before adapters come: the optimiser is of other weights, and the reference of PPO is another model."""
        if self.adapter is not None:
            raise InputError("the model has an adapter. Take merge_and_unload() of it first.")
        if self._learner is not None:
            raise InputError("ppo_update has been called: its reference has no adapter. Add one before.")
        self._optimizer, self._steps = None, 0

    def loss(self, batch: Batch) -> Tensor:
        """Mean next-token NLL over the batch's loss mask, in nats, differentiable."""
        batch = batch.to(self.device)
        return next_token_loss(self, batch).mean

    def update(self, loss: Tensor) -> dict[str, float]:
        """Backward, clip, optimiser step; {"loss", "grad_norm", "lr"}."""
        if self._optimizer is None:
            self._optimizer = Optimizer(self, self.optim, total_steps=1)
        loss.backward()
        figures = self._optimizer.step(self._steps)
        self._steps += 1
        return {"loss": loss.item()} | figures

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int = 256,
    ) -> list[Response]:
        """One response a prompt; a prompt given n times gets n different ones.

        A sample's randomness is a function of (seed, prompt, its index among equal prompts), never of its
        batch mates.
        """
        seen: Counter[str] = Counter()
        seeds = []
        for prompt in prompts:
            seeds.append(derive_seed(seed, "generate", prompt, seen[prompt]))
            seen[prompt] += 1
        drawn = generate(
            self,
            [encode_prompt(self.tokenizer, prompt) for prompt in prompts],
            seeds=seeds,
            max_new_tokens=max_new_tokens,
            stop_ids=[self.tokenizer.eos_id],
            temperature=temperature,
            batch_size=batch_size,
        )
        texts = self.tokenizer.decode_batch([sample.ids for sample in drawn])
        return [
            Response(text, sample.ids, sample.logprobs, sample.finish, temperature or 1.0)
            for text, sample in zip(texts, drawn, strict=True)
        ]


def save_weights(model: TransformerModel, path: str | Path) -> None:
    """Write a Hugging Face directory: weights, config and tokenizer.

    Of a model with adapters, the weights are merged, and `adapter/` holds the adapters in PEFT's files, for the model
    that was loaded: the same as the stages write.
    """
    write_model(model, model.tokenizer, Path(path), model.base)


def load_weights(
    path: str | Path, optim: OptimConfig = FRONT_OPTIM, lora: LoRAConfig | None = None
) -> TransformerModel:
    """A model from a Hugging Face directory (Qwen3, Qwen2 or Llama family), in fp32.

    Args:
        lora: puts new adapters on it, which train in place of its weights; see `TransformerModel.add_adapter`.
    """
    loaded = load_model(Path(path))
    model = TransformerModel(loaded.config, Tokenizer.load(path), optim)
    model.load_state_dict(loaded.state_dict())
    model.base = str(path)
    return model if lora is None else model.add_adapter(lora)


class RewardModel(reward_model.RewardModel):
    """A scorer of responses, trained on comparisons."""

    @classmethod
    def train(
        cls,
        base: str | Path | TransformerModel,
        preferences: Iterable[Mapping[str, Any] | Preference],
        *,
        epochs: float = 3.0,
        prompts_per_step: int = 16,
        loss: RewardLossConfig | None = None,
        optim: OptimConfig | None = None,
        seed: int = 0,
    ) -> "RewardModel":
        """Fit Bradley-Terry scores on a copy of the base model's body.

        Scores are normalised to mean 0 and deviation 1 over the completions it was trained on.

        Args:
            base: M1, or its directory; adapters are merged into the copy.
            preferences: records `{"prompt", "chosen", "rejected"}`, or any other form that files may have.
        """
        model = base if isinstance(base, TransformerModel) else load_weights(base)
        loss = loss or RewardLossConfig()
        groups = ranked_from_records(preferences, keep_ties=loss.keeps_ties)
        examples, _ = tokenise(groups, model.tokenizer, model.config.max_seq_len)
        if not examples:
            raise DataError("there is no preference with two different completions to train on.")
        generator = torch.Generator().manual_seed(derive_seed(seed, "reward head"))
        scorer = in_training(Scorer.from_decoder(merged(model), generator), loss, examples)
        schedule = RewardSchedule(examples, prompts_per_step, epochs, seed)
        default = OptimConfig(kind="muon", lr=1e-3, muon_lr=0.01, warmup_steps=min(10, schedule.steps))
        optimizer = Optimizer(scorer, optim or default, schedule.steps, learning_rates(scorer, loss))
        for step in range(schedule.steps):
            for term in RewardStep(scorer, schedule.examples(step), loss).losses():
                term.loss_sum.backward()
            optimizer.step(step)
        trained, figures = as_trained(scorer)
        reward = cls(trained, model.tokenizer, figures=figures)
        owners = [index for index, example in enumerate(examples) for _ in example.completions]
        completions = [ids for example in examples for ids in example.completions]
        reward.freeze_normalisation(reward.raw_scores([e.prompt for e in examples], completions, owners))
        return reward

    def batch_evaluate(self, prompts: Sequence[str], responses: Sequence[Response | str]) -> Tensor:
        """(B,) normalised rewards; a response given as text is encoded and ended."""
        texts = list(dict.fromkeys(prompts))
        place = {text: index for index, text in enumerate(texts)}
        ids = [
            response.ids
            if isinstance(response, Response)
            else [*self.tokenizer.encode(response), self.tokenizer.eos_id]
            for response in responses
        ]
        encoded = [encode_prompt(self.tokenizer, text) for text in texts]
        return self.rewards(encoded, ids, [place[prompt] for prompt in prompts])


def sample_prompts(tasks: Sequence[Task | str], n: int, seed: int = 0, step: int = 0) -> list[str]:
    """N prompts drawn from the tasks: without repeats in an epoch, a function of (seed, step)."""
    if not tasks:
        raise DataError("there is no task to draw prompts from.")
    drawn = []
    for position in range(step * n, (step + 1) * n):
        epoch, place = divmod(position, len(tasks))
        order = python_rng(seed, "prompts", epoch).sample(range(len(tasks)), len(tasks))
        task = tasks[order[place]]
        drawn.append(task if isinstance(task, str) else task.prompt)
    return drawn


def ppo_update(
    policy: TransformerModel,
    prompts: Sequence[str],
    responses: Sequence[Response],
    rewards: Tensor,
    config: LearnerConfig | None = None,
    ppo: PPOConfig | None = None,
) -> TransformerModel:
    """One PPO step on a batch of responses; the same policy comes back, updated.

    At the first call the policy as it is, its adapter included, becomes the reference and the start of the critic;
    both, and the optimisers, stay with the policy. Where it has an adapter, that alone is trained, and the reference
    shares the frozen weights. Figures are in `policy.last_stats`.
    """
    if policy._learner is None:
        settings = config or LearnerConfig()
        frozen = {id(tensor): tensor for tensor in policy.parameters() if not tensor.requires_grad}
        reference = copy.deepcopy(policy, frozen).requires_grad_(False)
        critic = Scorer.from_decoder(merged(policy), torch.Generator().manual_seed(0))
        with torch.no_grad():
            critic.score.weight.zero_()
        policy._learner = Learner(policy, reference, critic, ALGORITHMS["ppo"](ppo or PPOConfig()), settings, 1, seed=0)
    learner = policy._learner
    rollout = _rollout(policy, prompts, responses, rewards, learner)
    stats = learner.prepare(rollout)
    policy.last_stats = stats | learner.update(rollout, policy._rollouts, stats["sigma"])
    policy._rollouts += 1
    return policy


def _rollout(
    policy: TransformerModel,
    prompts: Sequence[str],
    responses: Sequence[Response],
    rewards: Tensor,
    learner: Learner,
) -> Rollout:
    if not len(prompts) == len(responses) == len(rewards):
        raise InputError(f"{len(prompts)} prompts, {len(responses)} responses and {len(rewards)} rewards do not match.")
    texts = list(dict.fromkeys(prompts))
    place = {text: index for index, text in enumerate(texts)}
    lengths = torch.tensor([len(response.ids) for response in responses])
    logprobs = torch.zeros(len(responses), int(lengths.max()))
    logprobs[length_mask(lengths)] = torch.tensor([value for response in responses for value in response.logprobs])
    rollout = Rollout(
        [encode_prompt(policy.tokenizer, text) for text in texts],
        [response.ids for response in responses],
        [place[prompt] for prompt in prompts],
        torch.tensor([response.finish == "stop" for response in responses]),
        logprobs,
        responses[0].temperature,
    )
    rollout.valid = torch.ones(len(responses), dtype=torch.bool)
    rollout.scores = learner.config.full_reward(
        rewards.float(), rollout.finished, rollout.lengths, int(rollout.lengths.max())
    )
    return rollout


def run(recipe: str | Path | Config | None = None, **overrides: Any) -> dict[str, Any]:
    """`trivium run`: a recipe file (or the quickstart) with `section__field=value` overrides; the summary.

    The report is written beside it.
    """
    from trivium.base.recipe import load_config
    from trivium.report import write_report
    from trivium.stages.pipeline import Recipe, run_pipeline

    if not isinstance(recipe, Recipe):
        flags = [text for key, value in overrides.items() for text in (f"--{key.replace('__', '.')}", str(value))]
        recipe = load_config(Recipe, None if recipe is None else Path(str(recipe)), flags)
    summary = run_pipeline(recipe)
    write_report(recipe.directory)
    return summary
