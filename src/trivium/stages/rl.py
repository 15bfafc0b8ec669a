"""Reinforcement learning against the reward: the artifact is M2 (or the policy of a round)."""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from trivium.base.errors import ConfigError, DataError, NumericalFault, StageFailed
from trivium.base.fingerprint import fingerprint, fingerprint_path
from trivium.base.log import say
from trivium.base.ranks import is_main
from trivium.data.drops import Drops
from trivium.data.examples import ExampleLoader
from trivium.distributed import gathered, shard
from trivium.evaluation.gauge import find_alarm
from trivium.evaluation.utility import measure_utility
from trivium.model import Decoder, Scorer
from trivium.model.lora import add_lora, load_adapter, twin
from trivium.objectives.policy import WeightKind
from trivium.objectives.preference import dpo_beta
from trivium.preferences.pairs import ranked_from_store
from trivium.preferences.store import PreferenceStore
from trivium.records import Task
from trivium.rewards import RewardModel
from trivium.rl import ALGORITHMS
from trivium.rl.checks import check_first_update, check_reference, check_responses, check_whitening, weights_print
from trivium.rl.departures import departures
from trivium.rl.dpo import DPOLearner, draw_pairs
from trivium.rl.learner import Learner
from trivium.rl.rollout import Rollout, sample_rollout
from trivium.runs import MetricsLog, StageDir
from trivium.sandbox import Sandbox
from trivium.stages.artifacts import ADAPTER, save_artifact
from trivium.stages.confinement import SandboxConfig, open_sandbox
from trivium.stages.gold import Gold
from trivium.stages.judging import encode_prompt
from trivium.stages.reward import collected, judged, tokenise
from trivium.stages.rl_config import RLConfig
from trivium.stages.rollouts import distinct_ngrams, write_rollout
from trivium.stages.scoring import freeze_statistics, open_rewards, rollout_answers
from trivium.stages.sft import SFTConfig, split_examples
from trivium.stages.stage import Context, note, perform
from trivium.tokenizer import Tokenizer
from trivium.training import Loop
from trivium.training.checkpoint import Checkpoint, load_weights, pack, trained_weights, unpack
from trivium.training.faults import Level

