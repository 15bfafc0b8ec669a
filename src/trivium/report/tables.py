"""The report's tables and its opening paragraph, as plain strings for the template."""

from collections.abc import Callable
from typing import Any

from trivium.evaluation.gauge import find_alarm, parts_of_round
from trivium.report.charts import MODELS, last_utility
from trivium.report.source import RunData
from trivium.report.values import (
    DASH,
    count,
    decimal,
    duration,
    interval,
    mapping,
    number,
    percent,
    percent_interval,
    scalar,
    short_count,
)

SMALL_DIFFERENCE = 1e-9
"""U must be recomputable from its logged terms to this, relative to its size."""


ALGORITHM_NAMES = {
    "ppo": "PPO",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "dr_grpo": "Dr. GRPO",
    "dapo": "DAPO",
    "reinforce": "REINFORCE++",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "dpo": "DPO",
    "ipo": "IPO",
}
"""As their papers write them."""


def model_table(data: RunData) -> list[dict[str, Any]]:
    """One row per figure: `{"name", "hint", "cells": [{"text", "note"}] for M0, M1, M2}`."""
    models = mapping(data.summary.get("models"))
    figures = [mapping(models.get(model)) for model in MODELS]
    utility = last_utility(data)
    terms = [utility.get(model, {}) for model in MODELS]

    def row(name: str, hint: str, texts: list[str], notes: list[str] | None = None) -> dict[str, Any]:
        cells = [{"text": t, "note": n} for t, n in zip(texts, notes or [""] * len(texts), strict=True)]
        return {"name": name, "hint": hint, "cells": cells}

    def term(name: str, key: str, hint: str, column: str) -> dict[str, Any]:
        errors = [number(values.get(f"{column}_se")) for values in terms]
        notes = ["" if error is None else f"± {decimal(error)}" for error in errors]
        return row(name, hint, [decimal(model.get(key)) for model in figures], notes)

    table = [
        row(
            "pass@1", "first sampled answer solves the task; 95% interval below; higher is better",
            [percent(model.get("pass_at_1")) for model in figures],
            [percent_interval(model.get("pass_at_1_ci")) for model in figures],
        ),
        row("pass@10", "one of ten does", [percent(model.get("pass_at_10")) for model in figures]),
        row("greedy pass@1", "the likeliest answer does", [percent(m.get("greedy_pass_at_1")) for m in figures]),
        row("bits per byte", "held-out text; lower is better", [decimal(m.get("bits_per_byte")) for m in figures]),
        term("L_SFT", "L_SFT", "loss per response token, held-out answers; lower is better", "sft"),
        term("L_R", "L_R", "minus the mean normalised reward; lower is better", "reward"),
        term("Ω", "omega", "KL to M1 per answer, nats", "omega"),
        term("U", "U", "α·L_SFT + β·L_R + γ·Ω; lower is better", "total"),
        row("parameters", "", [short_count(model.get("parameters")) for model in figures]),
        row("training time", "", [duration(model.get("train_seconds")) for model in figures]),
        row("tokens", "seen or sampled in training", [short_count(model.get("tokens")) for model in figures]),
    ]  # fmt: skip
    return [line for line in table if any(cell["text"] != DASH for cell in line["cells"])]


def reward_model_table(data: RunData) -> list[tuple[str, str]]:
    """Name and figure, rm.json first and the summary where that is silent."""
    figures = {**mapping(data.summary.get("reward_model")), **data.reward_model}
    train = mapping(figures.get("train"))
    accuracy = percent(figures.get("accuracy"))
    if ends := percent_interval(figures.get("accuracy_ci")):
        accuracy += f" ({ends})"
    table = [
        ("accuracy on held-out pairs (95% interval)", accuracy),
        ("pairs, training", count(figures.get("pairs_train"))),
        ("pairs, held out", count(figures.get("pairs_heldout"))),
        ("accuracy on pairs of training", percent(train.get("accuracy"))),
        ("negative log-likelihood of a pair, nats: held out", decimal(figures.get("nll"))),
        ("the same in training", decimal(train.get("nll"))),
        ("expected calibration error", decimal(figures.get("ece"))),
        ("Brier score", decimal(figures.get("brier"))),
        *_bias_rows(figures),
        *_ensemble_rows(mapping(figures.get("ensemble"))),
        *(
            (f"prefers a good answer to the same one {name.replace('_', ' ')}", percent(mapping(each).get("accuracy")))
            for name, each in mapping(figures.get("probes")).items()
        ),
        *(
            (f"agreement with annotator {name}", percent(mapping(each).get("accuracy")))
            for name, each in mapping(figures.get("annotators")).items()
            if len(mapping(figures.get("annotators"))) > 1
        ),
        ("mean of raw scores on M1's answers, frozen", decimal(figures.get("mean"))),
        ("standard deviation of the same", decimal(figures.get("std"))),
    ]
    return [(name, text) for name, text in table if text != DASH]


