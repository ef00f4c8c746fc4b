"""The order of an epoch: a keyed permutation that can be asked for any slice without holding the whole.

A small Feistel network is a bijection of an even number of bits; indices that fall outside the range are walked on
(cycle walking, Black and Rogaway 2002) until they fall inside. A billion samples cost no memory, a resume no replay.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from trainer.data.dataset import Indices
from trainer.data.keys import derive, mix

_ROUNDS = 6


@dataclass(frozen=True)
class Permutation:
    """A pseudo-random bijection of 0 .. size-1, chosen by `key`."""

    size: int
    key: int

    def slice(self, start: int, stop: int) -> Indices:
        """Elements `start` to `stop` (exclusive) of the shuffled order, int64."""
        words = np.arange(start, min(stop, self.size), dtype=np.uint64)
        half = np.uint64(max(1, (max(self.size - 1, 1).bit_length() + 1) // 2))
        words = self._scramble(words, half)
        while (outside := words >= self.size).any():
            words[outside] = self._scramble(words[outside], half)
        return words.astype(np.int64)

    def _scramble(self, words: np.ndarray, half: np.uint64) -> np.ndarray:
        """One pass of the Feistel network over `2 * half` bits."""
        mask = (np.uint64(1) << half) - np.uint64(1)
        left, right = words >> half, words & mask
        for salt in _salts(self.key):
            with np.errstate(over="ignore"):
                left, right = right, left ^ (mix(right + salt) & mask)
        return (left << half) | right


@lru_cache(maxsize=8)
def _salts(key: int) -> tuple[np.uint64, ...]:
    """The round keys; kept, because every batch of an epoch asks for them."""
    return tuple(np.uint64(derive(key, number)) for number in range(_ROUNDS))


def epoch_order(size: int, seed: int, epoch: int) -> Permutation:
    """The order of the samples in `epoch`, a function of (seed, epoch) alone."""
    return Permutation(size, derive(seed, "order", epoch))
