"""Curves and bars as inline SVG that takes its colours from the page, so that one drawing serves light and dark."""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib cannot write CSS variables, so each role has a colour that nothing else uses, replaced afterwards.
ROLES = {"ink": "#010203", "faint": "#010204"} | {
    f"series-{index}": f"#0102{0x10 + index:02x}" for index in range(1, 7)
}
DASHES: Sequence[Any] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1)), (0, (8, 3)))
MARKERS = "osD^vP"
MAX_POINTS = 160
SMOOTH_FROM = 40
"""Series longer than this are drawn faintly, with their moving average on top."""
WIDTH_INCHES = 4.3
LEGEND_CHARACTERS = 40
"""What a line of the legend holds, besides its samples of lines."""
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trivium",
    "text.parse_math": False,  # names of corpora may contain dollar signs
    "font.family": "sans-serif",  # the page's own replaces it
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "text.color": ROLES["ink"],
    "axes.edgecolor": ROLES["faint"],
    "axes.labelcolor": ROLES["ink"],
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.color": ROLES["faint"],
    "ytick.color": ROLES["faint"],
    "xtick.labelcolor": ROLES["ink"],
    "ytick.labelcolor": ROLES["ink"],
    "grid.color": ROLES["faint"],
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Series:
    """One curve; `y` may hold NaN where a row had no value."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    points: bool = False
    """Drawn as separate points rather than a line."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes; panels of a plot are stacked and share the x axis."""

    title: str
    series: Sequence[Series]
    low: float | None = None
    high: float | None = None
    diagonal: bool = False
    """A thin line y = x, for calibration."""
    cuts: Sequence[float] = ()
    """x positions at which lines are broken: values before and after are on different scales."""


