"""Bits per byte: loss per byte of text, comparable across tokenizers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from numpy.typing import ArrayLike

from trivium.evaluation.intervals import Interval, ratio_interval


@dataclass(frozen=True)
class TextLoss:
    """Summed loss over one text."""

    nats: float
    """Σ −log p over the tokens that were predicted."""
    n_bytes: int
    """UTF-8 bytes of the text that these tokens spell; special tokens spell none, but their loss counts."""
    source: str = ""


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Summed loss in nats over the bytes that it was paid for, in bits.

    Raises:
        ValueError: there are no bytes.
    """
    if n_bytes <= 0:
        raise ValueError(f"bits per byte need a positive number of bytes, got {n_bytes}")
    return nats / (log(2) * n_bytes)


def bits_per_byte_interval(nats: ArrayLike, n_bytes: ArrayLike, confidence: float = 0.95) -> Interval:
    """Bits per byte over texts with an interval over texts: Σ nats / (ln 2 · Σ bytes).

    Args:
        nats: (texts,) summed loss of each.
        n_bytes: (texts,) bytes of each.
        confidence: share of samples whose interval covers the truth.
    Raises:
        ValueError: no texts, or no bytes.
    """
    nat = ratio_interval(nats, n_bytes, confidence)
    scale = 1 / log(2)
    return Interval(nat.value * scale, nat.low * scale, nat.high * scale, nat.se * scale, nat.n)


def bits_per_byte_by_source(losses: Sequence[TextLoss], confidence: float = 0.95) -> dict[str, Interval]:
    """Bits per byte of each source, by name, and of all texts together under `all`.

    Raises:
        ValueError: no texts, a source without bytes, or a source named `all`.
    """
    groups: dict[str, list[TextLoss]] = {}
    for loss in losses:
        groups.setdefault(loss.source, []).append(loss)
    if "all" in groups:
        raise ValueError("a source is named 'all', which stands for all sources together")
    return {
        name: bits_per_byte_interval([loss.nats for loss in group], [loss.n_bytes for loss in group], confidence)
        for name, group in {**dict(sorted(groups.items())), "all": list(losses)}.items()
    }
