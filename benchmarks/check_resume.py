"""Does a run that is killed again and again end as the run that was left alone? The answer, kill by kill.

    make check-resume
    make check-resume ARGS="--kills 50 --seed 0"
    make check-resume ARGS="--kills 5 --terms 5 --full 5 --keep /some/folder"

A small pipeline with two rounds is run once from corpus to report. Then it is run again, stopped by SIGKILL (and, on
request, by SIGTERM or by a disk on which nothing can be written any more) at moments drawn from the seed, and started
again each time, until it may finish. Both runs must hold the same files with the same content: weights, rows of
preferences.db, metrics and figures, clocks apart.

A third of the moments are seconds of a stage, a half are operations on the run's files (before or shortly after the
opening, renaming or deleting of a file, or a statement of a transaction), the rest are in the program's start.
"""

import argparse
import contextlib
import hashlib
import json
import os
import queue
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROBE = "CHECK_RESUME_PROBE"
NAME = "small"
REWARDS = '{"kind":"model"},{"kind":"execution","weight":0.2},{"kind":"length","weight":0.1}'
FLAGS = f"""
--compute.threads 1 --compute.precision fp32 --data.sources {ROOT / "src/trivium/objectives"} --tokenizer.vocab_size 400
--model.n_layers 2 --model.d_model 48 --pretrain.steps 6 --pretrain.batch_size 8 --pretrain.eval_every 3
--pretrain.eval_rows 8 --pretrain.checkpoint_every 2 --sft.tasks 120 --sft.eval_every 4 --sft.eval_tasks 4
--sft.batch_size 8 --sft.seq_len 256 --sft.checkpoint_every 2 --collect.tasks.count 24 --collect.later_tasks 12
--collect.samples 4 --collect.judge.type simulated --collect.max_new_tokens 12 --collect.chunk 8
--collect.heldout_fraction 0.3 --reward.allow_chance true --reward.normalise_samples 16 --reward.tasks.count 8
--reward.prompts_per_step 4 --reward.max_new_tokens 12 --reward.checkpoint_every 2 --rl.steps 2 --rl.rounds 2
--rl.prompts_per_step 6 --rl.samples_per_prompt 2 --rl.gold_responses 4 --rl.eval_tasks 4 --rl.tasks.count 40
--rl.max_new_tokens 12 --rl.checkpoint_every 1 --rl.sft_rows 2 --rl.normalise_samples 16
--rl.rewards [{REWARDS}] --evaluate.tasks.count 6
--evaluate.max_new_tokens 12 --evaluate.utility_prompts 4 --evaluate.bits_per_byte_rows 8
"""
FULL = 0
"""Stands among signals for a full disk."""
REPORT = "report"
"""What comes after the last stage: summary, lineage and the report, told here as if it were a stage."""
CLOCKS = {"time", "tokens_per_second", "wall_seconds", "train_seconds"}
TIMED = {"lineage.json", "report.html"}
"""Files that hold times beside what is compared elsewhere."""
MANIFEST = ("stage", "status", "fingerprint", "config", "inputs", "outputs", "result", "warnings")
BEGIN = re.compile(r"^([a-z]+(?:-\d+)?): (started|going on where it stopped|done before)")
END = re.compile(r"^([a-z]+(?:-\d+)?): done")


# The child: the command line under an audit hook that sees each operation on the run's files.


def probe(root: str, log: str, target: list[str], after: int, delay: float, number: int) -> None:
    """Log the operations on files under `root`, or strike `delay` seconds after the `after`-th that is `target`.

    To strike is to send this process signal `number`; `FULL` is a disk without space from then on.
    """
    seen = 0
    out = open(log, "a", buffering=1, encoding="utf-8") if log else None  # noqa: SIM115

    def strike() -> None:
        if number == FULL:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        elif number == signal.SIGKILL:
            os.killpg(0, signal.SIGKILL)
        else:
            os.kill(os.getpid(), number)

    def note(operation: str, what: str) -> None:
        nonlocal seen
        name = re.sub(r"\.\d+\.tmp$", ".tmp", what)
        if out:
            out.write(json.dumps([time.monotonic(), operation, name]) + "\n")
        elif [operation, name] == target:
            seen += 1
            if seen == after:
                threading.Timer(delay, strike).start() if delay else strike()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            if isinstance(arguments[0], (str, os.PathLike)):
                path = os.path.abspath(os.fspath(arguments[0]))
                if isinstance(path, str) and path.startswith(root):
                    note(event, path[len(root) :])

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = plain(*arguments, **options)
        connection.set_trace_callback(lambda sql: note("sql", " ".join(sql.split()[:3])))
        return connection

    plain, sqlite3.connect = sqlite3.connect, connect
    sys.addaudithook(hook)