SOURCE_HINTS = {
    "execution": "what the tests showed",
    "human": "people, on the labelling page",
    "simulated": "a simulated annotator",
    "": "imported without a source",
}
"""What the sources are that the program itself names."""
SHOWN_ANNOTATORS = 8


def label_table(data: RunData) -> list[dict[str, str]]:
    """One row a source of the labels that R learned from, the largest first; empty where the run does not say."""
    figures = {**mapping(data.summary.get("reward_model")), **data.reward_model}
    labels, heldout = mapping(figures.get("labels")), mapping(figures.get("sources"))
    table = []
    for source in sorted(labels, key=lambda name: -(number(mapping(labels[name]).get("judgements")) or 0)):
        part, measured = mapping(labels[source]), mapping(heldout.get(source))
        table.append(
            {
                "source": source or DASH,
                "hint": "a chat model" if source.startswith("ai:") else SOURCE_HINTS.get(source, ""),
                "annotators": _annotators(mapping(part.get("annotators"))),
                "judgements": count(part.get("judgements")),
                "pairs_train": count(part.get("pairs_train")),
                "pairs_heldout": count(measured.get("pairs")),
                "accuracy": percent(measured.get("accuracy")),
                "accuracy_ci": percent_interval(measured.get("accuracy_ci")),
            }
        )
    return table


def _annotators(judgements: dict[str, Any]) -> str:
    """Names with the number of their judgements, the busiest first; beyond a few only how many there are."""
    order = sorted(judgements, key=lambda name: (-(number(judgements[name]) or 0), name))
    told = [f"{name or 'not named'} ({count(judgements[name])})" for name in order[:SHOWN_ANNOTATORS]]
    return (
        ", ".join(told + ([f"{len(order) - SHOWN_ANNOTATORS} more"] if len(order) > SHOWN_ANNOTATORS else [])) or DASH
    )


def _bias_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What else could explain R's choices: length, and marks of form."""
    length = mapping(figures.get("length"))
    return [
        ("accuracy of “the longer one wins”", percent(length.get("longer_wins_accuracy"))),
        ("how often R prefers the longer one", percent(length.get("longer_preferred"))),
        ("correlation of score and length", decimal(length.get("corr"), 2)),
        *(
            (f"accuracy where the better answer is {name}", percent(mapping(each).get("accuracy")))
            for name, each in mapping(length.get("by_gap")).items()
        ),
        *(
            (
                f"how often R prefers the one with a {name.replace('_', ' ')} (how often that is judged better)",
                f"{percent(mapping(each).get('preferred'))} ({percent(mapping(each).get('judged'))})",
            )
            for name, each in mapping(figures.get("format")).items()
        ),
    ]


def _ensemble_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    accuracies = figures.get("accuracy")
    each = [percent(value) for value in accuracies] if isinstance(accuracies, list) else []
    how = str(figures.get("aggregate", "")).replace("_", " ")
    return [
        ("members, and how they are combined", f"{count(figures.get('members'))}, {how}" if how else DASH),
        ("accuracy of each member", ", ".join(each) or DASH),
        ("disagreement of members on held-out answers, in units of R̄", decimal(figures.get("disagreement"))),
        ("pairs on which members are not of one mind", percent(figures.get("divided"))),
    ]


def rounds_table(data: RunData) -> list[dict[str, str]]:
    """One row a round: what was compared, how good R was, and what RL made of it. Empty without any round."""
    stages = {stage: {each.number: each for each in data.rounds(stage)} for stage in ("collect", "reward", "rl")}
    table = []
    for index in sorted(set().union(*stages.values())):
        collected, reward, rl = (stages[stage].get(index) for stage in ("collect", "reward", "rl"))
        figures = reward.result if reward else {}
        parts = parts_of_round(rl.metrics) if rl else []
        kl = [value for row in (rl.metrics if rl else []) if (value := number(row.get("kl/sequence"))) is not None]
        table.append(
            {
                "round": str(index),
                "passing": percent(collected.result.get("passing")) if collected else DASH,
                "pairs": count(figures.get("pairs_train")),
                "accuracy": percent(figures.get("accuracy")),
                "accuracy_ci": percent_interval(figures.get("accuracy_ci")),
                "steps": f"{parts[0].first_step}–{parts[-1].last_step}" if parts else DASH,
                "proxy": _from_to(parts[0].proxy, parts[-1].proxy, decimal) if parts else DASH,
                "gold": _from_to(parts[0].gold, parts[-1].gold, percent) if parts else DASH,
                "kl": decimal(kl[-1]) if kl else DASH,
            }
        )
    return table


