"""Tables (to standard output) and figures of the rows that `benchmarks/tuning.py` writes.

python scripts/pretraining_page.py docs/studies/pretraining.jsonl docs/studies
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from study_page import INK, Row, save, table

SWEEPS = {
    "adamw rate": "AdamW's rate, multiple of 0.003 (128 / width)^0.5",
    "muon rate, adamw 1": "Muon's rate, multiple of 0.02",
}


def sweep(rows: list[Row], part: str) -> dict[int, dict[float, Row]]:
    """Rows by depth and multiplier; the recipe itself, at 1, stands among those of AdamW's rate."""
    chosen = [row for row in rows if row["part"] == part or (row["part"] == "adamw rate" and row["label"] == "1")]
    depths = sorted({row["depth"] for row in rows if row["part"] == part})
    return {d: {float(row["label"]): row for row in chosen if row["depth"] == d and row["seed"] == 0} for d in depths}


def sweeps(rows: list[Row], folder: Path) -> None:
    """Bits per byte over both rates, a line for each depth."""
    panels = plt.subplots(1, 2, sharey=True)[1]
    for panel, (part, told) in zip(panels, SWEEPS.items(), strict=True):
        found = sweep(rows, part)
        factors = sorted({factor for line in found.values() for factor in line})
        lines = []
        for ink, (depth, line) in zip(INK, found.items(), strict=False):
            at = sorted(line)
            size = f"{next(iter(line.values()))['parameters'] / 1e6:.2f}M"
            panel.plot(at, [line[x]["bits_per_byte"] for x in at], "o-", color=ink, label=f"depth {depth}, {size}")
            lines.append([str(depth), size, *(f"{line[x]['bits_per_byte']:.3f}" if x in line else "" for x in factors)])
        panel.set_xscale("log", base=2)
        panel.set_xticks(factors, [f"{factor:g}" for factor in factors])
        panel.set_xlabel(told, fontsize=8)
        print(table(["depth", "parameters", *(f"x{factor:g}" for factor in factors)], lines))
    panels[0].set_ylabel("held-out bits per byte")
    panels[0].legend(frameon=False)
    save(folder / "learning-rates.svg")


def choices(rows: list[Row], folder: Path) -> None:
    """What each departure from the recipe costs."""
    chosen = [row for row in rows if row["part"] == "choices"]
    if not chosen:
        return
    runs = sorted({(row["depth"], row["seed"]) for row in chosen})
    found = {(row["label"], row["depth"], row["seed"]): row["bits_per_byte"] for row in chosen}
    names = list(dict.fromkeys(row["label"] for row in chosen))
    lines, axes = [], plt.subplots(figsize=(6.5, 0.6 + 0.25 * len(names)))[1]
    for place, name in enumerate(names):
        cells = []
        for ink, run in zip(INK, runs, strict=False):
            value, plain = found.get((name, *run), np.nan), found.get(("the recipe", *run), np.nan)
            cells.append("" if np.isnan(value) else f"{value:.3f} ({value - plain:+.3f})")
            axes.plot(value - plain, place, "o", color=ink, label=f"depth {run[0]}, seed {run[1]}" if not place else "")
        lines.append([name, *cells])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="#777777", linewidth=0.8)
    axes.set_xlabel("held-out bits per byte above the recipe's")
    axes.legend(frameon=False, fontsize=8)
    save(folder / "choices.svg")
    print(table(["departure", *(f"depth {depth}, seed {seed}" for depth, seed in runs)], lines))


def main() -> None:
    """Tables and figures of all parts."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    sweeps(rows, folder)
    choices(rows, folder)
    print(f"{len(rows)} runs, {sum(row['cpu_seconds'] for row in rows) / 60:.0f} minutes of processor time")


if __name__ == "__main__":
    main()
