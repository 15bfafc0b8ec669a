"""Reinforcement learning against the reward: the artifact is M2 (or the policy of a round)."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trivium.base.config import MOST
from trivium.base.errors import NumericalFault, StageFailed
from trivium.base.fingerprint import fingerprint_path
from trivium.base.log import say
from trivium.data.drops import Drops
from trivium.data.examples import ExampleLoader
from trivium.evaluation.utility import measure_utility
from trivium.model import Scorer
from trivium.optim import OptimConfig
from trivium.records import Task
from trivium.rewards import RewardModel
from trivium.rl import ALGORITHMS
from trivium.rl.checks import check_first_update, check_reference, check_responses, check_whitening, weights_print
from trivium.rl.cispo import CISPOConfig
from trivium.rl.dapo import DAPOConfig
from trivium.rl.departures import departures
from trivium.rl.dr_grpo import DrGRPOConfig
from trivium.rl.grpo import GRPOConfig
from trivium.rl.gspo import GSPOConfig
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.ppo import PPOConfig
from trivium.rl.reinforce import ReinforceConfig
from trivium.rl.rloo import RLOOConfig
from trivium.rl.rollout import Rollout, sample_rollout
from trivium.runs import MetricsLog, StageDir
from trivium.sandbox import Sandbox
from trivium.stages.artifacts import save_artifact
from trivium.stages.confinement import SandboxConfig, open_sandbox
from trivium.stages.judging import encode_prompt
from trivium.stages.sft import SFTConfig, split_examples
from trivium.stages.stage import Context, note, perform
from trivium.stages.tasks import TaskConfig
from trivium.tasks.check import check_completions
from trivium.tasks.extract import extract_completion
from trivium.tokenizer import Tokenizer
from trivium.training import Loop, LoopConfig
from trivium.training.checkpoint import Checkpoint, load_weights, pack, unpack


class RLConfig(LoopConfig):
    """How M2 is trained."""

    algorithm: Literal["ppo", "rloo", "grpo", "dr_grpo", "dapo", "reinforce", "gspo", "cispo"] = "ppo"
    """The algorithm; its switches are in the section of its name. Only `ppo` has a critic."""
    reward: Literal["model", "execution"] = "model"
    """What is maximised: R, or the tests' verdict (+1 and -1). With `model` the tests only measure."""
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
    gold_responses: int = Field(default=32, ge=0)
    """Responses of each rollout whose tests are run, to compare proxy and gold; they never enter the reward."""
    eval_every: int = Field(default=10, ge=1)
    """Steps between measurements of U on held-out prompts."""
    eval_tasks: int = Field(default=64, ge=2)
    """Held-out prompts of them, one response each."""
    keep: Literal["last", "lowest_u"] = "last"
    """Which weights are handed on: the last, or those of lowest U on held-out prompts."""
    max_kl: float | None = Field(default=None, gt=0)
    """End the round when the KL to M1 per response, in nats, exceeds this; unset never does."""
    checkpoint_every: int = Field(default=8, ge=1)
    """Steps between checkpoints."""

    @model_validator(mode="after")
    def _minibatches_are_filled(self) -> "RLConfig":
        responses = self.prompts_per_step * self.samples_per_prompt
        if self.learner.minibatches > responses:
            raise ValueError(
                f"learner.minibatches = {self.learner.minibatches} exceeds the {responses} responses of a step "
                "(prompts_per_step × samples_per_prompt). Lower it"
            )
        if self.samples_per_prompt < 2 and self.algorithm not in ("ppo", "reinforce"):
            raise ValueError(
                f"samples_per_prompt = 1 leaves {self.algorithm} nothing to compare a response with. Set it to 2"
            )
        return self


def run(
    context: Context,
    config: RLConfig,
    sft: SFTConfig,
    sandbox_config: SandboxConfig,
    *,
    round: int,
    policy: Path,
    reward: Path,
    artifact: Path,
) -> dict[str, Any]:
    """One round of RL, from `policy` against `reward`; the reference is always M1."""
    name = "rl" if round == 0 else f"rl-{round + 1}"
    base = context.run.artifact("M1")

    def body(stage: StageDir) -> tuple[dict[str, Any], list[Any]]:
        inexact = departures(config.algorithm, getattr(config, config.algorithm), config.learner)
        say(f"{name}: the update is -∇U" + (f" but for: {'; '.join(inexact)}" if inexact else " in expectation"))
        with open_sandbox(stage, sandbox_config) as sandbox, MetricsLog(stage.metrics_path) as metrics:
            session = _Session(context, config, sft, stage, metrics, sandbox, round, policy, reward, base)
            result = session.fit() | {"departures": inexact}
        save_artifact(session.policy, session.tokenizer, artifact, "improved by reinforcement learning", result)
        return result, [artifact]

    inputs: dict[str, Path | str] = {"M1": base, "policy": policy, "R": reward} | config.tasks.inputs
    inputs |= {"sft": sft.model_dump_json()}
    return perform(context, name, __name__, config, inputs=inputs, parents=[policy.name, "R", "M1"], body=body)


