"""How fast the sandbox runs programs, against two ways that others use and that protect nothing.

    python benchmarks/sandbox.py                     the whole table: some minutes
    python benchmarks/sandbox.py --quick             the same, coarser
    python benchmarks/sandbox.py --tasks FILE ...    reference solutions of HumanEval or MBPP files: do all pass?
    python benchmarks/sandbox.py --run runs/NAME     the programs that a finished run's collection executed
    python benchmarks/sandbox.py --soak 20000        many programs of all kinds: does anything grow?

The sandbox and its rivals take turns (A B C A B C ...); a ratio is the median of the turns' ratios, so that what else
the machine does weighs on all of them alike. `fork per sample` is in the manner of HumanEval's harness.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from rivals import RIVALS, Check, run_all
from turns import Work, ratios, take_turns

from trivium.base.errors import InputError
from trivium.sandbox import Job, Sandbox
from trivium.sandbox.jail import enclosure, landlock, lockdown, namespaces, program, seccomp, syscalls

OURS = "sandbox"
TRIVIAL = [
    Job(f"def f(x):\n    return x + {number}\n", [f"assert f(1) == {number + 1}"], entry_points=["f"])
    for number in range(100)
]


def ladder() -> list[Job]:
    """Reference solutions of the built-in ladder, with some asserts each: the size of HumanEval's."""
    from trivium.tasks.ladder import generate_tasks

    return [
        Job(f"{task.prompt}{task.solution}", task.tests, task.setup, [task.entry_point])
        for task in generate_tasks(100, seed=0)
    ]


# ---------------------------------------------------------------- speed


def passes(name: str, jobs: Sequence[Job], workers: int, sandbox: Sandbox) -> list[bool]:
    """Which of the programs pass, as the contestant finds."""
    if name == OURS:
        return [result.passed for result in sandbox.run_many(jobs)]
    checks = [Check("\n".join([job.program, job.prelude, *map(str, job.tests)])) for job in jobs]
    return run_all(RIVALS[name], checks, workers)


def ran(name: str, jobs: Sequence[Job], workers: int, sandbox: Sandbox) -> float:
    """Run programs, all of which must pass; their number."""
    passed = passes(name, jobs, workers, sandbox)
    assert all(passed), f"{name}: {passed.count(False)} of {len(passed)} did not pass"
    return len(jobs)


def compare(jobs: Sequence[Job], workers: int, repeats: int, seconds: float) -> dict[str, Any]:
    """Rates of all, and the ratios of the sandbox's to each rival's, turn by turn."""
    with Sandbox(workers=workers) as sandbox:

        def contestant(name: str, count: int) -> Work:
            chosen = [jobs[i % len(jobs)] for i in range(count)]
            return lambda: ran(name, chosen, workers, sandbox)

        names = (OURS, *RIVALS)
        first = take_turns({name: contestant(name, 4 * workers) for name in names}, turns=1)
        counts = {
            name: max(4 * workers, int(seconds * first[name][0])) for name in names
        }  # each runs for about as long
        rates = take_turns({name: contestant(name, counts[name]) for name in names}, repeats, warmups=0)
    compared = {name: ratios(rates, OURS, name) for name in RIVALS}
    return {
        "programs/s": {name: statistics.median(found) for name, found in rates.items()},
        "ratio": {name: statistics.median(found) for name, found in compared.items()},
        "ratio, lowest": {name: min(found) for name, found in compared.items()},
    }


