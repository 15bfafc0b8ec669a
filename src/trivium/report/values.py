"""Values as a reader sees them; whatever is missing or malformed becomes a dash, never an error."""

from typing import Any

from trivium.runs.metrics import number

DASH = "–"


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The dicts of `value` if it is a list, else nothing."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def interval(value: Any) -> tuple[float, float] | None:
    """`[low, high]` of two finite numbers, else None."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def percent(value: Any, digits: int = 1) -> str:
    """0.5 as `50.0%`."""
    share = number(value)
    return DASH if share is None else f"{100 * share:.{digits}f}%"


def percent_interval(value: Any) -> str:
    """[0.4, 0.6] as `40.0–60.0`, or nothing."""
    ends = interval(value)
    return "" if ends is None else f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}"


def decimal(value: Any, digits: int = 3) -> str:
    """A measured figure with fixed digits; a true minus sign; small ones in scientific notation."""
    figure = number(value)
    if figure is None:
        return DASH
    if figure and abs(figure) < 0.5 * 10**-digits:
        return f"{figure:.1e}".replace("-", "−")
    return f"{figure:,.{digits}f}".replace("-", "−")


def count(value: Any) -> str:
    """1234567 as `1,234,567`."""
    figure = number(value)
    return DASH if figure is None else f"{round(figure):,}"


def short_count(value: Any) -> str:
    """3400000 as `3.4 million`."""
    figure = number(value)
    if figure is None:
        return DASH
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if abs(figure) >= size:
            return f"{figure / size:.3g} {name}"
    return f"{round(figure):,}"


def duration(value: Any) -> str:
    """Seconds as `9 min 12 s`."""
    seconds = number(value)
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def scalar(value: Any) -> str:
    """Any single value of a result or a config."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(scalar(item) for item in value)
    return DASH if value is None else str(value)
