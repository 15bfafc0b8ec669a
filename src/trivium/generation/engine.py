"""Batched sampling with a KV cache: prompts prefilled once, finished rows replaced at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trivium.base.errors import InputError
from trivium.generation.passes import Passes, Rows, passes
from trivium.generation.sampling import sample_uniforms
from trivium.model.cache import KVCache
from trivium.model.transformer import Decoder

MIN_STREAM_ROWS = 32
"""Fewer rows than this are not worth a stream of their own."""
PREFILL_ROWS = 32
"""Prompts run together: more of them push each other's activations out of a processor's cache."""


@dataclass(frozen=True)
class Sample:
    """One sampled response."""

    ids: list[int]
    """Response token ids, the end token included where it was sampled."""
    logprobs: list[float]
    """Log-probability of each id under the sampling distribution, in nats."""
    finish: str
    """`stop` (the end token was sampled), `length` (the cap was reached) or `cut` (`on_token` ended it)."""


class _Slots:
    """The rows in flight: what each one is, where it stands, what it has drawn. NumPy's, which is quick at few rows."""

    def __init__(self, size: int, max_new_tokens: int):
        self.owner = np.full(size, -1)  # index of the sample, -1 for a free row
        self.position = np.zeros(size, dtype=np.int64)  # slot that the last drawn token takes
        self.drawn = np.zeros(size, dtype=np.int64)
        self.last = np.zeros(size, dtype=np.int64)
        self.ids = np.zeros((size, max_new_tokens), dtype=np.int64)
        self.logprobs = np.zeros((size, max_new_tokens), dtype=np.float32)
        self.uniforms = np.zeros((size, max_new_tokens), dtype=np.float32)

    def admit(self, rows: Rows, owners: list[int], prompts: list[Sequence[int]], seeds: list[int]) -> None:
        """Give free rows to new samples."""
        self.owner[rows] = owners
        self.position[rows] = [len(prompt) - 1 for prompt in prompts]
        self.drawn[rows] = 0
        self.uniforms[rows] = sample_uniforms(seeds, self.uniforms.shape[1])

    def keep(self, rows: Rows) -> None:
        for name, array in vars(self).items():
            setattr(self, name, array[rows])


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float = 1.0,
    batch_size: int = 256,
    on_token: Callable[[int, int], bool | None] | None = None,
) -> list[Sample]:
    """Sample one response a prompt.

    Repeated prompts are prefilled once. A sample's randomness is a function of its seed, so that batching
    changes nothing but rounding.

    Args:
        model: its `compute_dtype` is the precision of the whole computation.
        prompts: token ids, one list a sample.
        seeds: one a sample.
        max_new_tokens: cap on the response, the end token included.
        stop_ids: a row ends after drawing one of these.
        temperature: of the softmax; 0 is greedy.
        batch_size: rows decoded together.
        on_token: called with (sample index, id) as tokens are drawn, for streaming; True ends the sample there.
    Returns:
        One `Sample` a prompt, in order.
    Raises:
        InputError: a prompt is empty, or longer than the model's context allows.
    """
    limit = model.config.max_seq_len
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < limit:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens; this model takes 1 to {limit - 1}. Shorten the prompt."
            )
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), tuple(prompts[index])))
    threads = torch.get_num_threads() if model.device.type == "cpu" and on_token is None else 1
    streams = max(1, min(threads, min(batch_size, len(prompts)) // MIN_STREAM_ROWS))
    with passes(model, torch.get_num_threads() if streams == 1 else 1) as ready:
        rows = batch_size // streams
        work = _Work(model, ready, prompts, seeds, max_new_tokens, list(stop_ids), temperature, rows, on_token)
        if streams == 1:
            work.run(order)
        else:
            _run_streams(work, order, streams)
    return [work.results[index] for index in range(len(prompts))]


def _run_streams(work: "_Work", order: list[int], streams: int) -> None:
    """Decode in several threads with one processor each: a step's many small products gain little from several."""
    places: dict[tuple[int, ...], int] = {}
    shares: list[list[int]] = [[] for _ in range(streams)]
    for index in order:  # a prompt's samples stay together, and every stream gets short and long prompts
        shares[places.setdefault(tuple(work.prompts[index]), len(places)) % streams].append(index)
    threads = torch.get_num_threads()

    def stream(share: list[int]) -> None:
        torch.set_num_threads(1)  # of this thread
        work.run(share)

    with ThreadPoolExecutor(streams) as pool:
        running = [pool.submit(stream, share) for share in shares]
        try:
            for each in running:
                each.result()
        finally:
            work.stopped = True  # after Ctrl-C or an error the others need not finish
            torch.set_num_threads(threads)  # some of the setting is shared by all threads


@dataclass
class _Work:
    """What all streams of one call share."""

    model: Decoder
    passes: Passes
    prompts: Sequence[Sequence[int]]
    seeds: Sequence[int]
    max_new_tokens: int
    stop_ids: list[int]
    temperature: float
    rows: int
    """Decoded together in a stream."""
    on_token: Callable[[int, int], bool | None] | None
    results: dict[int, Sample] = field(default_factory=dict)
    stopped: bool = False

    @torch.no_grad()
    def run(self, order: list[int]) -> None:
        """Decode the samples of these indices, in this order."""
        if not order:
            return
        model, prompts, limit = self.model, self.prompts, self.model.config.max_seq_len
        size = min(self.rows, len(order))
        capacity = min(limit, max(len(prompts[index]) for index in order) + self.max_new_tokens)
        cache = KVCache(model.config, size, capacity, model.compute_dtype, model.device)
        slots = _Slots(size, self.max_new_tokens)
        cursor = 0
        while not self.stopped:
            free = np.flatnonzero(slots.owner < 0)
            if cursor < len(order) and len(free) * 8 >= len(slots.owner):
                admitted = order[cursor : cursor + min(len(free), PREFILL_ROWS)]
                cursor += len(admitted)
                rows = free[: len(admitted)]
                slots.admit(rows, admitted, [prompts[index] for index in admitted], [self.seeds[i] for i in admitted])
                self._draw(slots, rows, self.passes.prefill(cache, rows, [prompts[index] for index in admitted]))
                continue
            active = np.flatnonzero(slots.owner >= 0)
            if not len(active):
                break
            if cursor == len(order) and len(active) * 4 <= len(slots.owner) * 3:
                slots.keep(active)  # nobody is waiting: go on with the live rows alone
                cache.keep_rows(torch.from_numpy(active).to(model.device))
                active = np.arange(len(active))
            positions = np.where(slots.owner < 0, 0, slots.position)
            self._draw(slots, active, self.passes.decode(cache, slots.last, positions, active))

    def _draw(self, slots: _Slots, rows: Rows, logits: Tensor) -> None:
        """Draw the next token of `rows`; record and free the rows that end."""
        drawn = slots.drawn[rows]
        ids, logprobs = self.passes.draw(logits, slots.uniforms[rows, drawn], self.temperature)
        slots.last[rows] = slots.ids[rows, drawn] = ids
        slots.logprobs[rows, drawn] = logprobs
        slots.drawn[rows] = drawn + 1
        slots.position[rows] += 1
        cut = np.zeros(len(rows), dtype=bool)
        if self.on_token:
            told = zip(slots.owner[rows].tolist(), ids.tolist(), strict=True)
            cut[:] = [self.on_token(owner, token) is True for owner, token in told]
        stopped = np.isin(ids, self.stop_ids)
        full = (drawn + 1 >= self.max_new_tokens) | (slots.position[rows] + 1 > self.model.config.max_seq_len - 1)
        ended = stopped | full | cut
        for row, stop, end in zip(*(each[ended].tolist() for each in (rows, stopped, full)), strict=True):
            length = int(slots.drawn[row])
            self.results[int(slots.owner[row])] = Sample(
                slots.ids[row, :length].tolist(),
                slots.logprobs[row, :length].tolist(),
                "stop" if stop else "length" if end else "cut",
            )
            slots.owner[row] = -1
