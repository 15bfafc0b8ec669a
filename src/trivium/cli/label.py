"""`trivium prefs label`: the labelling page for one person at this machine, or for a team."""

import argparse
import getpass
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trivium.base.errors import ConfigError, InputError
from trivium.base.log import say
from trivium.cli.arguments import Arguments, positive

EXTRA = ("fastapi", "uvicorn", "multipart", "argon2")
"""Libraries of the `label` extra."""
MODELS = ("M0", "M1", "M2")
"""Folders of a run with models to play with."""


def add_label_action(actions: Any) -> None:
    """Add `label` to the actions of `trivium prefs`."""
    summary = "Judge answers in the browser"
    part: Arguments = actions.add_parser("label", help=summary, description=f"{summary}. Ctrl-C ends it.")
    part.set_defaults(action=label)
    part.add_argument(
        "run",
        type=Path,
        nargs="?",
        default=Path("runs/quickstart"),
        help="run directory, or a preferences.db [%(default)s]",
    )
    part.add_argument(
        "--store", help="a team's postgresql:// URL or another file; answers are copied there from the run"
    )
    part.add_argument("--annotator", default=None, help="your name in the records [the user's at this machine]")
    part.add_argument(
        "--host", default="127.0.0.1", help="address to serve; others than loopback need accounts [%(default)s]"
    )
    part.add_argument("--port", type=_port, help="port to serve [8417, or a free one]")
    part.add_argument("--public-url", default="", help="how browsers reach the page, where a proxy stands before it")
    part.add_argument("--tls-cert", type=Path, help="certificate chain, PEM; with --tls-key the page speaks TLS itself")
    part.add_argument("--tls-key", type=Path, help="its private key, PEM")
    part.add_argument("--completions", type=positive, help="answers a comparison, 2 to 9; kept in the store's settings")
    part.add_argument(
        "--next",
        choices=["random", "uncertainty", "disagreement", "family"],
        help="what is asked first: at random, where R is least certain, where reward models differ, or families of "
        "tasks level; kept in the store's settings",
    )
    part.add_argument(
        "--reward-model", type=Path, action="append", help="for --next; give several for disagreement [the run's R]"
    )
    part.add_argument(
        "--open", action=argparse.BooleanOptionalAction, default=None, help="open the browser [on a desktop]"
    )


def label(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    _check_extra()
    from trivium.preferences.comparisons import fill
    from trivium.preferences.people import local_owner
    from trivium.preferences.store import PreferenceStore
    from trivium.preferences.transfer import copy_answers
    from trivium.preferences.web.server import listen, serve

    tls = _tls(options)
    source = options.run if options.run.suffix == ".db" else options.run / "preferences.db"
    location = options.store or str(source)
    owner = options.annotator or _user()
    with PreferenceStore(location, create=options.store is not None) as store:
        question = _question(options, source.parent)  # before anything is written
        if options.store is not None and source.exists():
            with PreferenceStore(source, create=False) as run:
                copy_answers(run, store)
        local_owner(store, owner)
        if options.completions is not None:
            _set_completions(store, options.completions, owner)
        fill(store)
        waiting = store.db.value("SELECT COUNT(*) FROM comparisons WHERE active = 1")
        if not waiting:
            raise InputError(f"{store.path} has no two answers to one prompt to compare. Collect or import some first.")
        if question is not None:
            from trivium.cli.asking import ask_first

            ask_first(store, question, owner)
        listening = listen(
            store,
            host=options.host,
            port=options.port,
            public_url=options.public_url,
            owner=owner,
            tls=tls is not None,
        )
    print(listening.url, flush=True)
    say(f"{waiting} comparisons to judge, kept in {_shown(location)}. Open the link above; Ctrl-C ends the page.")
    if not listening.address.one_time and not listening.address.secure:
        say("warning: without TLS, passwords and votes cross the network readable. See --tls-cert and --public-url.")
    desktop = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if options.open or (options.open is None and desktop and sys.stderr.isatty()):
        import webbrowser

        webbrowser.open(listening.url)
    try:
        trials = _trials(source.parent / "recipe.toml")
        serve(location, listening, tls, trials, _playground(source.parent, trials))
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        listening.close()
    say("the page is closed; every judgement that it said was saved is on disk")
    return 0


def _question(options: argparse.Namespace, run: Path) -> Any:
    """What `--next` goes by, loaded; None without it."""
    if options.completions is not None and not 2 <= options.completions <= 9:
        raise ConfigError(f"argument --completions: expected 2 to 9, got {options.completions}.")
    if options.next is None:
        if options.reward_model:
            raise ConfigError("--reward-model is for --next uncertainty or disagreement. Name one of them.")
        return None
    from trivium.cli.asking import read_question

    return read_question(options.next, options.reward_model or [run / "R"], _tasks(run / "recipe.toml"))


def _trials(recipe: Path) -> Any:
    """What runs the answers of a run against its tasks' tests; None without a recipe."""
    tasks = _tasks(recipe)
    if tasks is None:
        return None
    from trivium.preferences.web.execution import Trials

    return Trials(tasks, tomllib.loads(recipe.read_text(encoding="utf-8"))["sandbox"]["minimum"])


def _playground(run: Path, trials: Any) -> Any:
    """The run's models to play with; None where there are none."""
    folders = {name: run / name for name in MODELS if (run / name / "config.json").is_file()}
    if not folders:
        return None
    from trivium.preferences.web.execution import Runner
    from trivium.preferences.web.playground import Playground

    return Playground(folders, Runner() if trials is None else trials.runner)


def _tasks(recipe: Path) -> Callable[[], Iterator[Any]] | None:
    """The tasks that a run collected answers to; None without a recipe."""
    if not recipe.is_file():
        return None
    # The recipe as resolved is read as it stands: its config classes would load torch.
    values = tomllib.loads(recipe.read_text(encoding="utf-8"))

    def tasks() -> Iterator[Any]:
        from trivium.stages.tasks import TaskConfig, collected_tasks

        collect = values["collect"]
        for round in range(values["rl"]["rounds"]):
            config = TaskConfig.model_validate(collect["tasks"])
            yield from collected_tasks(config, collect["later_tasks"], values["seed"], round)

    return tasks


def _set_completions(store: Any, completions: int, owner: str) -> None:
    from trivium.preferences.audit import read_settings, write_settings

    settings = read_settings(store)
    if settings.completions != completions:
        write_settings(store, settings.model_copy(update={"completions": completions}), owner)


def _check_extra() -> None:
    from importlib.util import find_spec

    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise ConfigError(
            f"the labelling page needs {', '.join(missing)}. Install the extra with `pip install 'trivium[label]'`, or "
            "judge elsewhere and use `trivium prefs import FILE.jsonl`."
        )


def _tls(options: argparse.Namespace) -> tuple[str, str] | None:
    if options.tls_cert is None and options.tls_key is None:
        return None
    both = {"--tls-cert": options.tls_cert, "--tls-key": options.tls_key}
    for name, path in both.items():
        if path is None:
            raise ConfigError(f"{name} is missing: TLS needs certificate and key.")
    for name, path in both.items():
        if not path.is_file():
            raise ConfigError(f"{name} {path} is no file. Name a PEM file.")
    return str(options.tls_cert), str(options.tls_key)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "me"


def _shown(location: str) -> str:
    from trivium.preferences.database import shown_location

    return shown_location(location)


def _port(text: str) -> int:
    number = positive(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return number
