"""Randomness as a function of (seed, purpose, index): there is no hidden generator state."""

import hashlib
import random

import numpy as np


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derive_seed(seed, "rollout", step, prompt_id, sample)`.

    Distinct purposes give independent streams; equal arguments give equal seeds on every machine.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def python_rng(seed: int, *purpose: str | int) -> random.Random:
    """A `random.Random` of its own for one purpose."""
    return random.Random(derive_seed(seed, *purpose))


def numpy_rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator of its own for one purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))
