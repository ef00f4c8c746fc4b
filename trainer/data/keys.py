"""Keyed randomness: every draw is a function of (seed, purpose, position), so there is no state to save.

`derive` makes a 64-bit key from a seed and names; `uniform` and `normal` draw a whole batch at once, row i from
`indices[i]` alone. So the augmentation of a sample does not depend on its batch, its rank or its worker.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def derive(seed: int, *parts: int | str) -> int:
    """A 64-bit key from `seed` and any number of names or numbers (BLAKE2b, equal on every machine)."""
    text = repr((seed, *parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words, elementwise."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def bits(key: int, indices: NDArray[np.int64], num_draws: int) -> NDArray[np.uint64]:
    """Random words `[len(indices), num_draws]`; row i depends on (key, indices[i]) only."""
    with np.errstate(over="ignore"):
        rows = mix(np.asarray(indices, np.int64).astype(np.uint64) * _GAMMA + np.uint64(key & _MASK))
        columns = np.arange(1, num_draws + 1, dtype=np.uint64) * _GAMMA
        return mix(rows[:, None] + columns[None, :])


def uniform(key: int, indices: NDArray[np.int64], num_draws: int) -> NDArray[np.float64]:
    """Uniform draws in [0, 1) of shape `[len(indices), num_draws]`, 53 random bits each."""
    return (bits(key, indices, num_draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(key: int, indices: NDArray[np.int64], num_draws: int) -> NDArray[np.float64]:
    """Standard normal draws `[len(indices), num_draws]` (Box and Muller 1958, both halves used)."""
    half = (num_draws + 1) // 2
    flat = uniform(key, indices, 2 * half)
    radius = np.sqrt(-2.0 * np.log1p(-flat[:, :half]))
    angle = 2.0 * np.pi * flat[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :num_draws]
