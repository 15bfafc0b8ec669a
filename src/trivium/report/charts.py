"""Which plots a report shows, and what each is made from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trivium.evaluation.gauge import fit_gain
from trivium.report.plots import Panel, Series, draw_bars, draw_curves
from trivium.report.source import RunData
from trivium.report.values import interval, mapping, number, rows

Rows = list[dict[str, Any]]
MODELS = ("M0", "M1", "M2")


@dataclass(frozen=True)
class Chart:
    """A plot, or the reason why there is none."""

    key: str
    title: str
    caption: str = ""
    svg: str = ""
    missing: str = ""


def pretrain_charts(data: RunData) -> list[Chart]:
    """Training loss, and validation bits per byte of each source."""
    metrics = data.metrics["pretrain"]
    loss = _panel(metrics, "loss, nats per token", {"loss": "loss"})
    sources = sorted({key for row in metrics for key in row if key.startswith("bits_per_byte/")})
    labels = {key: key.removeprefix("bits_per_byte/") for key in sources}
    bits = _panel(metrics, "bits per byte, held-out documents", labels)
    return [
        _curves(
            "pretrain-loss", "Pretraining loss", [loss], data, "pretrain", caption="Next-token loss on training text."
        ),
        _curves(
            "pretrain-bits", "Held-out text", [bits], data, "pretrain",
            caption="Compression of documents never trained on, each source apart; lower is better.",
        ),
    ]  # fmt: skip


def sft_charts(data: RunData) -> list[Chart]:
    """Fine-tuning loss, and pass@1 by execution during training."""
    metrics = data.metrics["sft"]
    loss = _panel(metrics, "loss, nats per response token", {"loss": "training", "val/loss": "held out"})
    passes = _panel(metrics, "pass@1, held-out tasks", {"val/pass_at_1": "pass@1"}, low=0)
    return [
        _curves("sft-loss", "Fine-tuning loss", [loss], data, "sft", caption="Only responses carry loss."),
        _curves(
            "sft-pass", "Tasks solved while fine-tuning", [passes], data, "sft",
            caption="Share of held-out tasks whose tests pass, by running the model's answers.",
        ),
    ]  # fmt: skip


def reward_charts(data: RunData) -> list[Chart]:
    """Accuracy and likelihood of R during training, held out and not, over all rounds; and its calibration."""
    metrics, marks = _joined(data, "reward")
    accuracy = {"heldout/accuracy": "held out", "accuracy": "training"}
    likelihood = {"heldout/nll": "held out", "ranking_nll": "training"}
    panels = [
        _panel(metrics, "accuracy on pairs", accuracy, cuts=marks),
        _panel(metrics, "negative log-likelihood of a pair, nats", likelihood, cuts=marks),
    ]
    caption = "Share of judgements that R's scores agree with; one half is chance."
    if marks:
        caption += " Dotted lines: a new round, which adds pairs of the policy's own answers."
    return [
        _curves("reward-accuracy", "Reward model in training", panels, data, "reward", marks, caption=caption),
        _calibration(data),
    ]


def rl_charts(data: RunData) -> list[Chart]:
    """R's score against the tests' verdict, divergence and entropy, the gauge, the updates, the held-out utility."""
    metrics, marks = _joined(data, "rl")
    sources = sorted({key.removeprefix("reward/") for row in metrics for key in row if key.startswith("reward/")})
    sources = [name for name in sources if name not in ("mean", "std")]
    learned = sources in ([], ["model"])
    name = "R's score" if learned else "The reward"
    maximised = "R's mean score, which PPO raises" if learned else f"what PPO raises: {' + '.join(sources)}"
    gold = _panel(metrics, "pass rate of these answers, only measured", {"gold/mean": "gold"})
    hacks = _panel(metrics, "share of paid answers that fail hidden tests", {"hack/rate": "hacks"}, low=0)
    distance = [
        _panel(metrics, "KL to M1, nats per answer", {"kl/sequence": "KL"}, low=0),
        _panel(metrics, "entropy, nats per token", {"surprisal": "entropy"}, low=0),
    ]
    updates = [
        _panel(metrics, "share of clipped ratios", {"clipfrac": "clipped"}, low=0),
        _panel(metrics, "variance of returns that the critic explains", {"explained_variance": "explained"}),
        _panel(metrics, "length of answers, tokens", {"length/mean": "mean"}, low=0),
    ]
    rounds = " Dotted lines: a new round, R refreshed" if marks else ""
    scale = f"{rounds} and its scale with it." if marks else ""
    proxy = _panel(metrics, maximised, {"reward/mean": "reward"}, cuts=marks)
    return [
        _curves(
            "rl-gold", f"{name} and the truth", [proxy, gold, hacks], data, "rl", marks,
            caption="Where it rises and the pass rate falls, the policy exploits it." + scale,
        ),
        _curves(
            "rl-divergence", "Distance from M1 and entropy", distance, data, "rl", marks,
            caption="How far the policy has moved, and how much choice it has left." + (rounds and rounds + "."),
        ),
        _gauge(data),
        _held_out_utility(data, metrics, marks),
        _curves(
            "rl-updates", "Updates", updates, data, "rl", marks,
            caption="Few ratios are clipped while steps are small; a critic below 0 is worse than a constant.",
        ),
    ]  # fmt: skip


def pass_chart(data: RunData) -> Chart:
    """pass@1 of the three models with intervals, and pass@10."""
    title = "Held-out tasks solved"
    models = mapping(data.summary.get("models"))
    bars: dict[str, list[tuple[float, float, float]]] = {"pass@1": [], "pass@10": []}
    for figures in (mapping(models.get(model)) for model in MODELS):
        share = _value(figures, "pass_at_1")
        low, high = interval(figures.get("pass_at_1_ci")) or (math.nan, math.nan)
        bars["pass@1"].append((share, max(0.0, share - low), max(0.0, high - share)))
        bars["pass@10"].append((_value(figures, "pass_at_10"), math.nan, math.nan))
    drawn = {label: values for label, values in bars.items() if any(math.isfinite(bar[0]) for bar in values)}
    if not drawn:
        return Chart("pass", title, missing=data.problems.get("summary.json", "summary.json holds no pass@1"))
    caption = "Share of tasks whose tests pass: the first sampled answer (95% interval), and any of ten."
    return Chart("pass", title, caption, draw_bars("pass", MODELS, drawn, "share of tasks"))


def utility_chart(data: RunData) -> Chart:
    """U and its weighted parts for M0, M1 and M2."""
    title = "Utility and its parts"
    last = last_utility(data)
    parts = (("α·L_SFT", "alpha", "sft"), ("β·L_R", "beta", "reward"), ("γ·Ω", "gamma", "omega"))
    bars: dict[str, list[tuple[float, float, float]]] = {label: [] for label, _, _ in parts} | {"U": []}
    for row in last.values():
        for label, weight, term in parts:
            error = abs(_value(row, weight)) * _value(row, f"{term}_se")
            bars[label].append((_value(row, weight) * _value(row, term), error, error))
        bars["U"].append((_value(row, "total"), _value(row, "total_se"), _value(row, "total_se")))
    if all(math.isnan(bar[0]) for values in bars.values() for bar in values):
        return Chart("utility", title, missing=data.problems.get("utility.jsonl", "utility.jsonl holds no terms"))
    caption = "U = α·L_SFT + β·L_R + γ·Ω, each part weighted, with standard errors; lower is better."
    return Chart("utility", title, caption, draw_bars("utility", list(last), bars, "nats, weighted"))


def last_utility(data: RunData) -> dict[str, dict[str, Any]]:
    """The newest row of utility.jsonl for each model."""
    found = {str(row.get("model")): row for row in data.utility}
    return {model: found[model] for model in MODELS if model in found}


def _calibration(data: RunData) -> Chart:
    title = "Calibration of the reward model"
    bins = rows(data.reward_model.get("calibration"))
    points = Series("bins", [_value(row, "predicted") for row in bins], [_value(row, "observed") for row in bins])
    if not any(math.isfinite(x) and math.isfinite(y) for x, y in zip(points.x, points.y, strict=True)):
        reason = data.problems.get("R/rm.json", "R/rm.json holds no calibration")
        return Chart("reward-calibration", title, missing=reason)
    panel = Panel("observed share", [points], low=-0.03, high=1.03, diagonal=True)
    caption = "How often the answer that R prefers was preferred, against the probability that R gave it."
    return Chart("reward-calibration", title, caption, draw_curves("calibration", [panel], "predicted probability"))


def _gauge(data: RunData) -> Chart:
    """Proxy and gold against √KL; R's scale changes with each round, so only the pass rate is fitted over all."""
    title = "Gauge: gain against distance"
    proxies, distance, gold = [], [], []
    rounds = data.rounds("rl")
    for each in rounds:
        moved = [_distance(row) for row in each.metrics]
        label = f"round {each.number}" if len(rounds) > 1 else "R"
        proxies.append(Series(label, moved, [_value(row, "reward/mean") for row in each.metrics], points=True))
        distance += moved
        gold += [_value(row, "gold/mean") for row in each.metrics]
    series, told = [Series("pass rate", distance, gold, points=True)], ""
    fit = fit_gain(distance, gold)
    if fit is not None:
        reach = max(d for d, y in zip(distance, gold, strict=True) if math.isfinite(d) and math.isfinite(y))
        curve = [reach * index / 60 for index in range(61)]
        series.append(Series("fit d·(a − b·ln d)", curve, [fit.at(d) for d in curve]))
        inside = fit.peak is not None and fit.peak < reach
        told = f" The fit is highest at {fit.peak:.2f}." if inside else " The fit has no peak within what was reached."
    panels = [Panel("R's mean score (proxy)", proxies), Panel("pass rate (gold)", series)]
    panels = [panel for panel in panels if any(_drawable(series) for series in panel.series)]
    if not panels:
        return Chart("rl-gauge", title, missing=_reason(data, "rl", "kl/sequence"))
    caption = "A pass rate that bends down while R's score still climbs is over-optimisation." + told
    return Chart("rl-gauge", title, caption, draw_curves("gauge", panels, "d = √KL to M1"))


