"""The report as one HTML page: no scripts, no requests, all text escaped."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trivium.base.files import write_text
from trivium.base.text import visible
from trivium.report import charts, tables
from trivium.report.source import RunData, read_run
from trivium.report.values import duration, mapping, scalar

SHOWN_ANSWERS = 8
FOLDED_ANSWERS = 40
"""Answers beyond the first few are folded away; beyond these they are left to the file."""
MAX_TEXT = 4000


def write_report(run_dir: Path) -> Path:
    """Write `report.html` from what the run directory holds; parts that are missing are said to be.

    Raises:
        RunDirError: `run_dir` is not a run directory.
    """
    run_dir = Path(run_dir)
    path = run_dir / "report.html"
    write_text(path, render_report(read_run(run_dir)))
    return path


def render_report(data: RunData) -> str:
    """The page's text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def highlight(text: str, language: str = "python") -> Markup:
        return Markup(_highlight(text, language))  # Pygments has escaped it

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    environment.filters["highlight"] = highlight
    environment.filters["drawing"] = Markup  # SVG that plots.py made, whose texts matplotlib escapes
    page = environment.get_template("report.html.j2").render(_context(data))
    return page.encode("utf-8", "replace").decode()  # no lone surrogate may stop the report from being written


def _context(data: RunData) -> dict[str, Any]:
    answers = tables.answer_rows(data)
    return {
        "name": data.name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "wall": duration(data.summary.get("wall_seconds", mapping(data.lineage).get("wall_seconds"))),
        "seed": scalar(data.summary.get("seed")),
        "story": tables.story(data),
        "warnings": tables.warnings(data),
        "models": charts.MODELS,
        "model_table": tables.model_table(data),
        "summary_missing": data.problems.get("summary.json", "summary.json holds no figures"),
        "passes": charts.pass_chart(data),
        "utility": charts.utility_chart(data),
        "pretrain": charts.pretrain_charts(data),
        "sft": charts.sft_charts(data),
        "reward_table": tables.reward_model_table(data),
        "labels": tables.label_table(data),
        "reward_missing": data.problems.get("R/rm.json", "R/rm.json holds no figures"),
        "reward": charts.reward_charts(data),
        "rl": charts.rl_charts(data),
        "rl_rows": tables.summary_rows(data),
        "rounds": tables.rounds_table(data),
        "answers": answers[:SHOWN_ANSWERS],
        "folded": answers[SHOWN_ANSWERS:FOLDED_ANSWERS],
        "answer_count": len(answers),
        "shown_count": min(len(answers), FOLDED_ANSWERS),
        "verdicts": tables.verdict_counts(answers),
        "answers_missing": data.problems.get("evaluate/samples/answers.jsonl", "answers.jsonl holds no answers"),
        "stages": tables.stage_table(data),
        "lineage_missing": data.problems.get("lineage.json", "lineage.json names no stages"),
        "recipe": data.recipe,
        "recipe_missing": data.problems.get("recipe.toml", "recipe.toml is empty"),
    }


def _highlight(text: str, language: str) -> str:
    """Code as escaped HTML with Pygments' short class names."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    # Made visible here as well: what this returns is marked as safe and passes the page's own filter untouched.
    text = visible(text)
    rest = len(text) - MAX_TEXT
    if rest > 0:
        text = f"{text[:MAX_TEXT]}\n… ({rest:,} more characters)"
    # Answers continue a prompt: their leading blank lines and indentation belong to them.
    lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    return highlight(text, lexer, HtmlFormatter(nowrap=True))