class _Session:
    """The models, the data and the loop of one round."""

    def __init__(
        self,
        context: Context,
        config: RLConfig,
        sft: SFTConfig,
        stage: StageDir,
        metrics: MetricsLog,
        sandbox: Sandbox,
        round: int,
        policy: Path,
        reward: Path,
        base: Path,
    ):
        self.context, self.config, self.stage, self.sandbox, self.round = context, config, stage, sandbox, round
        self.metrics, self.loop = metrics, Loop(stage, config, metrics, offset=round * config.steps)
        self.tokenizer = Tokenizer.load(policy)
        self.policy, self.reference = context.load_model(policy), context.load_model(base)
        self.reference.requires_grad_(False)
        self.reward = RewardModel.load(reward)
        self.reward.scorer.to(context.device).compute_dtype = context.dtype
        self.reference_print, self.base = fingerprint_path(base), base
        self.reference_weights = weights_print(self.reference)
        algorithm = ALGORITHMS[config.algorithm](getattr(config, config.algorithm))
        critic = self._critic() if algorithm.needs_critic else None
        updates = config.steps * config.learner.epochs * config.learner.minibatches
        self.learner = Learner(
            self.policy, self.reference, critic, algorithm, config.learner, updates, seed=context.seed + round
        )
        self.tasks = config.tasks.load(context.seed, "rl", "train")
        self.held = config.tasks.model_copy(update={"count": config.eval_tasks}).load(
            context.seed, "rl-eval", "heldout"
        )
        train, heldout = split_examples(sft, context.seed, Drops(sft.on_error))
        self.sft = ExampleLoader(train, self.tokenizer, sft.seq_len, config.sft_rows, context.seed, Drops("skip"))
        self.sft_heldout = (
            ExampleLoader(heldout, self.tokenizer, sft.seq_len, 64, context.seed, Drops("skip")) if heldout else None
        )
        self.state: dict[str, Any] = {}
        self.best: dict[str, Tensor] = {}

    def _critic(self) -> Scorer:
        """A copy of R with its normalisation folded into the head, so that it starts as a value estimate.

        The head has no bias, so only the scale is folded; the mean is learned within a few steps.
        """
        critic = Scorer.from_decoder(self.reward.scorer, torch.Generator())
        with torch.no_grad():
            critic.score.weight.mul_(self.config.learner.beta / self.reward.std)
        return critic.to(self.context.device)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Networks, optimisers, controller and figures as they were."""
        learner = self.learner
        load_weights(self.policy, unpack(checkpoint.tensors, "policy"))
        learner.optimizer.load_state_tensors(unpack(checkpoint.tensors, "optimizer"))
        if learner.critic is not None and learner.critic_optimizer is not None:
            load_weights(learner.critic, unpack(checkpoint.tensors, "critic"))
            learner.critic_optimizer.load_state_tensors(unpack(checkpoint.tensors, "critic_optimizer"))
        self.best = unpack(checkpoint.tensors, "best")
        self.state = checkpoint.state["session"]
        learner.controller.load_state_dict(checkpoint.state["controller"])
        learner.updates = checkpoint.state["updates"]

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `restore` takes. A rollout is whole within a step: one that was under way is drawn again, the same."""
        learner = self.learner
        tensors = pack(
            policy=dict(self.policy.state_dict()), optimizer=learner.optimizer.state_tensors(), best=self.best
        )
        if learner.critic is not None and learner.critic_optimizer is not None:
            tensors |= pack(
                critic=dict(learner.critic.state_dict()), critic_optimizer=learner.critic_optimizer.state_tensors()
            )
        state = {"session": self.state, "controller": learner.controller.state_dict(), "updates": learner.updates}
        return tensors, state

    def fit(self) -> dict[str, Any]:
        """All steps of the round; figures for the manifest."""
        config = self.config
        self.loop.run(self, config.steps)
        if fingerprint_path(self.base) != self.reference_print:
            raise StageFailed(f"the reference {self.base} changed while the stage ran; its results mean nothing.")
        if config.keep == "lowest_u" and self.best:
            self.policy.load_state_dict(self.best)
        return {"algorithm": config.algorithm, "round": self.round, "responses": self._responses()} | self.state

    def step(self, number: int) -> tuple[dict[str, float], bool]:
        """One rollout, its updates and its row of metrics; whether the policy has gone far enough."""
        config, done = self.config, number + 1
        values = self._learn(number) | {"round": self.round}
        kl = values.get("kl/sequence", 0.0)
        ended = config.max_kl is not None and kl > config.max_kl
        if done % config.eval_every == 0 or done == config.steps or ended:
            values |= self._measure(number)
        self.metrics.log(self.loop.offset + done, **values)
        if ended:
            note(self.stage, f"ended at step {done}: KL {kl:.2f} exceeds rl.max_kl")
        shown = {"reward": "reward/mean", "kl": "kl/sequence", "gold": "gold/mean"}
        return {name: values[key] for name, key in shown.items() if key in values}, ended

    def _responses(self) -> int:
        return self.config.steps * self.config.prompts_per_step * self.config.samples_per_prompt

    def _learn(self, step: int) -> dict[str, float]:
        config, seed = self.config, self.context.seed
        overall = self.round * config.steps + step
        first = overall * config.prompts_per_step
        tasks = [self.tasks[(first + index) % len(self.tasks)] for index in range(config.prompts_per_step)]
        rollout = sample_rollout(
            self.policy,
            [encode_prompt(self.tokenizer, task.prompt) for task in tasks],
            [task.id for task in tasks],
            samples_per_prompt=config.samples_per_prompt,
            seed=seed,
            step=overall,
            max_new_tokens=config.max_new_tokens,
            eos_id=self.tokenizer.eos_id,
            temperature=config.temperature,
        )
        values = self._score(rollout, tasks)

        def fault(what: str, responses: Iterable[int]) -> None:
            self.loop.faults.meet(overall + 1, what, [tasks[rollout.prompt_of[index]].id for index in responses])

        try:
            values |= self.learner.prepare(rollout)
        except NumericalFault as error:
            fault(error.what, range(len(rollout.responses)))
            return values | {"skipped": 1.0}
        check_responses(rollout, self.tokenizer.eos_id, self.policy.config.vocab_size)
        if config.algorithm == "reinforce" or (config.algorithm == "ppo" and config.ppo.whiten):
            check_whitening(rollout, values["sigma"])
        values |= self.learner.update(rollout, overall, values["sigma"], self.sft.batch, fault)
        if "policy/skipped" not in values:
            self.loop.faults.good()
        if step == 0 and self.config.learner.importance == "none":
            check_first_update(values, full_precision=self.context.dtype == torch.float32)
        self.state["tokens"] = self.state.get("tokens", 0) + int(rollout.lengths.sum())
        for key in ("reward/mean", "gold/mean", "kl/sequence"):
            if key in values:
                name = key.replace("/", "_")
                self.state.setdefault(f"{name}_first", values[key])
                self.state[f"{name}_last"] = values[key]
        return values

    def _score(self, rollout: Rollout, tasks: list[Task]) -> dict[str, float]:
        config = self.config
        count = len(rollout.responses)
        judged = list(range(count)) if config.reward == "execution" else self._gold_rows(count)
        passed = self._run_tests(rollout, tasks, judged)
        known = {index: verdict for index, verdict in zip(judged, passed, strict=True) if verdict is not None}
        rollout.valid = torch.ones(count, dtype=torch.bool)
        if config.reward == "execution":
            rollout.valid = torch.tensor([index in known for index in range(count)])
            raw = torch.tensor([2.0 * known.get(index, False) - 1.0 for index in range(count)])
        else:
            raw = self.reward.rewards(rollout.prompts, rollout.responses, rollout.prompt_of)
        rollout.parts = {config.reward: raw}
        rollout.scores = config.learner.full_reward(raw, rollout.finished, rollout.lengths, config.max_new_tokens)
        figures = {f"reward/{config.reward}": raw[rollout.valid].mean().item()}
        if known:
            figures["gold/mean"] = sum(known.values()) / len(known)
            figures["gold/n"] = len(known)
        return figures

    def _gold_rows(self, count: int) -> list[int]:
        wanted = min(self.config.gold_responses, count)
        return [index * count // wanted for index in range(wanted)] if wanted else []

    def _run_tests(self, rollout: Rollout, tasks: list[Task], rows: list[int]) -> list[bool | None]:
        owners = [tasks[rollout.prompt_of[row]] for row in rows]
        texts = self.tokenizer.decode_batch([rollout.responses[row] for row in rows])
        programs = [extract_completion(task.prompt, text) for task, text in zip(owners, texts, strict=True)]
        return [outcome.passed for outcome in check_completions(owners, programs, self.sandbox)]

    def _measure(self, step: int) -> dict[str, float]:
        """U and its parts on held-out prompts; the lowest is kept."""
        learner = self.config.learner
        check_reference(self.reference, self.reference_weights)
        measured = measure_utility(
            self.policy,
            self.reference,
            self.reward,
            [encode_prompt(self.tokenizer, task.prompt) for task in self.held],
            [task.id for task in self.held],
            self.sft_heldout,
            alpha=learner.alpha,
            beta=learner.beta,
            gamma=learner.gamma,
            seed=self.context.seed,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            full_reward=learner.full_reward,
        )
        total = measured.row["utility/total"]
        if total < self.state.get("lowest_u", math.inf):
            self.state |= {"lowest_u": total, "lowest_u_step": step + 1}
            if self.config.keep == "lowest_u":
                self.best = {name: tensor.detach().clone() for name, tensor in self.policy.state_dict().items()}
        return measured.row