def _distance(row: dict[str, Any]) -> float:
    """√KL; the estimate of a KL near 0 may fall below it."""
    kl = _value(row, "kl/sequence")
    return math.nan if math.isnan(kl) else math.sqrt(max(0.0, kl))


def _drawable(series: Series) -> bool:
    return any(math.isfinite(x) and math.isfinite(y) for x, y in zip(series.x, series.y, strict=True))


def _held_out_utility(data: RunData, metrics: Rows, marks: list[float]) -> Chart:
    labels = {"utility/total": "U", "utility/sft": "L_SFT", "utility/reward": "L_R", "utility/omega": "Ω"}
    panel = _panel(metrics, "held-out utility and its terms", labels, cuts=marks)
    caption = "The terms unweighted; lower is better."
    if marks:
        caption += " L_R, and U with it, is in each round's own units of R."
    return _curves("rl-utility", "Utility while PPO runs", [panel], data, "rl", marks, caption=caption)


def _curves(
    key: str, title: str, panels: list[Panel], data: RunData, stage: str, marks: Sequence[float] = (), *, caption: str
) -> Chart:
    drawn = [panel for panel in panels if panel.series]
    if not drawn:
        return Chart(key, title, missing=_reason(data, stage, title.lower()))
    return Chart(key, title, caption, draw_curves(key, drawn, "step", marks))


