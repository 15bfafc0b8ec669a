"""`trivium COMMAND ...`: finds the command, runs it, and turns whatever happens into an exit code and one line."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from trivium.base.errors import StopSignal
from trivium.cli.failures import report
from trivium.cli.invocation import Invocation


class Command(NamedTuple):
    """Where a command's function is, and what it does."""

    target: str
    """`module:function`; the function takes an `Invocation` and returns an exit code or None."""
    summary: str


COMMANDS = {
    "run": Command("trivium.cli.stages:run", "the whole pipeline: M0, M1, R and M2 from one recipe"),
    "tokenizer": Command("trivium.cli.stages:run_stage", "train the tokenizer on the corpus"),
    "data": Command("trivium.cli.stages:run_stage", "turn the corpus into token shards"),
    "pretrain": Command("trivium.cli.stages:run_stage", "train M0 on the corpus by next-token prediction"),
    "sft": Command("trivium.cli.stages:run_stage", "fine-tune M0 on prompts and responses: M1"),
    "collect": Command("trivium.cli.stages:run_stage", "sample answers from M1 and have them compared"),
    "reward": Command("trivium.cli.stages:run_stage", "train the reward model R on the comparisons"),
    "rl": Command("trivium.cli.stages:run_stage", "improve M1 against R by PPO: M2"),
    "evaluate": Command("trivium.cli.stages:run_stage", "measure M0, M1 and M2 on held-out tasks"),
    "prefs": Command("trivium.cli.prefs:run", "label answers in the browser; import, export and count preferences"),
    "generate": Command("trivium.cli.generate:run", "complete prompts with a model"),
    "chat": Command("trivium.cli.chat:run", "talk to a model in the terminal"),
    "convert": Command("trivium.cli.convert:run", "copy a model directory, with its weights in another precision"),
    "runs": Command("trivium.cli.runs:run", "list runs with their stages and parents"),
    "report": Command("trivium.cli.runs:report", "write a run's report.html"),
    "doctor": Command("trivium.cli.doctor:run", "check machine, sandbox, recipe, data set or model directory"),
}

HELP = """\
usage: trivium COMMAND [RECIPE.toml] [--section.field value ...]

Train small language models end to end: pretraining (M0), supervised fine-tuning (M1), a reward model (R)
and reinforcement learning from it (M2).

{commands}

`trivium COMMAND --help` describes a command, `trivium run --help` all settings of a recipe.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; under `torchrun`, as one of several ranks.

    A rank ends without Python's own clearing up, in which workers of torch's gloo backend abort now and then.

    Args:
        argv: arguments after the program's name; those of the process by default.
    Returns:
        0 done, 1 the run failed, 2 the input was wrong, 130 interrupted.
    """
    code = _main(argv)
    if "trivium.base.ranks" in sys.modules:
        from trivium.base import ranks

        if ranks.world() > 1:
            if code == 0:
                ranks.leave()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _main(argv: Sequence[str] | None) -> int:
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h", "help"):
        print(
            HELP.format(commands="\n".join(f"  {key:<10} {value.summary}" for key, value in COMMANDS.items())), end=""
        )
        return 0
    if name == "--version":
        from trivium import __version__

        print(f"trivium {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"trivium: there is no command {name[:40]!r}. {_suggestion(name)}", file=sys.stderr)
        return 2
    invocation = Invocation(name, arguments)
    previous = _stop_on_signals()
    try:
        return _load(COMMANDS[name].target)(invocation) or 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BrokenPipeError:
        # The reader of our output left (`trivium runs | head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:  # every failure ends here, as one line and an exit code
        return report(error, invocation)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _load(target: str) -> Any:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    return f"Did you mean `trivium {near[0]}`?" if near else "`trivium --help` lists the commands."


def _stop_on_signals() -> dict[int, Any]:
    """SIGTERM stops like Ctrl-C, so that a cluster's notice leaves a resumable run. Returns the handlers replaced."""

    def stop(number: int, frame: object) -> None:
        raise StopSignal

    previous: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:  # whoever started us wants it so, as nohup does
            continue
        try:
            previous[number] = signal.signal(number, stop)
        except ValueError:  # not the main thread
            break
    return previous
