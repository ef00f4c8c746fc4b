"""Where steps come from: the planned data set of a task, or a DataLoader that somebody brings along.

Both walk from a cursor to the end of the run and yield `StepBatch`es; starting is resuming from the first position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.config.settings import CommonSettings
from trainer.data.dataset import Batch, Indices
from trainer.data.plan import Plan, micro_batches, share
from trainer.engine.cursor import Cursor
from trainer.engine.task import Task
from trainer.engine.world import World


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

    def steps_per_epoch(self) -> int:
        """Global batches of one epoch."""
        ...

    def num_samples(self) -> int:
        """Training samples of one epoch."""
        ...

    def walk(self, cursor: Cursor, num_epochs: int) -> Iterator[StepBatch]:
        """Every step from the cursor to the end of the run."""
        ...


class PlannedSource:
    """Takes each step's samples from the task's plan; the order never depends on the number of ranks."""

    def __init__(self, task: Task, settings: CommonSettings, world: World) -> None:
        self._task, self._settings, self._world = task, settings, world
        self._data = task.train_data()
        self._plan: Plan = task.plan()

    def steps_per_epoch(self) -> int:
        """Steps of the first epoch; plans make all epochs alike."""
        return self._plan.num_steps(0)

    def num_samples(self) -> int:
        """Size of the training set."""
        return len(self._data)

    def walk(self, cursor: Cursor, num_epochs: int) -> Iterator[StepBatch]:
        """Every step from the cursor on."""
        start = cursor.batch
        for epoch in range(cursor.epoch, num_epochs):
            for batch in range(start, self._plan.num_steps(epoch)):
                yield self.step(epoch, batch)
            start = 0

    def step(self, epoch: int, batch: int) -> StepBatch:
        """Make the step `batch` of `epoch` for this rank."""
        indices = self._plan.batch(epoch, batch)
        mine = share(indices, self._world.rank, self._world.size)
        parts = micro_batches(mine, self._settings.accumulation) or [indices[:1]]
        return StepBatch(
            epoch=epoch,
            batch=batch,
            micro=[self._ready(self._data.take(part, epoch)) for part in parts],
            weight=1.0 if len(mine) else 0.0,
            counts=self._task.counts(indices, epoch),
            num_samples=len(indices),
            indices=indices,
            ends_epoch=batch + 1 == self._plan.num_steps(epoch),
        )

    def _ready(self, batch: Batch) -> Batch:
        """Pin on CUDA, so that the copy to the device overlaps with work there."""
        if self._world.device.type != "cuda":
            return batch
        return {name: value.pin_memory() for name, value in batch.items()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; the same objects on the CPU."""
    if device.type == "cpu":
        return batch
    return {name: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for name, v in batch.items()}
