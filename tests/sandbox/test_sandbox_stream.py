"""Streams of jobs: order, bounded look-ahead, event loops, early ends."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from trivium.sandbox import Case, Job, Limits, Result, Sandbox, SandboxError


def job(number: int, pause: float = 0.0) -> Job:
    program = f"import time\ntime.sleep({pause})\ndef f(): return {number}"
    return Job(program, [f"assert f() == {number} and {number} != 5"], entry_points=["f"])


def verdicts(count: int) -> list[str]:
    return ["failed" if number == 5 else "passed" for number in range(count)]


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_endless_stream_is_drawn_with_bounded_look_ahead(ahead: int, sandbox: Sandbox) -> None:
    drawn = 0

    def jobs() -> Iterator[Job]:
        nonlocal drawn
        for drawn in itertools.count(1):
            yield job(drawn - 1)

    results: list[Result] = []
    for result in itertools.islice(sandbox.stream(jobs(), ahead), 12):
        results.append(result)
        assert drawn < len(results) + ahead
    assert [result.verdict for result in results] == verdicts(12)
    assert sandbox.run_job(job(0)).passed  # the rest is given up without harm


def test_slow_program_delays_no_other_and_keeps_its_place(sandbox: Sandbox) -> None:
    jobs = [job(0, pause=0.5), *map(job, range(1, 9))]
    assert [result.verdict for result in sandbox.stream(jobs)] == verdicts(9)


def test_run_async_runs_side_by_side(sandbox: Sandbox) -> None:
    async def main() -> list[Result]:
        runs = [sandbox.run_async("def f(): return 1", ["assert f() == 1"], entry_points=["f"]) for _ in range(6)]
        return await asyncio.gather(*runs)

    assert all(result.passed for result in asyncio.run(main()))


def test_stream_async_keeps_order_from_both_kinds_of_source(sandbox: Sandbox) -> None:
    async def jobs() -> AsyncIterator[Job]:
        for number in range(8):
            await asyncio.sleep(0)
            yield job(number)

    async def main() -> list[list[str]]:
        return [
            [result.verdict async for result in sandbox.stream_async(source)] for source in (jobs(), map(job, range(8)))
        ]

    assert asyncio.run(main()) == [verdicts(8)] * 2


def test_stream_async_gives_results_to_a_source_that_waits_for_them(sandbox: Sandbox) -> None:
    """As where the next job depends on the last result: neither waits for the other for ever."""

    async def main() -> int:
        seen = asyncio.Semaphore(1)

        async def jobs() -> AsyncIterator[Job]:
            for number in range(4):
                await seen.acquire()
                yield job(number)

        count = 0
        async for result in sandbox.stream_async(jobs(), ahead=4):
            assert result.passed
            count += 1
            seen.release()
        return count

    assert asyncio.run(asyncio.wait_for(main(), 60)) == 4


def test_cancelled_run_harms_no_later_one(sandbox: Sandbox) -> None:
    async def main() -> Result:
        sleeping = asyncio.create_task(
            sandbox.run_async("import time\ntime.sleep(9)", ["pass"], limits=Limits(wall_seconds=0.5))
        )
        await asyncio.sleep(0.05)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        return await sandbox.run_async("def f(): return 1", ["assert f() == 1"])

    assert asyncio.run(main()).passed


def test_failing_sources_and_jobs_are_raised(sandbox: Sandbox) -> None:
    async def jobs() -> AsyncIterator[Job]:
        yield job(0)
        raise RuntimeError("no more")

    async def main() -> None:
        async for _ in sandbox.stream_async(jobs()):
            pass

    with pytest.raises(RuntimeError, match="no more"):
        asyncio.run(main())
    with pytest.raises(ValueError, match="plain data"):
        list(sandbox.stream([job(0), Job("f = print", [Case(args=[object()])], entry_points=["f"])]))
    with pytest.raises(SandboxError, match="ahead is 0"):
        sandbox.stream([], ahead=0)
    assert list(sandbox.stream([])) == []


def test_closing_sends_away_those_who_wait_for_a_worker() -> None:
    outcomes: list[str] = []

    def run() -> None:
        try:
            outcomes.append(closing.run_job(job(0, pause=0.3)).verdict)
        except SandboxError as error:
            outcomes.append(str(error))

    with Sandbox(workers=1) as closing:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        while not closing._idle.empty():
            pass
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert "passed" in outcomes and all(outcome == "passed" or "closed" in outcome for outcome in outcomes)
    with pytest.raises(SandboxError, match="closed"):
        list(closing.stream([job(0)]))
