"""Which samples make up step s of epoch e: pure functions of (seed, epoch, step) that never know the world size.

order (seed, epoch) ─► plan: global batch of a step ─► share of a rank ─► micro-batches
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.config.lengths import PerEpoch, per_epoch
from trainer.data.dataset import Indices
from trainer.data.order import epoch_order

Costs = NDArray[np.int64]
"""What each sample costs, where they differ: its tokens."""
_BLOCK = 1 << 16
"""Elements of an order that are worked out at once: half a megabyte, and the cost of a slice spread over many."""


class Plan(Protocol):
    """The global batches of every epoch."""

    def num_steps(self, epoch: int) -> int:
        """Global batches (optimizer updates) of one epoch."""
        ...

    def batch(self, epoch: int, step: int) -> Indices:
        """Sample indices of the global batch `step` (from 0 within the epoch), in order; never empty."""
        ...


@dataclass(frozen=True)
class FixedPlan:
    """Global batches of `batch_size` samples over the shuffled order; the last one of an epoch may be shorter."""

    num_samples: int
    batch_size: int
    seed: int

    def num_steps(self, epoch: int) -> int:  # noqa: ARG002 - every epoch is alike
        """Steps of an epoch: every sample once, nothing dropped."""
        return -(-self.num_samples // self.batch_size)

    def batch(self, epoch: int, step: int) -> Indices:
        """Slice `step` of the epoch's order."""
        start = step * self.batch_size
        stop = min(start + self.batch_size, self.num_samples)
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        blocks = [_block(self.num_samples, self.seed, epoch, number) for number in range(first, last + 1)]
        joined = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return joined[start - first * _BLOCK : stop - first * _BLOCK]


@lru_cache(maxsize=4)
def _block(num_samples: int, seed: int, epoch: int, number: int) -> Indices:
    """One block of an epoch's order, read-only because it is shared."""
    block = epoch_order(num_samples, seed, epoch).slice(number * _BLOCK, (number + 1) * _BLOCK)
    block.flags.writeable = False
    return block


def steps_per_epoch(plan: Plan, num_epochs: int, max_steps: int | None) -> PerEpoch:
    """Steps of the run's epochs; no further than `max_steps`, as a plan may have to make an epoch to count them."""
    lengths: list[int] = []
    while len(lengths) < num_epochs and not (max_steps and sum(lengths) >= max_steps):
        lengths.append(plan.num_steps(len(lengths)))
    return per_epoch(tuple(lengths))


def share(indices: Indices, rank: int, world_size: int, costs: Costs | None = None) -> Indices:
    """The part of a global batch that `rank` works on: contiguous, may be empty.

    Sizes differ by one at most; where samples have `costs`, the sums of these by one sample's at most.
    """
    return indices if world_size == 1 else split(indices, world_size, costs)[rank]


def micro_batches(indices: Indices, accumulation: int, costs: Costs | None = None, longest: int = 1) -> list[Indices]:
    """A rank's share cut into at most `accumulation` micro-batches, none of them empty.

    `longest` is the length of a micro-batch of a full step: the short last step of an epoch takes no more of them
    than it needs.
    """
    if accumulation == 1:
        return [indices] if len(indices) else []
    number = min(accumulation, -(-len(indices) // longest))
    return [part for part in split(indices, number, costs) if len(part)] if number else []


def split(indices: Indices, num_parts: int, costs: Costs | None = None) -> list[Indices]:
    """Contiguous parts, as even in cost as samples allow: each goes to the part in which its middle falls."""
    if costs is None or not len(indices):
        return np.array_split(indices, num_parts)
    ends = np.cumsum(costs)
    places = (2 * ends - costs) * num_parts // (2 * ends[-1])
    return np.split(indices, np.searchsorted(places, np.arange(1, num_parts)))


@lru_cache(maxsize=4)
def steps_of_samples(plan: Plan, num_samples: int, epoch: int) -> Indices:
    """The step of `epoch` (from 0 in it) to which each sample belongs: int64 `[num_samples]`, -1 for none, read-only.

    For hashable plans that take a sample at most once an epoch. What depends on the step, such as a probability that
    follows a curve, is thereby a function of (epoch, sample) like everything else about a sample.
    """
    steps = np.full(num_samples, -1, np.int64)
    for step in range(plan.num_steps(epoch)):
        steps[plan.batch(epoch, step)] = step
    steps.flags.writeable = False
    return steps
