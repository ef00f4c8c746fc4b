"""Which samples make up step s of epoch e: pure functions of (seed, epoch, step) that never know the world size.

order (seed, epoch) ─► plan: global batch of a step ─► share of a rank ─► micro-batches
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trainer.data.dataset import Indices
from trainer.data.order import epoch_order


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
        return epoch_order(self.num_samples, self.seed, epoch).slice(start, start + self.batch_size)


def share(indices: Indices, rank: int, world_size: int) -> Indices:
    """The part of a global batch that `rank` works on: contiguous, sizes differ by one at most, may be empty."""
    return np.array_split(indices, world_size)[rank]


def micro_batches(indices: Indices, accumulation: int) -> list[Indices]:
    """A rank's share cut into at most `accumulation` micro-batches, none of them empty."""
    return [part for part in np.array_split(indices, accumulation) if len(part)]