def alarms(data: RunData) -> list[str]:
    """Rounds of RL in which the pass rate fell while R's score rose, each in a sentence."""
    told = []
    for each in data.rounds("rl"):
        alarm = find_alarm(each.metrics)
        if alarm is not None:
            told.append(
                f"over-optimisation in round {each.number}: from steps {alarm.before.first_step}–"
                f"{alarm.before.last_step} to {alarm.after.first_step}–{alarm.after.last_step} the pass rate fell by "
                f"{100 * alarm.fall:.1f} points (standard error {100 * alarm.error:.1f}) while R's score rose"
            )
    return told


def _from_to(before: float | None, after: float | None, shown: Callable[[Any], str]) -> str:
    return DASH if before is None and after is None else f"{shown(before)} → {shown(after)}"


def story(data: RunData) -> list[str]:
    """What happened, in a few sentences that only say what the run directory shows."""
    models = {model: mapping(mapping(data.summary.get("models")).get(model)) for model in MODELS}
    sentences = [_pretraining(models["M0"]), _fine_tuning(models), _rewarding(data), _reinforcement(data, models)]
    wall = number(data.summary.get("wall_seconds"))
    sentences.append("" if wall is None else f"All of it took {duration(wall)}.")
    told = [sentence for sentence in sentences if sentence]
    unfinished = [name for name, manifest in data.manifests.items() if manifest.get("status") != "done"]
    if unfinished:
        told.append(f"Not finished: {', '.join(unfinished)}.")
    return told or ["This run has no results yet."]


def warnings(data: RunData) -> list[tuple[str, str]]:
    """(where, what) of everything that weakens the results, as recorded, and of files that cannot be read."""
    found = []
    for stage, manifest in data.manifests.items():
        recorded = [manifest.get("warnings"), mapping(manifest.get("result")).get("warnings")]
        texts = [text for part in recorded if isinstance(part, list) for text in part]
        found += [(stage, scalar(text)) for text in dict.fromkeys(map(scalar, texts))]
    found += [("rl", alarm) for alarm in alarms(data)]
    found += [("report", reason) for name, reason in data.problems.items() if _is_untold(data, name, reason)]
    for model, row in last_utility(data).items():
        parts = [number(row.get(key)) for key in ("alpha", "sft", "beta", "reward", "gamma", "omega", "total")]
        if None in parts:
            continue
        alpha, sft, beta, reward, gamma, omega, total = (part for part in parts if part is not None)
        if abs(alpha * sft + beta * reward + gamma * omega - total) > SMALL_DIFFERENCE * max(1.0, abs(total)):
            found.append(("report", f"U of {model} in utility.jsonl is not the sum of its weighted terms"))
    return found


def _is_untold(data: RunData, name: str, reason: str) -> bool:
    """Sections name the files that they lack, but where other rounds fill a section, none would tell."""
    stage = name.removesuffix("/metrics.jsonl").split("-")[0]
    others = stage in ("reward", "rl") and any(each.metrics for each in data.rounds(stage))
    return others or not reason.endswith("is missing")


def stage_table(data: RunData) -> list[dict[str, Any]]:
    """The lineage: for each stage a line, and everything its manifest records."""
    table = []
    for name, manifest in data.manifests.items():
        details = [(key, scalar(manifest.get(key))) for key in ("started", "finished", "resumes", "code")]
        for group in ("inputs", "outputs", "versions", "machine", "result"):
            values = mapping(manifest.get(group)).items()
            details += [(f"{group}.{key}", scalar(value)) for key, value in values if not isinstance(value, dict)]
        table.append(
            {
                "name": name,
                "status": scalar(manifest.get("status")),
                "parents": scalar(manifest.get("parents") or None),
                "seconds": duration(manifest.get("wall_seconds")),
                "seed": scalar(manifest.get("seed")),
                "fingerprint": scalar(manifest.get("fingerprint")),
                "details": details,
            }
        )
    return table