def child() -> int:
    """`trivium ARGUMENTS` with the probe that the environment describes."""
    if told := os.environ.pop(PROBE, ""):
        probe(**json.loads(told))
    from trivium.cli import main

    return main(sys.argv[1:])


# The parent: runs, and strikes.


@dataclass(frozen=True)
class Strike:
    """One stop: when it is to come."""

    stage: str
    kind: str
    """`start` (of the program), `clock` (seconds of a stage) or `file` (an operation)."""
    seconds: float = 0.0
    target: tuple[str, str] = ("", "")
    after: int = 1
    number: int = signal.SIGKILL

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.seconds * 1000:.0f} ms after {' '.join(self.target)} ({self.after})"
        return f"{self.seconds:.2f} s into {'the program' if self.kind == 'start' else 'the stage'}"


@dataclass
class Trial:
    """One process from its start to its end."""

    code: int
    lines: list[tuple[float, str]]
    """What it said on standard error, with the seconds since its start."""
    stage: str
    """The stage it was in."""
    seconds: float
    output: str = ""


@dataclass
class Straight:
    """The run that is left alone: how long its stages took, what they did to files."""

    folder: Path
    trial: Trial
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    events: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "runs" / NAME


def command(*more: str) -> list[str]:
    """The small pipeline, in a folder of the process's own."""
    return ["run", *FLAGS.split(), "--runs_dir", "runs", "--name", NAME, "--json", *more]


def start(
    folder: Path, arguments: list[str], settings: dict[str, Any] | None = None, before: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """The command line in `folder`, in a process group of its own; `before` is a command that executes another."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    if settings:
        environment[PROBE] = json.dumps({"root": f"{folder.resolve()}/runs/{NAME}/", **settings})
    return subprocess.Popen(
        [*before, sys.executable, __file__, "--as-trivium", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts() -> None:
    """Whoever started this in the background made it, and so its children, deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def attend(process: subprocess.Popen[str], strike: Strike | None = None) -> Trial:
    """Read what a process says until it ends; strike at the moment told, or when its stage ends before that."""
    began, stage = time.monotonic(), "start-up"
    lines: list[tuple[float, str]] = []
    said: queue.Queue[tuple[float, str] | None] = queue.Queue()
    output: list[str] = []
    assert process.stdout is not None and process.stderr is not None
    out, err = process.stdout, process.stderr

    def listen() -> None:
        for line in err:
            said.put((time.monotonic(), line.rstrip("\n")))
        said.put(None)

    readers = [threading.Thread(target=listen), threading.Thread(target=lambda: output.append(out.read()))]
    for reader in readers:
        reader.start()
    deadline = began + strike.seconds if strike and strike.kind == "start" else float("inf")
    struck = False
    while True:
        try:
            entry = said.get(timeout=min(max(0.0, deadline - time.monotonic()), 300))
        except queue.Empty:
            if time.monotonic() < deadline:
                continue
            deadline = float("inf")
            struck = _hit(process, strike)
            continue
        if entry is None:
            break
        at, line = entry
        lines.append((at - began, line))
        first, last = BEGIN.match(line), END.match(line)
        if struck or not (first or last):
            continue
        stage = REPORT if last and last[1] == "evaluate" else (first or last or [""])[1]
        if strike is None or strike.kind == "start":
            continue
        if last and last[1] == strike.stage:  # it ended before the moment came: between two stages is a moment too
            struck = _hit(process, strike)
        elif stage == strike.stage and strike.kind == "clock":
            deadline = at + strike.seconds
    code = process.wait()
    for reader in readers:
        reader.join()
    return Trial(code, lines, stage, time.monotonic() - began, "".join(output))


def _hit(process: subprocess.Popen[str], strike: Strike | None) -> bool:
    assert strike is not None
    with contextlib.suppress(ProcessLookupError):
        if strike.number == signal.SIGKILL:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid, strike.number)
    return True


