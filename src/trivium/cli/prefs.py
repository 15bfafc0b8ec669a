"""`trivium prefs`: preference files into a run's store and out of it, and what the store holds."""

import argparse
from pathlib import Path

from trivium.base.errors import InputError
from trivium.cli.arguments import Arguments, check_parent, positive, print_json
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

    into = action("import", _import, "Read judgements from a JSONL or JSON file, plain or .gz or .zst, or a store")
    into.add_argument(
        "file",
        type=_location,
        help="pairs, rankings, PandaLM's or Open Assistant's form; a .db file or postgresql:// URL",
    )
    into.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="at a bad record [%(default)s]")
    out = action("export", _export, "Write the judgements as JSONL")
    out.add_argument("file", type=Path, help="where to, .gz by suffix")
    out.add_argument("--form", choices=["full", "pairs"], default="full", help="everything, or plain pairs [full]")
    out.add_argument("--split", choices=["train", "heldout"], help="one split only")
    out.add_argument("--source", help="judgements of one source only")
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
    from trivium.preferences.formats import export_preferences
    from trivium.preferences.store import PreferenceStore

    check_parent(options.file)
    if options.file.is_dir():
        raise InputError(f"{options.file} is a folder. Name a file to write.")
    with PreferenceStore(options.store, create=False) as store:
        sources = sorted({stored.judgement.source for stored in store.judgements()})
        if options.source is not None and options.source not in sources:
            raise InputError(f"{store.path} holds no judgements of source {options.source!r}: {sources}. Name one.")
        count = export_preferences(store, options.file, options.form, split=options.split, source=options.source)
    if options.json:
        print_json({"path": str(options.file), "records": count})
    else:
        print(f"{options.file}: {count} records")
    return 0


def _stats(options: argparse.Namespace) -> int:
    from trivium.preferences.statistics import preference_stats
    from trivium.preferences.store import PreferenceStore

    with PreferenceStore(options.store, create=False) as store:
        stats = preference_stats(store)
    if options.json:
        print_json(stats)
        return 0
    for name, value in stats.items():
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
