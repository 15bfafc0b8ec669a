"""All cases by category, and the page about them."""

from pathlib import Path

import bad_answers
import bad_checkpoints
import bad_corpora
import bad_flags
import bad_models
import bad_preferences
import bad_recipes
import bad_runs
import bad_tasks
import bad_tokenizers
from bench import Case

CATEGORIES = {
    "Recipes": bad_recipes,
    "Command lines": bad_flags,
    "Corpora": bad_corpora,
    "Prompts and responses": bad_answers,
    "Preferences": bad_preferences,
    "Tasks": bad_tasks,
    "Models": bad_models,
    "Tokenizers": bad_tokenizers,
    "Runs": bad_runs,
    "Checkpoints": bad_checkpoints,
}

SHOWN = 90
"""Characters of a command line on the page."""


def cases() -> list[tuple[str, Case]]:
    """(category, case) of all."""
    return [(name, case) for name, module in CATEGORIES.items() for case in module.CASES]


def page() -> str:
    """docs/bad-input.md."""
    parts = [Path(__file__).with_name("introduction.md").read_text()]
    for name, module in CATEGORIES.items():
        about = (module.__doc__ or "").strip()
        rows = [f"| {case.title} | {_code(_shortened(case.command))} | {_code(case.told)} |" for case in module.CASES]
        parts.append(
            "\n".join([f"## {name}", "", about, "", "| what is wrong | command | told |", "|---|---|---|", *rows])
        )
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _code(text: str) -> str:
    text = text.replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"