def run_straight(folder: Path) -> Straight:
    """The uninterrupted run, watched."""
    log = folder / "operations.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    origin = time.monotonic()
    watch = {"log": str(log.resolve()), "target": [], "after": 0, "delay": 0.0, "number": 0}
    trial = attend(start(folder, command(), watch))
    if trial.code != 0:
        raise SystemExit("the uninterrupted run failed:\n" + "\n".join(line for _, line in trial.lines))
    straight = Straight(folder, trial)
    for at, line in trial.lines:
        if first := BEGIN.match(line):
            straight.spans[first[1]] = (at, trial.seconds)
        if last := END.match(line):
            straight.spans[last[1]] = (straight.spans[last[1]][0], at)
    straight.spans[REPORT] = (straight.spans["evaluate"][1], trial.seconds)
    for text in log.read_text().splitlines():
        at, operation, name = json.loads(text)
        for stage, (first, last) in straight.spans.items():
            if first <= at - origin < last:
                straight.events.setdefault(stage, []).append((operation, name))
    return straight


def plan(straight: Straight, kills: int, terms: int, full: int, seed: int) -> list[Strike]:
    """The moments, in the order of the pipeline, spread evenly over its stages."""
    chance = random.Random(f"strikes {seed}")
    stages = list(straight.spans)
    before = straight.spans[stages[0]][0]  # how long the program takes to start
    signals = [int(signal.SIGKILL)] * kills + [int(signal.SIGTERM)] * terms + [FULL] * full
    chance.shuffle(signals)
    strikes = []
    for index, number in enumerate(signals):
        stage = stages[min(int((index + chance.random()) * len(stages) / len(signals)), len(stages) - 1)]
        begin, end = straight.spans[stage]
        kind = "file" if number == FULL else chance.choices(("start", "clock", "file"), (1, 2, 3))[0]
        if kind == "start":
            strikes.append(Strike(stage, kind, chance.uniform(0, before), number=number))
        elif kind == "clock" or not straight.events.get(stage):
            strikes.append(Strike(stage, "clock", chance.uniform(0, end - begin), number=number))
        else:
            counts = Counter(straight.events[stage])
            writes = [each for each in sorted(counts) if number != FULL or each[0] == "open" or "INSERT" in each[1]]
            target = chance.choice(writes or sorted(counts))
            delay = chance.choice((0.0, chance.uniform(0, 0.02)))
            strikes.append(Strike(stage, kind, delay, target, chance.randint(1, min(counts[target], 3)), number))
    return strikes


def stop(folder: Path, arguments: list[str], strike: Strike) -> Trial:
    """Start the command line and strike."""
    settings = None
    if strike.kind == "file":
        settings = {"log": "", "target": strike.target, "after": strike.after, "delay": strike.seconds}
        settings["number"] = int(strike.number)
    return attend(start(folder, arguments, settings), strike)


def run_struck(folder: Path, strikes: list[Strike]) -> tuple[Trial, Counter[tuple[str, str]], list[str]]:
    """Stop and start again; the last process, which may finish, how often each stage was hit, and what was wrong."""
    hits: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    for number, strike in enumerate(strikes, 1):
        trial = stop(folder, command(), strike)
        name = "disk full" if strike.number == FULL else signal.Signals(strike.number).name
        said = trial.lines[-1][1] if trial.lines else ""
        ended = "finished" if trial.code == 0 else "stopped" if trial.code == 130 else f"code {trial.code}"
        ended = "killed" if trial.code == -signal.SIGKILL else ended
        hits[trial.stage, strike.kind] += 1
        print(f"{number:>4}  {name:<9}  {trial.stage:<10} {trial.seconds:>6.2f} s  {ended:<8}  {strike}", flush=True)
        early = strike.kind == "start" and trial.code == -strike.number  # before the program listens to signals
        expected = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {130}, FULL: {1}}[strike.number]
        if trial.code not in expected | {0} and not early:
            wrong.append(f"stop {number} ended with code {trial.code}: {said}")
        if any("Traceback" in line for _, line in trial.lines):
            wrong.append(f"stop {number} showed a traceback: {said}")
    return attend(start(folder, command())), hits, wrong


