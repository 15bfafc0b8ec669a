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


def sweep(rows: list[Row], part: str) -> dict[tuple[int, int], dict[float, Row]]:
    """Rows by depth and seed, and multiplier; the recipe itself, at 1, stands among those of AdamW's rate."""
    chosen = [row for row in rows if row["part"] == part or (row["part"] == "adamw rate" and row["label"] == "1")]
    found: dict[tuple[int, int], dict[float, Row]] = {
        run: {} for run in sorted({(row["depth"], row["seed"]) for row in rows if row["part"] == part})
    }
    for row in chosen:
        if (run := (row["depth"], row["seed"])) in found:
            found[run][float(row["label"])] = row
    return found


def sweeps(rows: list[Row], folder: Path) -> None:
    """Bits per byte over both rates, a line for each depth and seed."""
    panels = plt.subplots(1, 2, sharey=True)[1]
    for panel, (part, told) in zip(panels, SWEEPS.items(), strict=True):
        found = sweep(rows, part)
        factors = sorted({factor for line in found.values() for factor in line})
        lines = []
        for (depth, seed), line in found.items():
            at = sorted(line)
            size = f"{next(iter(line.values()))['parameters'] / 1e6:.2f}M"
            values, ink = [line[x]["bits_per_byte"] for x in at], INK[(depth - 1) % len(INK)]
            if seed:
                panel.plot(at, values, ".:", color=ink, linewidth=0.8)
            else:
                panel.plot(at, values, "o-", color=ink, label=f"depth {depth}, {size}")
            cells = [f"{line[x]['bits_per_byte']:.3f}" if x in line else "" for x in factors]
            lines.append([str(depth), size, str(seed), *cells])
        panel.set_xscale("log", base=2)
        panel.set_xticks(factors, [f"{factor:g}" for factor in factors])
        panel.set_xlabel(told, fontsize=8)
        print(table(["depth", "parameters", "seed", *(f"x{factor:g}" for factor in factors)], lines))
    panels[0].set_ylabel("held-out bits per byte")
    panels[0].legend(frameon=False)
    save(folder / "learning-rates.svg")


def choices(rows: list[Row], folder: Path) -> None:
    """What each departure from the recipe costs."""
    chosen = [row for row in rows if row["part"] == "choices"]
    if not chosen:
        return
    runs = sorted({(row["depth"], row["seed"]) for row in chosen})
    inks = {depth: INK[place] for place, depth in enumerate(sorted({depth for depth, _ in runs}))}
    found = {(row["label"], row["depth"], row["seed"]): row["bits_per_byte"] for row in chosen}
    names = list(dict.fromkeys(row["label"] for row in chosen))
    lines, axes = [], plt.subplots(figsize=(6.5, 0.6 + 0.25 * len(names)))[1]
    for place, name in enumerate(names):
        cells = []
        for run in runs:
            value, plain = found.get((name, *run), np.nan), found.get(("the recipe", *run), np.nan)
            cells.append("" if np.isnan(value) else f"{value:.3f} ({value - plain:+.3f})")
            label = f"depth {run[0]}" if not place and not run[1] else ""
            axes.plot(value - plain, place, "o", color=inks[run[0]], alpha=0.7, label=label)
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
