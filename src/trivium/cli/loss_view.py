"""`trivium doctor data`: which tokens of a supervised data set carry loss, and which records cannot be used."""

import os
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from trivium.cli.arguments import print_json

GREEN, RESET = "\x1b[30;42m", "\x1b[0m"
SHOWN_PROBLEMS = 5


def show_loss(file: Path, folder: Path, rows: int, as_json: bool) -> int:
    """Print the first records with their loss marked, then totals and what is wrong; 2 if records are bad."""
    from trivium.data.drops import Drops
    from trivium.data.examples import encode_examples, load_examples
    from trivium.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    drops = Drops("skip")
    examples = load_examples(file, drops=drops)
    pairs = encode_examples(examples, tokenizer)
    limit = _context(folder)
    totals: dict[str, Any] = {
        "examples": len(pairs),
        "tokens": sum(len(ids) for ids, _ in pairs),
        "loss_tokens": sum(sum(mask) for _, mask in pairs),
        "longest": max(len(ids) for ids, _ in pairs),
        "context": limit,
        "too_long": sum(len(ids) > limit for ids, _ in pairs) if limit else 0,
        "bad": drops.rows,
    }
    if as_json:
        shown = [
            {"id": example.id, "ids": ids, "loss_mask": [bool(carries) for carries in mask]}
            for example, (ids, mask) in zip(examples[:rows], pairs, strict=False)
        ]
        print_json({**totals, "rows": shown})
        return 2 if drops.rows else 0
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(f"Tokens that carry loss are {'on green' if colour else 'between ⟦ and ⟧'}.")
    for example, (ids, mask) in zip(examples[:rows], pairs, strict=False):
        print(f"\n--- {example.id}: {len(ids)} tokens, {sum(mask)} with loss")
        print("".join(_marked(ids, mask, tokenizer, colour)))
    _print_totals(totals)
    return 2 if drops.rows else 0


def _marked(ids: list[int], mask: list[bool], tokenizer: Any, colour: bool) -> Iterator[str]:
    opening, closing = (GREEN, RESET) if colour else ("⟦", "⟧")
    for carries, group in groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1])):
        text = tokenizer.decode([index for index, _ in group], skip_special=False)
        yield f"{opening}{text}{closing}" if carries else text


def _context(folder: Path) -> int:
    """Tokens that the model takes; 0 for a directory that holds a tokenizer alone."""
    from trivium.model.hf import read_hf_json

    return int(read_hf_json(folder).get("max_position_embeddings", 0)) if (folder / "config.json").is_file() else 0


def _print_totals(totals: dict[str, Any]) -> None:
    share = totals["loss_tokens"] / totals["tokens"]
    print(
        f"\n{totals['examples']} examples, {totals['tokens']} tokens, {totals['loss_tokens']} with loss ({share:.0%}), "
        f"the longest {totals['longest']}"
    )
    if totals["too_long"]:
        print(
            f"warning: {totals['too_long']} examples are longer than the model's {totals['context']} tokens. "
            "Shorten them, or train a model with a longer context."
        )
    for row in totals["bad"][:SHOWN_PROBLEMS]:
        print(f"problem: {row['where']}: {row['reason']}")
    if len(totals["bad"]) > SHOWN_PROBLEMS:
        print(f"problem: {len(totals['bad']) - SHOWN_PROBLEMS} more records cannot be used; --json lists them all")