# The comparison.


def content(path: Path) -> Any:
    """What must be equal in two runs, of one file."""
    if path.name == "manifest.json" and path.parent.name != "shards":
        manifest = json.loads(path.read_text())
        return {key: manifest[key] for key in MANIFEST}
    if path.name == "metrics.jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == "summary.json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix == ".db":
        return database(path)
    if path.name in TIMED:
        return "present"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in CLOCKS}
    return value


def database(path: Path) -> dict[str, list[str]]:
    """All rows of all tables, without the time at which they were written."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: sorted(
                json.dumps({key: row[key] for key in row.keys() if key not in ("created", "applied")})  # noqa: SIM118
                for row in connection.execute(f"SELECT * FROM {table}")
            )
            for table in tables
        }


def files(run: Path) -> dict[str, Path]:
    """Every file of a run but its lock."""
    found = {path.relative_to(run).as_posix(): path for path in sorted(run.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name != ".lock"}


def differences(straight: Path, struck: Path) -> list[str]:
    """One line for each file that is not the same in both runs."""
    ours, theirs = files(straight), files(struck)
    found = [f"{name} is only in {'the first' if name in ours else 'the second'} run" for name in ours.keys() ^ theirs]
    for name in sorted(ours.keys() & theirs.keys()):
        first, second = content(ours[name]), content(theirs[name])
        if first != second:
            found.append(f"{name} differs{_detail(first, second)}")
    return found


def _detail(first: Any, second: Any) -> str:
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [key for key in first if first[key] != second.get(key)]
        parts = [f"{key}: {str(first[key])[:200]} / {str(second.get(key))[:200]}" for key in keys[:3]]
        return f" in {'; '.join(parts)}"
    return f": {str(first)[:300]} / {str(second)[:300]}" if isinstance(first, list) else ""


def report(straight: Straight, struck: Path, hits: Counter[tuple[str, str]]) -> None:
    """The tables: stops by stage and kind, weights by hash."""
    kinds = ("start", "clock", "file")
    print(f"\n{'stops in':<12}" + "".join(f"{kind:>8}" for kind in kinds))
    for stage in ["start-up", *straight.spans]:
        print(f"{stage:<12}" + "".join(f"{hits[stage, kind]:>8}" for kind in kinds))
    print(f"\n{'weights':<36}{'left alone':<20}{'stopped':<20}")
    theirs = files(struck)
    for name, path in files(straight.run).items():
        if name.endswith(".safetensors"):
            other = content(theirs[name]) if name in theirs else "missing"
            print(
                f"{name:<36}{content(path)[:16]:<20}{other[:16]:<20}{'equal' if content(path) == other else 'DIFFER'}"
            )
    rows = {table: len(lines) for table, lines in database(struck / "preferences.db").items()}
    print(f"\nrows of preferences.db: {', '.join(f'{table} {count}' for table, count in rows.items())}")


def main() -> int:
    """Run the check; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="stops by SIGKILL [%(default)s]")
    parser.add_argument("--terms", type=int, default=0, help="stops by SIGTERM [%(default)s]")
    parser.add_argument("--full", type=int, default=0, help="stops by a full disk [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [%(default)s]")
    parser.add_argument("--keep", type=Path, help="folder for both runs, which stay; otherwise a temporary one")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="check-resume-"))
    began = time.monotonic()
    try:
        straight = run_straight(folder / "straight")
        print(f"left alone: {straight.trial.seconds:.1f} s, {len(straight.spans)} stages", flush=True)
        strikes = plan(straight, options.kills, options.terms, options.full, options.seed)
        last, hits, wrong = run_struck(folder / "struck", strikes)
        struck = folder / "struck" / "runs" / NAME
        if last.code != 0:
            print("\n".join(line for _, line in last.lines))
            print(f"the last start failed with code {last.code}")
            return 1
        report(straight, struck, hits)
        wrong += differences(straight.run, struck)
        print(
            "\n".join(["", *wrong]) if wrong else "\nno difference: files, weights, rows, metrics and figures are equal"
        )
        print(f"{len(strikes)} stops, seed {options.seed}, {time.monotonic() - began:.0f} s in all")
        return 1 if wrong else 0
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-trivium"]:
        del sys.argv[1]
        sys.exit(child())
    sys.exit(main())
