"""How the benchmarks measure: contestants take turns on one machine, and what is reported is the ratio of each turn.

Load from elsewhere weighs on all contestants of a turn alike, so ratios bear it; rates do not. The hardware's ceiling
is measured in the same run.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

OURS = "trivium"
Work = Callable[[], float | tuple[float, float]]
"""Does some work and returns its amount, e.g. tokens; with the seconds that count, where not the whole turn does."""
GFLOP, ALLOWED = "GFLOP of products a unit", "products allow"
LIBRARIES = ("torch", "transformers", "trl", "tokenizers", "tiktoken", "numpy")


@dataclass(frozen=True)
class Result:
    """One line of results.json: ours against one baseline."""

    name: str
    ratio: float
    """Median over the turns of our rate over the baseline's; above 1 we are ahead."""
    ratio_min: float
    ratio_max: float
    target: float | None
    """Least ratio aimed at; None where the line is for information."""
    trivium: float
    """Our median rate."""
    baseline: str
    baseline_value: float
    unit: str
    settings: dict[str, Any]
    versions: dict[str, Any] = field(default_factory=lambda: versions())


def take_turns(contestants: Mapping[str, Work], turns: int, warmups: int = 1) -> dict[str, list[float]]:
    """Rates by contestant, one a turn: A B C A B C ..., after `warmups` turns that are thrown away."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmups + turns):
        for name, work in contestants.items():
            began = time.perf_counter()
            done = work()
            amount, seconds = done if isinstance(done, tuple) else (done, time.perf_counter() - began)
            if turn >= warmups:
                rates[name].append(amount / seconds)
    return rates


def ratios(rates: Mapping[str, Sequence[float]], ours: str, baseline: str) -> list[float]:
    """Our rate over the baseline's, turn by turn."""
    return [a / b for a, b in zip(rates[ours], rates[baseline], strict=True)]


def results(
    name: str,
    rates: Mapping[str, Sequence[float]],
    unit: str,
    settings: Mapping[str, Any],
    target: float | None = None,
    gflop: float | None = None,
) -> list[Result]:
    """One result for each baseline; the target is meant for the fastest, so it binds all.

    Args:
        gflop: 1e9 floating-point operations of the products of matrices that a unit needs; see `allow`.
    """
    import torch  # here, so that benchmarks of what needs no torch run without it

    found = []
    for baseline in (each for each in rates if each != OURS):
        each = ratios(rates, OURS, baseline)
        found.append(
            Result(
                name=name,
                ratio=statistics.median(each),
                ratio_min=min(each),
                ratio_max=max(each),
                target=target,
                trivium=statistics.median(rates[OURS]),
                baseline=baseline,
                baseline_value=statistics.median(rates[baseline]),
                unit=unit,
                settings=dict(settings)
                | {"turns": len(each), "threads": torch.get_num_threads()}
                | ({} if gflop is None else {GFLOP: round(gflop, 6)}),
            )
        )
    return found


def versions() -> dict[str, Any]:
    """Of Python and the libraries that were compared."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = None
    return found


def ceiling(repeats: int = 5) -> dict[str, float]:
    """What the machine can do: GFLOP/s of a square product in both types, and GB/s of copying memory."""
    import torch

    size = 1024
    figures = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
        name = f"GEMM {str(dtype).removeprefix('torch.')}, GFLOP/s"
        figures[name] = _fastest(lambda left=left, right=right: left @ right, 2 * size**3 / 1e9, repeats)
    source = torch.ones(64 << 20, dtype=torch.uint8)
    target = torch.empty_like(source)
    figures["memory, read and written, GB/s"] = _fastest(lambda: target.copy_(source), 2 * len(source) / 1e9, repeats)
    return figures


def _fastest(work: Callable[[], object], amount: float, repeats: int) -> float:
    work()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        rates.append(amount / (time.perf_counter() - began))
    return max(rates)


def options(description: str | None, turns: int = 5) -> argparse.ArgumentParser:
    """The flags that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two turns of small work: does it run? no figure to quote")
    parser.add_argument("--turns", type=int, default=turns, help=f"turns of each contestant (default {turns})")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the results there as JSON too")
    return parser


def allow(found: Sequence[Result], peak: float) -> list[Result]:
    """The results, each with the ratio that its products alone allow where they ran at `peak` GFLOP/s of bf16.

    No engine that does the same arithmetic reaches it: attention, norms, the optimiser and memory cost time too.
    """
    return [
        replace(each, settings=each.settings | {ALLOWED: round(peak / each.settings[GFLOP] / each.baseline_value, 2)})
        if GFLOP in each.settings
        else each
        for each in found
    ]


def publish(found: Sequence[Result], chosen: argparse.Namespace, left_out: Sequence[str] = ()) -> None:
    """Print the table and what was left out of it with its reason, and write the file that was asked for."""
    limits = ceiling()
    found = allow(found, limits["GEMM bfloat16, GFLOP/s"])
    print("   ".join(f"{name} {value:.0f}" for name, value in limits.items()), end="")
    print("   " + "   ".join(f"{name} {value}" for name, value in versions().items()))
    print(table(found))
    for each in left_out:
        print(f"left out: {each}")
    if chosen.results:
        record = {"ceiling": limits, "results": [asdict(each) for each in found], "left_out": list(left_out)}
        chosen.results.write_text(json.dumps(record, indent=2) + "\n")


def table(found: Sequence[Result]) -> str:
    """Results as a Markdown table."""
    head = "| what | unit | trivium | baseline | its rate | ratio (lowest to highest) | target | products allow |"
    lines = [head, "|---|---|---:|---|---:|---:|---:|---:|"]
    for each in found:
        spread = f"{each.ratio:.2f} ({each.ratio_min:.2f} to {each.ratio_max:.2f})"
        target = "" if each.target is None else f"{each.target:.2f} {'met' if each.ratio >= each.target else 'missed'}"
        rates = f"{each.trivium:.4g} | {each.baseline} | {each.baseline_value:.4g}"
        lines.append(
            f"| {each.name} | {each.unit} | {rates} | {spread} | {target} | {each.settings.get(ALLOWED, '')} |"
        )
    return "\n".join(lines)
