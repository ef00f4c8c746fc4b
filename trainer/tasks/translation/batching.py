"""Batches by tokens: sentences of like length together, up to a number of cells with the padding.

    order (seed, epoch) ─► pools ─► each sorted by (target, source, index) ─► filled ─► batches shuffled (seed, epoch)

A plan is a pure function of (lengths, seed, epoch) and knows no ranks. Epochs differ by a few steps.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Indices
from trainer.data.keys import derive
from trainer.data.order import Permutation, epoch_order
from trainer.data.plan import Plan

Ints = NDArray[np.int64]
_KEPT_EPOCHS = 2
"""Epochs whose order is kept: the one under way, and the next, which the prefetcher reaches earlier."""


@dataclass(frozen=True)
class Epoch:
    """One epoch: pairs in the order in which they are filled, cut at `bounds` into batches, these in a random order."""

    pairs: Indices
    bounds: Ints
    """`[batches + 1]`"""
    order: Ints
    """The batch of every step."""


@dataclass(frozen=True)
class Fill:
    """What a plan makes of an epoch, for people; known before the first step."""

    num_steps: int
    padding_share: float
    """Of the target cells."""
    sizes: dict[int, int]
    """How many batches have so many pairs, rounded down to powers of two."""


class TokenPlan:
    """Global batches of at most `max_tokens` cells: pairs times the longest side among them."""

    def __init__(self, source_lengths: Ints, target_lengths: Ints, *, max_tokens: int, pool: int, seed: int) -> None:
        """`pool`: batches among whose pairs those of like length are looked for. No pair may exceed the limit."""
        self._source, self._target = source_lengths, target_lengths
        self._cells = np.maximum(source_lengths, target_lengths)
        assert int(self._cells.max()) <= max_tokens, "the corpus was checked against the limit"
        self._max_tokens, self._seed = max_tokens, seed
        self._pool = pool * max(1, int(max_tokens / float(self._cells.mean())))
        self._num_steps: dict[int, int] = {}
        self._epochs: OrderedDict[int, Epoch] = OrderedDict()

    def num_steps(self, epoch: int) -> int:
        """Batches of an epoch; made once, numbers are kept for all epochs."""
        if epoch not in self._num_steps:
            self._num_steps[epoch] = len(self.epoch(epoch).order)
        return self._num_steps[epoch]

    def batch(self, epoch: int, step: int) -> Indices:
        """The pairs of a step, from short to long."""
        made = self.epoch(epoch)
        number = made.order[step]
        return made.pairs[made.bounds[number] : made.bounds[number + 1]]

    def epoch(self, epoch: int) -> Epoch:
        """The whole epoch: 8 bytes a pair."""
        made = self._epochs.get(epoch)
        if made is None:
            made = self._make(epoch)
            self._epochs[epoch] = made
            while len(self._epochs) > _KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        return made

    def _make(self, epoch: int) -> Epoch:
        num_pairs = len(self._cells)
        pairs = epoch_order(num_pairs, self._seed, epoch).slice(0, num_pairs)
        bounds = [0]
        for start in range(0, num_pairs, self._pool):
            part = pairs[start : start + self._pool]
            part[:] = part[np.lexsort((part, self._source[part], self._target[part]))]
            bounds += [start + stop for stop in cut(self._cells[part], self._max_tokens)]
        pairs.flags.writeable = False
        num_batches = len(bounds) - 1
        order = Permutation(num_batches, derive(self._seed, "batches", epoch)).slice(0, num_batches)
        return Epoch(pairs, np.array(bounds, np.int64), order)


def cut(cells: Ints, max_tokens: int) -> list[int]:
    """Where batches end if they are filled in order until the next pair would exceed the limit."""
    ends: list[int] = []
    start, total, reach = 0, len(cells), max_tokens
    while start < total:
        window = np.maximum.accumulate(cells[start : start + reach // int(cells[start])])
        fits = window * np.arange(1, len(window) + 1) <= max_tokens
        # Both factors grow, so the first that does not fit ends the batch.
        start += len(fits) if fits[-1] else int(np.argmin(fits))
        ends.append(start)
    return ends


def fill_of(plan: Plan, target_lengths: Ints, epoch: int = 0) -> Fill:
    """Steps, padding and sizes of an epoch of any plan."""
    num_steps = plan.num_steps(epoch)
    padded, sizes = 0, Counter[int]()
    for step in range(num_steps):
        lengths = target_lengths[plan.batch(epoch, step)]
        padded += len(lengths) * int(lengths.max())
        sizes[1 << (len(lengths).bit_length() - 1)] += 1
    return Fill(num_steps, 1.0 - float(target_lengths.sum()) / padded, dict(sorted(sizes.items())))
