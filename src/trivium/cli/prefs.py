"""`trivium prefs`: preference files into a run's store and out of it, and what the store holds."""

import argparse
from pathlib import Path
from typing import Any

from trivium.base.errors import InputError
from trivium.cli.arguments import Arguments, check_parent, positive, print_json, share, whole
from trivium.cli.invocation import Invocation
from trivium.cli.label import add_label_action

DEFAULT_STORE = Path("runs/quickstart/preferences.db")


def run(invocation: Invocation) -> int:
    """Import, export or count preferences."""
    options = _parser().read(invocation.arguments)
    return options.action(options)


def _parser() -> Arguments:
    parser = Arguments("prefs", "Preferences: judgements between answers to the same prompt, in a SQLite file.")
    actions = parser.add_subparsers(title="actions", required=True, metavar="import|export|stats|judge|label")
    shared = Arguments(add_help=False)
    shared.add_argument(
        "--store", type=_location, default=DEFAULT_STORE, help="the SQLite file, or a postgresql:// URL [%(default)s]"
    )
    shared.add_argument("--json", action="store_true", help="print the result as JSON")

    def action(name: str, function: object, summary: str) -> argparse.ArgumentParser:
        part = actions.add_parser(name, parents=[shared], help=summary, description=f"{summary}.")
        part.set_defaults(action=function)
        return part

    into = action("import", _import, "Read judgements from a JSONL, JSON or Parquet file, or from another store")
    into.add_argument(
        "file",
        type=_location,
        help="pairs, rankings, PandaLM's, Open Assistant's, Argilla's or Label Studio's form, JSON plain, .gz or "
        ".zst, or Parquet; a .db file or postgresql:// URL",
    )
    into.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="at a bad record [%(default)s]")
    _add_export(action("export", _export, "Write judgements as JSONL, Parquet or CSV, sorted, people as pseudonyms"))
    action("stats", _stats, "Count what the store holds")
    part = action("judge", _judge, "Have a chat model judge what it has not judged yet, every pair in both orders")
    part.add_argument("--url", required=True, help="an OpenAI-compatible API, such as http://127.0.0.1:8000/v1")
    part.add_argument("--model", required=True, help="the model's name there; the source is ai:MODEL")
    part.add_argument(
        "--key-variable", default="OPENAI_API_KEY", help="environment variable with the key [%(default)s]"
    )
    part.add_argument("--limit", type=positive, help="comparisons at most [all]")
    add_label_action(actions)
    return parser


def _add_export(out: argparse.ArgumentParser) -> None:
    out.add_argument("file", type=Path, help="where to: .jsonl or .jsonl.gz, .parquet, or .csv for the log")
    out.add_argument(
        "--form",
        choices=["full", "pairs", "rankings", "log"],
        default="full",
        help="everything, plain pairs, everything as rankings, or the raw log with what was superseded [%(default)s]",
    )
    out.add_argument("--split", choices=["train", "heldout"], help="one split only")
    out.add_argument("--source", help="judgements of one source only")
    out.add_argument("--annotator", help="judgements of one annotator only, by name or pseudonym")
    out.add_argument(
        "--min-agreement", type=share, help="only where at least this share of two or more annotators agree, 0 to 1"
    )
    out.add_argument("--guideline", type=whole, help="only judgements under this version of the page's guidelines")
    out.add_argument("--ties", choices=["keep", "drop"], default="keep", help="ties, which are counted [%(default)s]")
    out.add_argument("--names", action="store_true", help="people by name instead of by pseudonym")


