"""What the reward model learns from: the store's comparisons as token ids, in training and held out."""

import math
from collections.abc import Sequence
from dataclasses import replace

from trivium.base.errors import DataError
from trivium.base.seeding import python_rng
from trivium.preferences.judgement import Judgement, Sample
from trivium.preferences.pairs import RankedPrompt, ranked_from_store, ranked_prompts
from trivium.preferences.store import PreferenceStore
from trivium.rewards.learning import RankedTokens
from trivium.runs import StageDir
from trivium.stages.judging import encode_answer, encode_prompt
from trivium.stages.reward_config import RewardConfig
from trivium.stages.stage import Context, note
from trivium.tokenizer import Tokenizer


def tokenise(groups: Sequence[RankedPrompt], tokenizer: Tokenizer, seq_len: int) -> tuple[list[RankedTokens], int]:
    """Groups as ids: sampled ids as drawn, imported text encoded and ended; and how many prompts were cut.

    Too long a prompt loses its beginning, never a compared answer; a group with an answer that leaves no room
    for any prompt is dropped (and counted as cut).
    """
    result, cut = [], 0
    for group in groups:
        completions = [_ids(sample, tokenizer) for sample in group.completions]
        if (largest := max(map(max, completions))) >= tokenizer.vocab_size:
            raise DataError(
                f"an answer to {group.prompt[:40]!r} has the token id {largest}, but M1 knows {tokenizer.vocab_size}. "
                "Leave the ids out: the text is enough."
            )
        prompt = encode_prompt(tokenizer, group.prompt)
        room = seq_len - max(map(len, completions))
        if room < len(prompt):
            cut += 1
            if room < 2:
                continue
            prompt = prompt[:1] + prompt[len(prompt) - room + 1 :]
        outcomes = [math.nan if label is None else float(label) for label in group.labels]
        result.append(
            RankedTokens(
                prompt,
                completions,
                list(group.tiers),
                outcomes,
                name=f"prompt {group.id}",
                source=group.source,
                weight=group.weight,
                margin=group.margin or 0.0,
            )
        )
    return result, cut


def _ids(sample: Sample, tokenizer: Tokenizer) -> list[int]:
    return encode_answer(tokenizer, sample.text, sample.ids)


def training_groups(
    context: Context, config: RewardConfig, stage: StageDir, tokenizer: Tokenizer, round: int
) -> tuple[list[RankedTokens], list[RankedTokens]]:
    """The groups of a round to train on, those replayed included, and all held-out ones so far.

    Raises:
        DataError: there is nothing to train on.
    """
    with PreferenceStore(context.run.preferences_path, create=False) as store:
        train = _ranked(context, config, store, round)
        for earlier in range(round):
            old = _ranked(context, config, store, earlier)
            order = python_rng(context.seed, "replay", round, earlier).sample(range(len(old)), len(old))
            train += [old[index] for index in order[: config.replay]]
        ties = config.loss.keeps_ties
        held = [
            group
            for each in range(round + 1)
            for group in ranked_from_store(store, "heldout", round=each, keep_ties=ties)
        ]
    train_ids, cut = tokenise(train, tokenizer, config.seq_len)
    held_ids, _ = tokenise(held, tokenizer, config.seq_len)
    train_ids = [replace(group, weight=group.weight * source_weight(config, group.source)) for group in train_ids]
    if absent := sorted(set(config.source_weights) - {group.source for group in train_ids}):
        note(stage, f"reward.source_weights names {', '.join(absent)}, of which there is no comparison to train on")
    if cut:
        note(stage, f"{cut} of {len(train)} training prompts were longer than reward.seq_len and lost their beginning")
    if not any(group.pairs for group in train):
        raise DataError(
            "there is no comparison to train on: no prompt has both a better and a worse answer. Collect more, or "
            "import pairs."
        )
    if not train_ids:
        raise DataError(
            f"each of the {len(train)} prompts to train on has an answer that fills reward.seq_len = {config.seq_len}. "
            "Raise it."
        )
    return train_ids, held_ids


def heldout_by_annotator(
    context: Context, config: RewardConfig, tokenizer: Tokenizer, round: int
) -> dict[str, list[RankedTokens]]:
    """The held-out groups so far by who judged: what each annotator said alone."""
    judged: dict[str, list[Judgement]] = {}
    with PreferenceStore(context.run.preferences_path, create=False) as store:
        for each in range(round + 1):
            for stored in store.training_judgements("heldout", round=each):
                judged.setdefault(stored.judgement.annotator, []).append(stored.judgement)
    return {name: tokenise(ranked_prompts(own), tokenizer, config.seq_len)[0] for name, own in judged.items()}


def source_weight(config: RewardConfig, source: str) -> float:
    """How much a comparison of a source counts in the ranking term."""
    return float(config.source_weights.get(source, 1.0))


def _ranked(context: Context, config: RewardConfig, store: PreferenceStore, round: int) -> list[RankedPrompt]:
    return ranked_from_store(
        store,
        "train",
        round=round,
        max_completions=config.max_completions,
        seed=context.seed,
        keep_ties=config.loss.keeps_ties,
    )