def _reason(data: RunData, stage: str, what: str) -> str:
    name = f"{stage}/metrics.jsonl"
    return data.problems.get(name, f"{name} holds no values for it ({what})")


def _panel(
    metrics: Rows, title: str, labels: dict[str, str], low: float | None = None, cuts: Sequence[float] = ()
) -> Panel:
    """A series for each key that has a value in some row."""
    series = []
    for key, label in labels.items():
        points = [(_value(row, "step"), _value(row, key)) for row in metrics]
        points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        if points:
            series.append(Series(label, [x for x, _ in points], [y for _, y in points]))
    return Panel(title, series, low=low, cuts=cuts)


def _joined(data: RunData, stage: str) -> tuple[Rows, list[float]]:
    """All rounds' rows with steps that go on from round to round, and where rounds meet."""
    joined: Rows = []
    marks: list[float] = []
    for each in data.rounds(stage):
        known = [row for row in each.metrics if number(row.get("step")) is not None]
        if not known:
            continue
        end = _value(joined[-1], "step") if joined else 0.0
        # RL counts its steps through; training of R starts anew each round.
        offset = end if joined and known[0]["step"] <= end else 0.0
        if joined:
            marks.append((end + known[0]["step"] + offset) / 2)
        joined += [row | {"step": row["step"] + offset} for row in known]
    return joined, marks


def _value(row: Any, key: str) -> float:
    found = number(mapping(row).get(key))
    return math.nan if found is None else found