def latency(jobs: Sequence[Job], count: int) -> dict[str, float]:
    """One program now and then: milliseconds from call to result."""
    times, used = [], []
    with Sandbox(workers=1) as sandbox:
        for i in range(count + 20):
            time.sleep(0.02)  # back to back, it would compete with the preparation of its successor
            began = time.perf_counter()
            result = sandbox.run_job(jobs[i % len(jobs)])
            if i >= 20:
                times.append((time.perf_counter() - began) * 1000)
                used.append(result.cpu_seconds * 1000)
    times.sort()
    return {
        "p50 ms": times[len(times) // 2],
        "p99 ms": times[len(times) * 99 // 100],
        "CPU ms of both processes": statistics.mean(used),
    }


def layers(repeats: int) -> dict[str, float]:
    """What the layers cost: milliseconds for the two processes of a program, beyond forking and warming them up.

    Measured in a child that stands for a worker, as the layers stay on for good.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(sending, json.dumps(_layers(repeats)).encode())
        finally:
            os._exit(0)
    os.close(sending)
    with open(receiving, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {}


def _layers(repeats: int) -> dict[str, float]:
    null = os.open(os.devnull, os.O_RDWR)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    restrict = None
    if landlock.abi():
        restrict = landlock.restriction(landlock.make_ruleset(["/usr/lib"], namespaces.DEVICES, None))
    seccomp.install(seccomp.assemble(seccomp.base_filter(scratch=True, write_opens=True)))
    limits = lockdown.Request(10.0, 5.0, 1 << 29, 1 << 22, 64, 64).limits(enclosure.OWN_PROCESSES)
    me, dying = os.getpid(), syscalls.prepare("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    cages = {
        "limits and descriptors": lockdown.Cage(me, None, None, 0, dying),
        "Landlock": lockdown.Cage(me, restrict, None, 0, dying),
        "seccomp": lockdown.Cage(me, restrict, seccomp.ChildFilter(), 0, dying),
    }
    times: dict[str, list[float]] = {name: [] for name in ("forks", *cages)}
    for _ in range(repeats):
        for name, found in times.items():
            began = time.perf_counter()
            pid = syscalls.fork()
            if pid == 0:
                try:
                    if name in cages:
                        cages[name].lock([null] * 5, limits)
                    program.warm_up()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            found.append((time.perf_counter() - began) * 2000)
    medians = {name: statistics.median(found) for name, found in times.items()}
    costs, before = {"two forks": medians["forks"]}, medians["forks"]
    for name in cages:
        costs[name], before = medians[name] - before, medians[name]
    return costs | {"all layers": before - medians["forks"]}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    repeats, seconds = (3, 0.4) if options.quick else (options.repeats, 1.5)
    figures: dict[str, Any] = {"latency": {}, "throughput": {}}
    sets = {"trivial": TRIVIAL, "ladder": ladder()}
    for name, jobs in sets.items():
        figures["latency"][name] = latency(jobs, 100 if options.quick else 500)
        for workers in options.workers:
            figures["throughput"][f"{name}, {workers} worker"] = compare(jobs, workers, repeats, seconds)
    figures["layers, ms a program"] = layers(100 if options.quick else 500)
    if options.parent_mib:
        ballast = b"\1" * (options.parent_mib << 20)  # written to, so that a fork must copy its page tables
        place = f"trivial, 1 worker, parent of {len(ballast) >> 20} MiB"
        figures["throughput"][place] = compare(TRIVIAL, 1, repeats, seconds)
    return figures


def show(figures: dict[str, Any]) -> None:
    print("\nprograms/s" + " " * 38 + "".join(f"{name:>17}" for name in (OURS, *RIVALS)))
    for name, found in figures["throughput"].items():
        print(f"{name:<48}" + "".join(f"{value:>17.1f}" for value in found["programs/s"].values()))
    print("\nsandbox against, median (lowest)" + " " * 33 + "".join(f"{name:>17}" for name in RIVALS))
    for name, found in figures["throughput"].items():
        texts = [f"{found['ratio'][rival]:.1f} ({found['ratio, lowest'][rival]:.1f})" for rival in RIVALS]
        print(f"{name:<65}" + "".join(f"{text:>17}" for text in texts))
    for name, found in [*figures["latency"].items(), ("layers, ms a program", figures["layers, ms a program"])]:
        print(f"\n{name:<24}" + "   ".join(f"{key} {value:.2f}" for key, value in found.items()))


# ---------------------------------------------------------------- a run's own programs


def collected(run: Path) -> list[Job]:
    """The distinct programs, with their tests, that the first collection of a finished run executed."""
    from trivium.base.recipe import load_config
    from trivium.preferences.store import PreferenceStore
    from trivium.stages.pipeline import Recipe
    from trivium.stages.tasks import collected_tasks
    from trivium.tasks.check import CHECK_LIMITS
    from trivium.tasks.extract import extract_completion
    from trivium.tasks.extract import program as with_prompt

    recipe = load_config(Recipe, run / "recipe.toml")
    settings = recipe.collect
    tasks = {task.id: task for task in collected_tasks(settings.tasks, settings.later_tasks, recipe.seed, 0)}
    jobs: dict[tuple[str, str], Job] = {}
    with PreferenceStore(run / "preferences.db", create=False) as store:
        names = {prompt.id: prompt.task for prompt in store.prompts()}
        for found in store.completions(round=0):
            task = tasks[names[found.prompt_id]]
            source = with_prompt(task, extract_completion(task.prompt, found.sample.text))
            jobs[task.id, source] = Job(source, task.tests, task.setup, None, CHECK_LIMITS)
    return list(jobs.values())


def compare_on_run(run: Path, sample: int, repeats: int, workers: int) -> int:
    """Print how fast each contestant runs a sample of the run's programs, and what all of them cost it."""
    jobs = collected(run)
    chosen = Random(0).sample(jobs, min(sample, len(jobs)))
    verdicts: dict[str, list[bool]] = {}

    def contestant(name: str, sandbox: Sandbox) -> Work:
        def work() -> float:
            verdicts[name] = passes(name, chosen, workers, sandbox)
            return len(chosen)

        return work

    with Sandbox(workers=workers) as sandbox:
        rates = take_turns({name: contestant(name, sandbox) for name in (OURS, *RIVALS)}, repeats)
    print(f"{len(jobs)} distinct programs, {len(chosen)} of them in each turn, {workers} workers")
    for name, found in rates.items():
        rate, compared = statistics.median(found), ratios(rates, OURS, name)
        print(
            f"{name:<16} {rate:6.1f} programs/s  all {len(jobs) / rate:5.0f} s  "
            f"sandbox against it {statistics.median(compared):.2f} ({min(compared):.2f} to {max(compared):.2f})  "
            f"{sum(verdicts[name])} passed, "
            f"{sum(a != b for a, b in zip(verdicts[name], verdicts[OURS], strict=True))} verdicts differ"
        )
    return 0


# ---------------------------------------------------------------- reference solutions


def check_references(paths: Sequence[str]) -> int:
    """Run the files' own solutions; say which do not pass. Raises InputError: a file is no task file."""
    from trivium.tasks.check import check_completions
    from trivium.tasks.formats import load_tasks

    failed = 0
    with Sandbox() as sandbox:
        for path in paths:
            tasks = [task for task in load_tasks(path) if task.solution]
            outcomes = check_completions(tasks, [task.solution for task in tasks], sandbox)
            wrong = [(task, outcome) for task, outcome in zip(tasks, outcomes, strict=True) if not outcome.passed]
            print(f"{path}: {len(tasks) - len(wrong)} of {len(tasks)} reference solutions pass")
            for task, outcome in wrong:
                print(f"  {task.id}: {outcome.verdict} {outcome.reason} {outcome.message}")
            failed += len(wrong)
    return 1 if failed else 0


# ---------------------------------------------------------------- soak

GROWTH_BYTES = 5 << 20
KINDS = {
    "passed": TRIVIAL[0],
    "failed": Job("x = bytearray(50 << 20)\ndef f(): return 1", ["assert f() == 2"], entry_points=["f"]),
    "error": Job("import threading\nthreading.Thread(target=print).start()\n1 / 0", ["pass"], entry_points=[]),
    "killed": Job("import os\nopen('a', 'w').write('x' * 99999)\nos._exit(1)", ["pass"], entry_points=[]),
    "memory": Job("def f(): return [0] * 10**9", ["f()"], entry_points=["f"]),
}


def state(sandbox_pids: Sequence[int]) -> dict[str, int]:
    """What could grow: descriptors, memory and mounts of this process, and memory and number of the workers."""
    resident = [_resident(pid) for pid in sandbox_pids]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "KiB": _resident(os.getpid()) >> 10,
        "processes": len(resident),
        "largest worker, KiB": max(resident, default=0) >> 10,
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
        "temporary files": sum(name.startswith("sandbox-probe-") for name in os.listdir(tempfile.gettempdir())),
    }


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # gone in the meantime
        return 0


def below(pid: int) -> list[int]:
    """All processes that descend from `pid`."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return sorted(found)


def soak(programs: int) -> int:
    """Run many programs of all kinds and watch what could grow. Returns 1 if something did."""
    began, counts, states = time.perf_counter(), dict.fromkeys(KINDS, 0), list[dict[str, int]]()
    step = max(50, programs // 20)
    with Sandbox(workers=2) as sandbox:
        sandbox.run_many(list(KINDS.values()) * 10)
        done = 0
        while done < programs:
            names = [list(KINDS)[i % len(KINDS)] for i in range(min(step, programs - done))]
            for name, result in zip(names, sandbox.run_many(KINDS[name] for name in names), strict=True):
                if result.verdict != name:
                    print(f"a program that should be {name} is {result.verdict}: {result}")
                    return 1
                counts[name] += 1
            done += len(names)
            states.append(state(below(os.getpid())))
            print(
                f"{done:>7} programs  " + "  ".join(f"{key} {value}" for key, value in states[-1].items()), flush=True
            )
    left = below(os.getpid())
    first, last = states[0], states[-1]
    growth = max(last["KiB"] - first["KiB"], last["largest worker, KiB"] - first["largest worker, KiB"]) << 10
    same = all(last[key] <= first[key] for key in ("descriptors", "mounts", "temporary files"))
    flat = growth <= GROWTH_BYTES and same and last["processes"] <= first["processes"] + 2 and not left
    print(f"{done} programs in {time.perf_counter() - began:.0f} s: {counts}")
    print(f"memory grew by {growth >> 10} KiB, processes left {len(left)}: {'flat' if flat else 'NOT FLAT'}")
    return 0 if flat else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parent-mib", type=int, default=2048, help="size of the large parent, 0 for none")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tasks", nargs="+", metavar="FILE", help="check these files' reference solutions instead")
    parser.add_argument("--run", type=Path, metavar="DIR", help="compare on this run's own programs instead")
    parser.add_argument("--sample", type=int, default=500, help="how many of the run's programs each turn takes")
    parser.add_argument("--soak", type=int, metavar="PROGRAMS", help="run so many programs and watch what grows")
    options = parser.parse_args()
    if options.tasks:
        return check_references(options.tasks)
    if options.soak:
        return soak(options.soak)
    if options.run:
        return compare_on_run(options.run, options.sample, options.repeats, max(options.workers))
    figures = measure(options)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as problem:
        sys.exit(f"error: {problem}")