def _judge(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from trivium.preferences.chat_judge import HttpJudge, judge_comparisons
    from trivium.preferences.comparisons import fill
    from trivium.preferences.store import PreferenceStore

    judge = HttpJudge(url=options.url, model=options.model, key_variable=options.key_variable)
    with PreferenceStore(options.store, create=False) as store:
        fill(store)
        report = judge_comparisons(store, judge, options.limit)
    if options.json:
        print_json(asdict(report))
        return 0
    print(f"{report.judged} comparisons judged by {judge.source}, {report.unjudged} left unjudged")
    print(f"{report.inconsistent} pairs were judged otherwise in the other order; they count as ties")
    print("\n".join(report.problems), end="\n" if report.problems else "")
    return 0


def _import(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from trivium.preferences.formats import import_preferences
    from trivium.preferences.store import PreferenceStore

    if isinstance(options.file, str) or options.file.suffix == ".db":
        return _copy(options)
    if (
        isinstance(options.store, Path) and not options.store.exists()
    ):  # no store is made for a file that cannot be read
        check_parent(options.store)
        with PreferenceStore(":memory:") as store:
            import_preferences(options.file, store, on_error=options.on_error)
    with PreferenceStore(options.store) as store:
        report = import_preferences(options.file, store, on_error=options.on_error)
    if options.json:
        print_json(asdict(report))
    else:
        print("\n".join(report.lines()))
        print(f"kept in {store.path}")
    return 0


def _copy(options: argparse.Namespace) -> int:
    """All judgements of another store, with what they superseded."""
    from trivium.preferences.store import PreferenceStore
    from trivium.preferences.transfer import copy_judgements

    with PreferenceStore(options.file, create=False) as source, PreferenceStore(options.store) as target:
        added = copy_judgements(source, target)
        if options.json:
            print_json({"path": source.path, "judgements": added.new, "duplicates": added.duplicates})
        else:
            print(f"{source.path}: {added.new} new judgements, {added.duplicates} there already")
            print(f"kept in {target.path}")
    return 0


def _location(text: str) -> Path | str:
    from trivium.preferences.database import is_url

    return text if is_url(text) else Path(text)


def _export(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from trivium.preferences.export import Selection, export_preferences
    from trivium.preferences.store import PreferenceStore

    check_parent(options.file)
    if options.file.is_dir():
        raise InputError(f"{options.file} is a folder. Name a file to write.")
    selection = Selection(
        split=options.split,
        source=options.source,
        annotator=options.annotator,
        min_agreement=options.min_agreement,
        guideline=options.guideline,
        ties=options.ties == "keep",
    )
    with PreferenceStore(options.store, create=False) as store:
        _check_filters(store, options)
        report = export_preferences(store, options.file, options.form, selection, names=options.names)
    if options.json:
        print_json({"path": str(options.file), **asdict(report)})
    else:
        print(f"{options.file}: " + "\n".join(report.lines(selection)))
    return 0


def _check_filters(store: Any, options: argparse.Namespace) -> None:
    """Refuse to filter by what no judgement has."""
    from trivium.preferences.people import pseudonyms

    if options.source is None and options.annotator is None and options.guideline is None:
        return
    said = [stored.judgement for stored in store.judgements(history=options.form == "log")]
    names = {each.annotator for each in said}
    found = {
        "source": {each.source for each in said},
        "annotator": names | {alias for name, alias in pseudonyms(store).items() if name in names},
        "guideline": {each.details["guidelines"] for each in said if "guidelines" in each.details},
    }
    for option, values in found.items():
        asked = getattr(options, option)
        if asked is not None and asked not in values:
            of = {"guideline": "under guideline"}.get(option, f"of {option}")
            raise InputError(f"{store.path} holds no judgements {of} {asked!r}: {sorted(values)}. Name one.")


def _stats(options: argparse.Namespace) -> int:
    from trivium.preferences.statistics import preference_stats
    from trivium.preferences.store import PreferenceStore

    with PreferenceStore(options.store, create=False) as store:
        stats = preference_stats(store)
    if options.json:
        print_json(stats)
        return 0
    for name, value in stats.items():
        if value == {}:
            continue
        label = name.replace("_", " ")
        if not isinstance(value, dict):
            print(f"{label}: {value}")
            continue
        print(f"{label}:")
        for key, item in value.items():
            parts = [f"{part or '-'} {_shown(each)}" for part, each in item.items()] if isinstance(item, dict) else []
            print(f"  {key.replace('_', ' '):<12} {'  '.join(parts) if isinstance(item, dict) else _shown(item)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return " to ".join(_shown(each) for each in value)
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)