def draw_curves(key: str, panels: Sequence[Panel], x_label: str, marks: Sequence[float] = ()) -> str:
    """Stacked panels as SVG text.

    Args:
        key: unique in the page; prefixes the ids in the drawing.
        marks: x positions of thin vertical lines (starts of rounds).
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(RC):
        figure = _figure(1.0 + 1.55 * len(panels) if len(panels) > 1 else 2.7)
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw_panel(axes, panel)
            for mark in marks:
                axes.axvline(mark, color=ROLES["faint"], linewidth=0.8, linestyle=DASHES[2])
        grid[-1, 0].set_xlabel(x_label)
        if x_label == "step":
            grid[-1, 0].xaxis.set_major_locator(MaxNLocator(7, integer=True))
        return _svg(figure, key)


def draw_bars(
    key: str, groups: Sequence[str], bars: Mapping[str, Sequence[tuple[float, float, float]]], title: str
) -> str:
    """Grouped bars with error bars as SVG text.

    Args:
        groups: labels along the x axis.
        bars: label of a bar to one (height, reach of the error bar below, above) per group; NaN where unknown.
    """
    import matplotlib

    with matplotlib.rc_context(RC):
        figure = _figure(2.9)
        axes = figure.subplots()
        width = 0.8 / max(1, len(bars))
        for index, (label, values) in enumerate(bars.items()):
            x = np.arange(len(groups)) + (index - (len(bars) - 1) / 2) * width
            heights, below, above = np.array(values, dtype=float).T
            axes.bar(x, heights, width * 0.92, color=ROLES[f"series-{index + 1}"], label=label)
            errors = np.stack([below, above])
            known = np.isfinite(errors).all(axis=0)
            axes.errorbar(
                x[known], heights[known], errors[:, known], fmt="none", ecolor=ROLES["ink"], elinewidth=0.9, capsize=2
            )
            for position, height, reaches in zip(x, heights, np.nan_to_num(errors).T, strict=True):
                if np.isfinite(height):
                    _label_bar(axes, position, height, *reaches)
        axes.axhline(0, color=ROLES["faint"], linewidth=0.8)
        axes.set_xticks(range(len(groups)), groups)
        axes.margins(y=0.12)
        _dress(axes, title, legend=len(bars) > 1)
        return _svg(figure, key)


def _label_bar(axes: "Axes", x: float, height: float, below: float, above: float) -> None:
    """The height in figures, beyond the bar and its error bar."""
    end, side, align = (height - below, -3, "top") if height < 0 else (height + above, 3, "bottom")
    text = (f"{height:.2f}" if abs(height) < 1000 else f"{height:.1e}").replace("-", "−")
    axes.annotate(
        text, (x, end), xytext=(0, side), textcoords="offset points", ha="center", va=align, fontsize=7.5
    )  # fmt: skip


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_INCHES, height), layout="constrained", facecolor="none")


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    for index, series in enumerate(panel.series):
        slot = index % 6
        colour, dashes = ROLES[f"series-{slot + 1}"], DASHES[slot]
        x, y = _finite(series)
        label = series.label if len(series.label) <= LEGEND_CHARACTERS else series.label[: LEGEND_CHARACTERS - 1] + "…"
        if series.points:
            axes.plot(x, y, MARKERS[slot], markersize=3.2, color=colour, label=label)
            continue
        marker = "o" if len(x) <= 12 else ""
        for part_x, part_y in _split(x, y, panel.cuts):
            if len(x) > SMOOTH_FROM:
                axes.plot(*_thin(part_x, part_y), color=colour, linewidth=0.8, alpha=0.35)
                axes.plot(*_thin(part_x, _moving_average(part_y)), color=colour, linestyle=dashes, label=label)
            else:
                axes.plot(part_x, part_y, color=colour, linestyle=dashes, marker=marker, markersize=3.2, label=label)
            label = "_"  # which matplotlib leaves out of the legend
    if panel.diagonal:
        axes.axline((0, 0), slope=1, color=ROLES["faint"], linewidth=0.8)
        axes.set_xlim(panel.low, panel.high)
    low = panel.low
    if low is not None and panel.high is None:
        # An axis from zero has room above the highest point, and below zero where estimates fall there.
        bottom, top = axes.dataLim.intervaly
        low, high = min(low, bottom), top + 0.05 * (top - min(low, bottom))
        axes.set_ylim(low, high if math.isfinite(high) and high > low else None)
    else:
        axes.set_ylim(low, panel.high)
    _dress(axes, panel.title, legend=len(panel.series) > 1)


def _dress(axes: "Axes", title: str, legend: bool) -> None:
    """The y axis's meaning stands above it, where a narrow screen has room; the legend on the next line."""
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor("none")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    labels = axes.get_legend_handles_labels()[1]
    columns = next((n for n in (4, 3, 2) if n * max(map(len, labels), default=0) <= LEGEND_CHARACTERS), 1)
    lines = -(-len(labels) // columns) if legend else 0
    axes.set_title(title, loc="left", pad=6 + 13 * lines)
    if legend:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, borderpad=0,
            handlelength=2.2, columnspacing=1.2,
        )  # fmt: skip


def _finite(series: Series) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.array(series.x, dtype=float), np.array(series.y, dtype=float)
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


def _split(x: np.ndarray, y: np.ndarray, cuts: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pieces of a curve between the cuts; a piece without points is left out."""
    edges = np.searchsorted(x, sorted(cuts))
    return [part for part in zip(np.split(x, edges), np.split(y, edges), strict=True) if len(part[0])]


def _moving_average(y: np.ndarray) -> np.ndarray:
    """Centred mean over about a fifteenth of the series, narrower at the ends: no value is invented."""
    reach = max(2, len(y) // 30)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    low = np.maximum(np.arange(len(y)) - reach, 0)
    high = np.minimum(np.arange(len(y)) + reach + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about MAX_POINTS points: means of equal runs, the last point kept."""
    run = -(-len(x) // MAX_POINTS)
    if run == 1:
        return x, y
    edges = np.arange(0, len(x), run)
    sizes = np.diff(np.append(edges, len(x)))
    means = [np.add.reduceat(values, edges) / sizes for values in (x, y)]
    return np.append(means[0], x[-1]), np.append(means[1], y[-1])


def _svg(figure: "Figure", key: str) -> str:
    """The drawing without its XML head, with ids of its own and the page's colours."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on layouts that absurd values leave no room for
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", text)
    for role, colour in ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
