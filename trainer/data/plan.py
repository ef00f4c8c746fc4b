"""Which samples make up step s of epoch e: pure functions of (seed, epoch, step) that never know the world size."""

from typing import Protocol

from trainer.data.dataset import Indices


class Plan(Protocol):
    """The global batches of every epoch."""

    def num_steps(self, epoch: int) -> int:
        """Global batches (optimizer updates) of one epoch."""
        ...

    def batch(self, epoch: int, step: int) -> Indices:
        """Sample indices of the global batch `step` (from 0 within the epoch), in order; never empty."""
        ...
