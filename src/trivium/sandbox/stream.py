"""Results of a stream of jobs, in its order, with a bounded number of jobs under way."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future

from .job import Job
from .result import Result

Submit = Callable[[Job], Future[Result]]


def in_order(submit: Submit, jobs: Iterable[Job], ahead: int) -> Iterator[Result]:
    """Yield each job's result in turn; a job is drawn when fewer than `ahead` results are outstanding."""
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            waiting.append(submit(job))
            while waiting and (len(waiting) >= ahead or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # the source failed, or nobody wants the rest
        for future in waiting:
            future.cancel()


async def in_order_async(submit: Submit, jobs: Iterable[Job] | AsyncIterable[Job], ahead: int) -> AsyncIterator[Result]:
    """The same for an event loop; a result does not wait for a source that is slow to give its next job."""
    source = aiter(jobs) if isinstance(jobs, AsyncIterable) else _draw(jobs)
    waiting: deque[asyncio.Future[Result]] = deque()
    drawing: asyncio.Future[Job | None] | None = None
    more = True
    try:
        while more or waiting:
            if more and drawing is None and len(waiting) < ahead:
                drawing = asyncio.ensure_future(anext(source, None))  # pyright: ignore[reportArgumentType]
            events = {event for event in (drawing, waiting[0] if waiting else None) if event is not None}
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            if drawing is not None and drawing.done():
                job, drawing = drawing.result(), None
                if job is None:
                    more = False
                else:
                    waiting.append(asyncio.wrap_future(submit(job)))
            if waiting and waiting[0].done():
                yield waiting.popleft().result()
    finally:
        for future in (*waiting, *([drawing] if drawing else [])):
            future.cancel()


async def _draw(jobs: Iterable[Job]) -> AsyncIterator[Job]:
    for job in jobs:
        yield job