def answer_rows(data: RunData) -> list[dict[str, Any]]:
    """`{"id", "prompt", "answers": [{"model", "text", "verdict"}]}`, verdict `passed`, `failed` or `not run`."""
    table = []
    for row in data.answers:
        answers = {model: mapping(answer) for model, answer in mapping(row.get("answers")).items()}
        known = [*(model for model in MODELS if model in answers), *(model for model in answers if model not in MODELS)]
        shown = [
            {
                "model": model,
                "text": scalar(answers[model].get("text", "")),
                "verdict": _verdict(answers[model].get("passed")),
            }
            for model in known
        ]
        table.append({"id": scalar(row.get("task_id")), "prompt": scalar(row.get("prompt")), "answers": shown})
    return table


def verdict_counts(answers: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """(model, answers passed, answers) over all rows, so that a glance at the first few does not mislead."""
    counts: dict[str, list[int]] = {}
    for row in answers:
        for answer in row["answers"]:
            tally = counts.setdefault(answer["model"], [0, 0])
            tally[0] += answer["verdict"] == "passed"
            tally[1] += 1
    return [(model, passed, total) for model, (passed, total) in counts.items()]


def summary_rows(data: RunData) -> list[tuple[str, str]]:
    """Figures of the RL stage in the summary, as name and text."""
    rl = mapping(data.summary.get("rl"))
    return [(key.replace("_", " "), scalar(value)) for key, value in rl.items() if not isinstance(value, dict)]


def _verdict(passed: Any) -> str:
    return "passed" if passed is True else "failed" if passed is False else "not run"


def _pretraining(model: dict[str, Any]) -> str:
    known = [
        ("with {} parameters", short_count, "parameters"),
        ("was pretrained on {} tokens", short_count, "tokens"),
        ("in {}", duration, "train_seconds"),
        ("and compresses held-out text to {} bits per byte", lambda value: decimal(value, 2), "bits_per_byte"),
    ]
    parts = [text.format(show(model[key])) for text, show, key in known if number(model.get(key)) is not None]
    return f"M0 {' '.join(parts)}." if parts else ""


def _fine_tuning(models: dict[str, dict[str, Any]]) -> str:
    after, before = models["M1"].get("pass_at_1"), models["M0"].get("pass_at_1")
    if number(after) is None:
        return ""
    compared = f", where M0 solved {percent(before)}" if number(before) is not None else ""
    return f"Fine-tuning made M1, whose first answer solves {percent(after)} of the held-out tasks{compared}."


def _rewarding(data: RunData) -> str:
    figures = {**mapping(data.summary.get("reward_model")), **data.reward_model}
    if number(figures.get("accuracy")) is None:
        return ""
    pairs = number(figures.get("pairs_train"))
    learned = "" if pairs is None else f", learned from {count(pairs)} pairs,"
    return f"The reward model{learned} agrees with {percent(figures['accuracy'])} of held-out judgements."


def _reinforcement(data: RunData, models: dict[str, dict[str, Any]]) -> str:
    after, before = number(models["M2"].get("pass_at_1")), number(models["M1"].get("pass_at_1"))
    if after is None:
        return ""
    rl = mapping(data.summary.get("rl"))
    algorithm = scalar(rl.get("algorithm") or "reinforcement learning")
    algorithm = ALGORITHM_NAMES.get(algorithm, algorithm)
    steps = f" in {count(rl.get('steps'))} steps" if number(rl.get("steps")) is not None else ""
    if (rounds := number(rl.get("rounds"))) is not None and rounds > 1:
        steps += f" over {count(rounds)} rounds"
    text = f"{algorithm} made M2{steps}: {percent(after)}"
    if before is not None:
        text += f", {abs(100 * (after - before)):.1f} points {'more' if after >= before else 'fewer'} than M1"
        text += _overlap(models)
    kl = number(rl.get("kl"))
    return text + (f", at a KL of {decimal(kl, 2)} nats per answer from it." if kl is not None else ".")


def _overlap(models: dict[str, dict[str, Any]]) -> str:
    first, second = interval(models["M1"].get("pass_at_1_ci")), interval(models["M2"].get("pass_at_1_ci"))
    if first is None or second is None:
        return ""
    apart = first[1] < second[0] or second[1] < first[0]
    return " (the 95% intervals do not overlap)" if apart else " (the 95% intervals overlap)"
