"""The training reward of a run: its sources at work, with the statistics that its first round froze."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trivium.base.errors import RunDirError
from trivium.base.files import write_json
from trivium.base.ranks import barrier, is_main
from trivium.model import Decoder
from trivium.records import Task
from trivium.rewards import Answers, Composite, RewardModel, Tools
from trivium.rl.rollout import Rollout
from trivium.runs import RunDir
from trivium.sandbox import Sandbox
from trivium.stages.judging import answer_tasks, encode_prompt
from trivium.stages.rl_config import RLConfig
from trivium.tokenizer import Tokenizer


def statistics_path(run: RunDir) -> Path:
    """Where the first round of RL leaves the statistics of rewards other than R."""
    return run.stage("rl").path / "rewards.json"


def statistics_inputs(run: RunDir, config: RLConfig) -> dict[str, Path | str]:
    """What a stage that measures with the training reward depends on, besides R."""
    path = statistics_path(run)
    frozen = {"reward statistics": path} if path.exists() else {}
    return {"rewards": json.dumps([part.model_dump(mode="json") for part in config.rewards])} | frozen


def open_rewards(config: RLConfig, reward: RewardModel, sandbox: Sandbox, seed: int) -> Composite:
    """All sources of `rl.rewards`, their statistics still to be measured or read."""
    return Composite(config.rewards, Tools(reward, sandbox, seed))


def read_statistics(rewards: Composite, run: RunDir) -> None:
    """Take what the first round froze.

    Raises:
        RunDirError: it is needed and not there, or damaged.
    """
    if not rewards.unmeasured:
        return
    path = statistics_path(run)
    try:
        rewards.freeze(json.loads(path.read_text())["statistics"])
    except OSError as error:
        raise RunDirError(f"{path} cannot be read ({error.strerror}). Run the first round of rl again.") from None
    except (ValueError, KeyError, TypeError):
        raise RunDirError(f"{path} does not hold the rewards' statistics. Run the first round of rl again.") from None


def freeze_statistics(
    rewards: Composite,
    run: RunDir,
    reference: Decoder,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    config: RLConfig,
    seed: int,
) -> None:
    """Measure what is missing on responses of M1, drawn as RL draws them, and keep it; once a run."""
    path = statistics_path(run)
    if not rewards.unmeasured:
        return
    if not path.exists():
        chosen = tasks[: max(1, config.normalise_samples // config.samples_per_prompt)]
        samples = -(-config.normalise_samples // len(chosen))
        drawn = answer_tasks(
            reference,
            tokenizer,
            chosen,
            samples=samples,
            seed=seed,
            purpose="normalise rewards",
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
        )
        answers = Answers(
            chosen,
            [encode_prompt(tokenizer, task.prompt) for task in chosen],
            [answer.sample.ids for answer in drawn],
            [answer.text for answer in drawn],
            [index for index in range(len(chosen)) for _ in range(samples)],
        )
        found: dict[str, Any] = {"statistics": rewards.measure(answers), "responses": len(answers)}
        if is_main():
            write_json(path, found)
        barrier()
    read_statistics(rewards, run)


def rollout_answers(rollout: Rollout, tasks: Sequence[Task], tokenizer: Tokenizer) -> Answers:
    """A rollout's responses as the sources of rewards take them."""
    texts = tokenizer.decode_batch(rollout.responses)
    return Answers(tasks, rollout.prompts, rollout.responses, texts, rollout.prompt_of)
