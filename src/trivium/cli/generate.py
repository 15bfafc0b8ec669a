"""`trivium generate`: complete prompts given on the command line, in a file or on standard input."""

import sys
import time
from argparse import ArgumentTypeError, Namespace
from dataclasses import asdict
from pathlib import Path

from trivium.base.errors import InputError
from trivium.cli.arguments import Arguments, positive, print_json, whole
from trivium.cli.invocation import Invocation


def run(invocation: Invocation) -> int:
    """Complete prompts with a model."""
    options = _parser().read(invocation.arguments)
    prompts = _prompts(options)
    suffix = None if options.suffix_file is None else _read(options.suffix_file, "what comes after the gap")
    system = options.system if options.chat or options.system else None
    if suffix is not None and system is not None:
        raise InputError("--suffix-file fills a gap in a text, --chat and --system ask in a conversation. Give one.")

    from trivium.base.log import format_number, route_warnings, say
    from trivium.generation.completer import Completer, sample_seeds

    route_warnings()
    completer = Completer(options.model)
    single = len(prompts) == 1 and options.n == 1 and not options.json
    echo = [prompts[0]] if system is None else []  # shown once the model has taken it

    def show(text: str) -> None:
        _write("".join([*echo, text]))
        echo.clear()

    began = time.perf_counter()
    asked = [prompt for prompt in prompts for _ in range(options.n)]
    answers = completer.answer(
        [completer.encode(prompt, system=system, suffix=suffix) for prompt in asked],
        sample_seeds(asked, options.seed),
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        on_text=show if single else None,
    )
    seconds = time.perf_counter() - began
    if options.json:
        print_json([{"prompt": prompt, **asdict(answer)} for prompt, answer in zip(asked, answers, strict=True)])
    elif single:
        show((suffix or "") + "\n")
    else:
        for number, (prompt, answer) in enumerate(zip(asked, answers, strict=True), start=1):
            shown = prompt if system is None else ""
            _write(f"--- {number} of {len(asked)} ({answer.finish})\n{shown}{answer.text}{suffix or ''}\n")
    tokens = sum(answer.tokens for answer in answers)
    cut = sum(answer.finish == "length" for answer in answers)
    note = f", {cut} cut at their cap" if cut else ""
    say(f"{tokens} tokens in {seconds:.1f}s, {format_number(round(tokens / seconds, 1))} a second{note}")
    return 0


def _parser() -> Arguments:
    parser = Arguments("generate", "Complete prompts with a model.")
    parser.add_argument("model", type=Path, help="model directory, for example runs/quickstart/M2")
    parser.add_argument(
        "prompt", nargs="?", help=r"what to complete, with \n for a new line; - reads one a line from stdin"
    )
    parser.add_argument("--file", type=Path, help="read the whole prompt from a file")
    parser.add_argument("--chat", action="store_true", help="send the prompt as a user's turn of a conversation")
    parser.add_argument("--system", default="", help="what the conversation begins with; implies --chat")
    parser.add_argument(
        "--suffix-file", type=Path, help="fill in what belongs between the prompt and the text of this file"
    )
    parser.add_argument("--n", type=positive, default=1, help="answers to each prompt [%(default)s]")
    parser.add_argument(
        "--temperature", type=temperature, default=1.0, help="of the softmax, 0 is greedy [%(default)s]"
    )
    parser.add_argument("--max-new-tokens", type=positive, default=256, help="cap on an answer [%(default)s]")
    parser.add_argument("--seed", type=whole, default=0, help="equal seeds give equal answers [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print the answers as JSON")
    return parser


def temperature(text: str) -> float:
    """An argparse type: a finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return number


def _prompts(options: Namespace) -> list[str]:
    if options.file is not None:
        if options.prompt is not None:
            raise InputError("give a prompt or --file, not both.")
        text = _read(options.file, "the prompt")
        if not text.strip():
            raise InputError(f"{options.file} holds no prompt. Write one into it.")
        return [text]
    if options.prompt is None:
        raise InputError("there is no prompt. Give one, name a --file, or - for one a line from standard input.")
    lines = sys.stdin.read().splitlines() if options.prompt == "-" else [options.prompt]
    # A shell argument or a line holds no line break, and code needs them.
    prompts = [line.replace("\\n", "\n") for line in lines if line.strip()]
    if not prompts:
        where = "on standard input. Write one a line" if options.prompt == "-" else "in an empty text. Give one"
        raise InputError(f"there is no prompt {where}.")
    if any("\ud800" <= character <= "\udfff" for prompt in prompts for character in prompt):
        raise InputError("the prompt is not UTF-8. Name a --file that holds it, in UTF-8.")
    return prompts


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: {reason}. Name a text file that holds {what}.") from None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