GAUGE = ("reward/mean", "gold/mean", "gold/n")
"""What the gauge of over-optimisation reads."""
MUTANTS_PAID = 0.1
"""Share of mutants that pass the rewarded tests from which it is worth a warning."""


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
        inexact = departures(config.algorithm, config.switches, config.learner)
        say(f"{name}: the update is -∇U" + (f" but for: {'; '.join(inexact)}" if inexact else " in expectation"))
        with open_sandbox(stage, sandbox_config) as sandbox, MetricsLog(stage.metrics_path) as metrics:
            session = _Session(context, config, sft, stage, metrics, sandbox, round, policy, reward, base)
            result = session.fit() | {"departures": inexact}
        title = "improved by reinforcement learning"
        save_artifact(session.policy, session.tokenizer, artifact, title, result, base.name)
        return result, [artifact]

    inputs: dict[str, Path | str] = {"M1": base, "policy": policy, "R": reward} | config.tasks.inputs
    inputs |= config.reward_inputs
    inputs |= {"sft": sft.model_dump_json()}
    if config.offline:
        inputs |= {"comparisons": collected(context, round), "judgements": judged(context, round)}
    return perform(
        context, name, __name__, config, inputs=inputs, parents=[policy.name, "R", "M1"], together=True, body=body
    )


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
        self.reference = context.load_model(base).requires_grad_(False)
        self.policy = self._adapted(policy) if config.lora.rank else context.load_model(policy)
        self.reward = RewardModel.load(reward)
        context.place(self.reward.scorer)
        self.rewards = open_rewards(config, self.reward, sandbox, context.seed)
        self.gold = Gold(config.rewards, config.gold_responses, self.tokenizer, sandbox)
        self.reference_print, self.base = fingerprint_path(base), base
        self.reference_weights = weights_print(self.reference)
        shard(self.policy)
        self.learner = self._offline_learner() if config.offline else self._learner()
        self.tasks = config.tasks.load(context.seed, "rl", "train")
        freeze_statistics(self.rewards, context.run, self.reference, self.tokenizer, self.tasks, config, context.seed)
        self.mutants = self._try_mutants() if config.tests_rewarded and is_main() else {}
        self.held = config.tasks.model_copy(update={"count": config.eval_tasks}).load(
            context.seed, "rl-eval", "heldout"
        )
        train, heldout = split_examples(sft, context.seed, Drops(sft.on_error))
        self.sft = ExampleLoader(train, self.tokenizer, sft.seq_len, config.sft_rows, context.seed, Drops("skip"))
        self.sft_heldout = (
            ExampleLoader(heldout, self.tokenizer, sft.seq_len, 64, context.seed, Drops("skip")) if heldout else None
        )
        self.state: dict[str, Any] = {}
        self.gauge: list[dict[str, Any]] = []
        """Reward and gold of the round's steps."""
        self.best: dict[str, Tensor] = {}

    def _try_mutants(self) -> dict[str, Any]:
        """How much of what is wrong the rewarded tests let pass."""
        found = self.gold.of_mutants(self.tasks, self.context.seed)
        if found and found["paid"] > MUTANTS_PAID * found["n"]:
            note(
                self.stage,
                f"the rewarded tests let {found['paid']} of {found['n']} mutants of the solutions pass "
                f"({found['passed']} pass all tests): a policy may learn to exploit them",
            )
        return found

    def _adapted(self, policy: Path) -> Decoder:
        """M1 with adapters, on the reference's own tensors; later rounds go on with those of the round before."""
        model = twin(self.reference)
        add_lora(model, self.config.lora, self.context.seed, "rl")
        if self.round:
            load_adapter(model, policy / ADAPTER)
        return model

    @property
    def _updates(self) -> int:
        return self.config.steps * self.config.learner.epochs * self.config.learner.minibatches

    def _learner(self) -> Learner:
        config = self.config
        algorithm = ALGORITHMS[config.algorithm](config.switches)
        critic = self._critic() if algorithm.needs_critic else None
        seed, first = self.context.seed + self.round, self.round * config.steps
        return Learner(self.policy, self.reference, critic, algorithm, config.learner, self._updates, seed, first)

    def _offline_learner(self) -> DPOLearner:
        config, learner = self.config, self.config.learner
        if config.dpo.beta is None and not learner.gamma * learner.beta > 0:
            raise ConfigError(
                f"rl.dpo.beta is unset and rl.learner.gamma = {learner.gamma}, beta = {learner.beta} give none. Set it."
            )
        beta = config.dpo.beta or dpo_beta(learner.gamma, learner.beta, self.reward.std)
        kind = "ipo" if config.algorithm == "ipo" else "sigmoid"
        with PreferenceStore(self.context.run.preferences_path, create=False) as store:
            ranked = [
                group for each in range(self.round + 1) for group in ranked_from_store(store, "train", round=each)
            ]
        self.groups, cut = tokenise(ranked, self.tokenizer, self.policy.config.max_seq_len)
        if not draw_pairs(self.groups, 1, 0, 0):
            raise DataError("there is no comparison to learn from: no prompt has a better and a worse answer.")
        if cut:
            note(self.stage, f"{cut} of {len(ranked)} prompts were longer than the model's context and were cut")
        return DPOLearner(
            self.policy,
            self.reference,
            config.dpo,
            kind,
            learner,
            beta,
            self._updates,
            self.context.seed + self.round,
            config.temperature,
        )

    def _learn_offline(self, learner: DPOLearner, step: int) -> dict[str, float]:
        """One step's comparisons and their updates."""
        pairs = draw_pairs(self.groups, self.config.prompts_per_step, self.context.seed + self.round, step)

        def fault(what: str, rows: Iterable[int]) -> None:
            self.loop.faults.meet(self.loop.offset + step + 1, what, [pairs[row].name for row in rows])

        values = learner.update(pairs, step, self.sft.batch, fault)
        if "policy/skipped" not in values:
            self.loop.faults.good()
        return values

    def _critic(self) -> Scorer:
        """A copy of R with its normalisation folded into the head, so that it starts as a value estimate.

        The head has no bias, so only the scale is folded; the mean is learned within a few steps.
        """
        critic = Scorer.from_decoder(self.reward.scorer, torch.Generator())
        with torch.no_grad():
            critic.score.weight.mul_(self.config.learner.beta / self.reward.std)
        return shard(self.context.place(critic))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Networks, optimisers, controller and figures as they were."""
        learner = self.learner
        load_weights(self.policy, unpack(checkpoint.tensors, "policy"))
        learner.optimizer.load_state_tensors(unpack(checkpoint.tensors, "optimizer"))
        if learner.critic is not None and learner.critic_optimizer is not None:
            load_weights(learner.critic, unpack(checkpoint.tensors, "critic"))
            learner.critic_optimizer.load_state_tensors(unpack(checkpoint.tensors, "critic_optimizer"))
        self.best = unpack(checkpoint.tensors, "best")
        self.state, self.gauge = checkpoint.state["session"], checkpoint.state["gauge"]
        learner.controller.load_state_dict(checkpoint.state["controller"])
        learner.updates = checkpoint.state["updates"]
        learner.levels = {name: Level(value) for name, value in checkpoint.state["levels"].items()}

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `restore` takes. A rollout is whole within a step: one that was under way is drawn again, the same."""
        learner = self.learner
        tensors = pack(policy=trained_weights(self.policy), optimizer=learner.optimizer.state_tensors(), best=self.best)
        if learner.critic is not None and learner.critic_optimizer is not None:
            tensors |= pack(
                critic=trained_weights(learner.critic), critic_optimizer=learner.critic_optimizer.state_tensors()
            )
        state = {
            "session": self.state,
            "gauge": self.gauge,
            "controller": learner.controller.state_dict(),
            "updates": learner.updates,
        }
        return tensors, state | {"levels": {name: level.value for name, level in learner.levels.items()}}

    def fit(self) -> dict[str, Any]:
        """All steps of the round; figures for the manifest."""
        config = self.config
        self.loop.run(self, config.steps)
        if fingerprint_path(self.base) != self.reference_print:
            raise StageFailed(f"the reference {self.base} changed while the stage ran; its results mean nothing.")
        self.policy = gathered(self.policy)
        if self.best:
            load_weights(self.policy, self.best)
        trained = sum(tensor.numel() for tensor in trained_weights(self.policy).values())
        result = {"algorithm": config.algorithm, "round": self.round, "responses": self._responses()}
        prompts = fingerprint([task.prompt for task in self.held])
        result |= {"trained_parameters": trained, "utility_prompts": prompts} | self.state
        return result | ({"mutants": self.mutants} if self.mutants else {})

    def step(self, number: int) -> tuple[dict[str, float], bool]:
        """One rollout, its updates and its row of metrics; whether the policy has gone far enough."""
        config, done, learner = self.config, number + 1, self.learner
        values = (
            self._learn_offline(learner, number) if isinstance(learner, DPOLearner) else self._learn(learner, number)
        )
        values["round"] = self.round
        kl = values.get("kl/sequence", 0.0)
        ended = far = config.max_kl is not None and kl > config.max_kl
        self.gauge.append({"step": self.loop.offset + done} | {key: values[key] for key in GAUGE if key in values})
        if done % config.eval_every == 0 or done == config.steps or ended:
            values |= self._measure(number)
            ended |= self._over_optimised(values)
        self.metrics.log(self.loop.offset + done, **values)
        if far:
            note(self.stage, f"ended at step {done}: KL {kl:.2f} exceeds rl.max_kl")
        shown = {"reward": "reward/mean", "kl": "kl/sequence", "gold": "gold/mean"}
        return {name: values[key] for name, key in shown.items() if key in values}, ended

    def _over_optimised(self, values: dict[str, float]) -> bool:
        """Whether the gauge raises its alarm and the round ends for it; told once a round."""
        alarm = find_alarm(self.gauge)
        values["gauge/alarm"] = float(alarm is not None)
        if alarm is None or "alarm_step" in self.state:
            return alarm is not None and self.config.on_alarm == "stop"
        self.state["alarm_step"] = alarm.after.last_step
        ends = self.config.on_alarm == "stop"
        note(
            self.stage,
            f"over-optimisation: by step {alarm.after.last_step} the pass rate fell by {100 * alarm.fall:.1f} points "
            f"(standard error {100 * alarm.error:.1f}) while the reward rose"
            + ("; the round ends here" if ends else ""),
        )
        return ends

    def _responses(self) -> int:
        return self.config.steps * self.config.prompts_per_step * self.config.samples_per_prompt

    def _learn(self, learner: Learner, step: int) -> dict[str, float]:
        config, seed, began = self.config, self.context.seed, time.perf_counter()
        overall = self.round * config.steps + step
        first = overall * config.prompts_per_step
        tasks = [self.tasks[(first + index) % len(self.tasks)] for index in range(config.prompts_per_step)]
        rollout = sample_rollout(
            gathered(self.policy),
            [encode_prompt(self.tokenizer, task.prompt) for task in tasks],
            [task.id for task in tasks],
            samples_per_prompt=config.samples_per_prompt,
            seed=seed,
            step=overall,
            max_new_tokens=config.max_new_tokens,
            eos_id=self.tokenizer.eos_id,
            temperature=config.temperature,
        )
        rollout.version = learner.updates
        values = self._score(rollout, tasks)

        def fault(what: str, responses: Iterable[int]) -> None:
            self.loop.faults.meet(overall + 1, what, [tasks[rollout.prompt_of[index]].id for index in responses])

        if not rollout.valid.any():
            fault("no response's reward could be had", range(len(rollout.responses)))
            return values | {"skipped": 1.0}
        try:
            values |= learner.prepare(rollout)
        except NumericalFault as error:
            fault(error.what, range(len(rollout.responses)))
            return values | {"skipped": 1.0}
        check_responses(rollout, self.tokenizer.eos_id, self.policy.config.vocab_size)
        whitens = config.algorithm == "reinforce" or (config.algorithm == "ppo" and config.ppo.whiten)
        if whitens and config.learner.importance not in get_args(WeightKind):  # which are multiplied in afterwards
            check_whitening(rollout, values["sigma"])
        values |= learner.update(rollout, overall, values["sigma"], self.sft.batch, fault)
        values["distinct_4"] = distinct_ngrams(rollout.responses)
        if config.save_rollouts and is_main():
            write_rollout(self.stage.samples, overall + 1, rollout, tasks)
        if "policy/skipped" not in values:
            self.loop.faults.good()
        if step == 0 and self.config.learner.importance == "none":
            check_first_update(values, full_precision=self.context.dtype == torch.float32)
        tokens = int(rollout.lengths.sum())
        self.state["tokens"] = self.state.get("tokens", 0) + tokens
        values["tokens_per_second"] = tokens / (time.perf_counter() - began)
        for key in ("reward/mean", "gold/mean", "kl/sequence"):
            if key in values:
                name = key.replace("/", "_")
                self.state.setdefault(f"{name}_first", values[key])
                self.state[f"{name}_last"] = values[key]
        return values

    def _score(self, rollout: Rollout, tasks: list[Task]) -> dict[str, float]:
        config = self.config
        scored = self.rewards.score(rollout_answers(rollout, tasks, self.tokenizer), together=True)
        rollout.valid, rollout.parts = scored.valid, scored.parts
        rollout.scores = config.learner.full_reward(
            scored.rewards, rollout.finished, rollout.lengths, config.max_new_tokens
        )
        figures = {f"reward/{name}": part.nanmean().item() for name, part in scored.parts.items()}
        figures |= self.gold.of_rollout(rollout, tasks)
        return figures

    def _measure(self, step: int) -> dict[str, float]:
        """U and its parts on held-out prompts; the lowest is kept."""
        learner, policy = self.config.learner, gathered(self.policy)
        check_reference(self.reference, self.reference_weights)
        if not is_main():
            return {}
        measured = measure_utility(
            policy,
            self.reference,
            self.rewards,
            self.held,
            [encode_prompt(self.tokenizer, task.prompt) for task in self.held],
            self.sft_heldout,
            alpha=learner.alpha,
            beta=learner.beta,
            gamma=learner.gamma,
            seed=self.context.seed,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            full_reward=learner.full_reward,
        )
        row = measured.row | self.gold.of_samples(self.held, measured.samples)
        for name, key, sign in (("lowest_u", "utility/total", -1.0), ("highest_gold", "heldout/gold", 1.0)):
            if key in row and sign * row[key] > sign * self.state.get(name, -sign * math.inf):
                self.state |= {name: row[key], f"{name}_step": step + 1}
                if self.config.keep == name:
                    self.best = {each: tensor.clone() for each, tensor in trained_weights(policy).items()}
        return row
