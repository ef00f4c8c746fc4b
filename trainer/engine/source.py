"""Where steps come from: the planned data set of a task, or a DataLoader that somebody brings along.

Both walk from a cursor to the end of the run and yield `StepBatch`es; starting is resuming from the first position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.lengths import PerEpoch
from trainer.config.settings import CommonSettings
from trainer.data.dataset import Batch, Indices, Ragged
from trainer.data.plan import Plan, micro_batches, share, steps_per_epoch
from trainer.engine.cursor import Cursor
from trainer.engine.task import Task
from trainer.engine.world import World

_CHUNK_STEPS = 64
_CHUNK_BYTES = 1 << 18


@dataclass
class StepBatch:
    """What one rank needs for one step."""

    epoch: int
    batch: int
    """Position in the epoch, from 0."""
    micro: list[Batch]
    """At least one; a rank without a sample gets one placeholder sample and `weight` 0."""
    weight: float
    counts: dict[str, float]
    """Global denominators of the loss terms."""
    num_samples: int
    """Over all ranks."""
    indices: Indices | None
    """Global sample indices, where the source knows them."""
    ends_epoch: bool


class Source(Protocol):
    """Steps of a run in order."""

    def steps_per_epoch(self, num_epochs: int, max_steps: int | None) -> PerEpoch:
        """Global batches of the epochs of a run of this length."""
        ...

    def num_samples(self) -> int:
        """Training samples of one epoch."""
        ...

    def walk(self, cursor: Cursor, num_epochs: int) -> Iterator[list[StepBatch]]:
        """Every step from the cursor to the end of the run, in chunks of one or more."""
        ...


class PlannedSource:
    """Takes each step's samples from the task's plan; the order never depends on the number of ranks."""

    def __init__(self, task: Task, settings: CommonSettings, world: World) -> None:
        self._task, self._settings, self._world = task, settings, world
        self._data = task.train_data()
        self._ragged = self._data if isinstance(self._data, Ragged) else None
        self._plan: Plan = task.plan()
        # Where samples differ in cost, and where steps differ in samples, no number of these makes a full micro-batch.
        full = 0 if self._ragged else getattr(self._plan, "batch_size", 0)
        self._longest = max(1, -(-full // (settings.accumulation * world.size)))

    def steps_per_epoch(self, num_epochs: int, max_steps: int | None) -> PerEpoch:
        """As the plan says."""
        return steps_per_epoch(self._plan, num_epochs, max_steps)

    def num_samples(self) -> int:
        """Size of the training set."""
        return len(self._data)

    def walk(self, cursor: Cursor, num_epochs: int) -> Iterator[list[StepBatch]]:
        """Every step from the cursor on; small ones are made several at a time, which changes nothing in them."""
        start, chunk = cursor.batch, 1
        for epoch in range(cursor.epoch, num_epochs):
            num_steps = self._plan.num_steps(epoch)
            while start < num_steps:
                made = self.steps(epoch, range(start, min(start + chunk, num_steps)))
                yield made
                start += len(made)
                chunk = chunk_length(made[0])
            start = 0

    def steps(self, epoch: int, batches: range) -> list[StepBatch]:
        """Make steps of `epoch` for this rank, all their samples with one `take`."""
        plans = [self._plan.batch(epoch, batch) for batch in batches]
        shares = [self._share(indices) for indices in plans]
        parts = [
            micro_batches(mine, self._settings.accumulation, self._costs(mine), self._longest) or [indices[:1]]
            for mine, indices in zip(shares, plans, strict=True)
        ]
        cut = self._take([part for own in parts for part in own], epoch)
        num_steps = self._plan.num_steps(epoch)
        return [
            StepBatch(
                epoch=epoch,
                batch=batch,
                micro=[next(cut) for _ in own],
                weight=1.0 if len(mine) else 0.0,
                counts=self._task.counts(indices, epoch),
                num_samples=len(indices),
                indices=indices,
                ends_epoch=batch + 1 == num_steps,
            )
            for batch, indices, mine, own in zip(batches, plans, shares, parts, strict=True)
        ]

    def _share(self, indices: Indices) -> Indices:
        return share(indices, self._world.rank, self._world.size, self._costs(indices))

    def _costs(self, indices: Indices) -> NDArray[np.int64] | None:
        """What the samples cost, where they differ."""
        return self._ragged.costs(indices) if self._ragged is not None else None

    def _take(self, parts: list[Indices], epoch: int) -> Iterator[Batch]:
        """A batch for every part; samples of one size are taken all at once and then cut."""
        if self._ragged is not None:
            return map(self._ready, self._ragged.take_parts(parts, epoch))
        taken = self._ready(self._data.take(parts[0] if len(parts) == 1 else np.concatenate(parts), epoch))
        return cut_batch(taken, [len(part) for part in parts])

    def _ready(self, batch: Batch) -> Batch:
        """Pin on CUDA, so that the copy to the device overlaps with work there."""
        if self._world.device.type != "cuda":
            return batch
        return {name: value.pin_memory() for name, value in batch.items()}


def chunk_length(step: StepBatch) -> int:
    """How many steps to make at a time: as many as fit into a quarter of a megabyte, at most 64.

    Making a step costs about 100 us of Python beside its data, and takes the interpreter's lock from the training
    thread meanwhile; a step of a small model is not much longer.
    """
    tensors = [value for part in step.micro for value in part.values()]
    size_bytes = sum(value.numel() * value.element_size() for value in tensors)
    return max(1, min(_CHUNK_STEPS, _CHUNK_BYTES // max(size_bytes, 1)))


def cut_batch(batch: Batch, sizes: list[int]) -> Iterator[Batch]:
    """Consecutive parts of a batch as views, `sizes` samples each."""
    if len(sizes) == 1:
        yield batch
        return
    columns = {name: torch.split(value, sizes) for name, value in batch.items()}
    for number in range(len(sizes)):
        yield {name: parts[number] for name, parts in columns.items()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; the same objects on the CPU."""
    if device.type == "cpu":
        return batch
    return {name: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for name, v in batch.items()}
