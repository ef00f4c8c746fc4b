"""The engine's side of checkpoints: when the loop takes one, goes on from one, or goes back to one."""

from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint import crash
from trainer.checkpoint.restore import restore
from trainer.engine.job import Job
from trainer.errors import RunError
from trainer.telemetry.events import Noted, Resumed, TimeAccounted

Tensors = dict[str, dict[str, Tensor]]


def checkpoint(job: Job, is_best: bool = False) -> None:
    """Copy the state and publish it behind the training; the copy is all that training waits for."""
    mark = (job.cursor.step, tuple(job.cursor.owed), job.best.value)
    if mark == job.last_checkpoint and not is_best:
        return
    job.last_checkpoint = mark
    if job.publisher is None:
        return
    with job.clock.during("checkpoint_stall"):
        job.publisher.submit(
            job.capture(),
            step=job.cursor.step,
            epoch=job.cursor.epoch,
            is_best=is_best,
            milestone=job.moments.milestone.due(job.cursor.step),
        )


def warm_buffers(job: Job) -> None:
    """Touch the memory that checkpoints are copied to, so that the first one stalls no longer than the others."""
    if job.publisher:
        with job.clock.during("startup"):
            job.publisher.warm(job.capture())


def flush(job: Job) -> None:
    """Wait until everything taken is published; raises what made that impossible. First rank only."""
    if job.publisher is None:
        return
    with job.clock.during("idle"):
        job.publisher.flush()
        job.publisher.poll()
    if job.publisher.error:
        raise job.publisher.error
    job.emit(TimeAccounted, seconds=job.clock.account())


def go_on_from_checkpoint(job: Job) -> None:
    """Put the newest good checkpoint back on every rank, or start from the beginning when there is none."""
    found = job.world.share(load_newest(job))
    if found:
        key, meta, shapes = found
        job.load(receive(job, shapes), meta)
        crash.point("after_restore")
        job.emit(Resumed, checkpoint=key, redone_steps=max(0, job.highest_step - job.cursor.step))
        if meta["total_steps"] != job.total_steps:
            job.emit(
                Noted,
                text=f"the run is {job.total_steps} steps long now, {meta['total_steps']} before; "
                "curves and triggers in percent are resolved anew",
            )
    job.restored = {}
    job.first_step = job.cursor.step


def load_newest(job: Job) -> tuple[str, dict[str, Any], dict[str, dict[str, Any]]] | None:
    """On the first rank: find, verify and load; what the other ranks must know to receive it."""
    if job.run is None:
        return None
    found = restore(job.run, job.events.emit)
    if found is None:
        return None
    job.restored = found.tensors
    shapes = {
        part: {name: (list(value.shape), value.dtype) for name, value in tensors.items()}
        for part, tensors in found.tensors.items()
    }
    return found.key, found.meta, shapes


def receive(job: Job, shapes: dict[str, dict[str, Any]]) -> Tensors:
    """The first rank's restored tensors on every rank (through the device where the group needs it)."""
    if job.world.size == 1:
        return job.restored
    received: Tensors = {}
    for part, entries in shapes.items():
        received[part] = {}
        for name, (shape, dtype) in entries.items():
            tensor = job.restored[part][name] if job.run else torch.empty(shape, dtype=dtype)
            tensor = tensor.contiguous()
            job.world.broadcast(tensor)
            received[part][name] = tensor
    return received


def roll_back(job: Job, bad_step: int) -> None:
    """Return to the last good checkpoint and leave the update of `bad_step` out when the run comes there again."""
    used, left_out, reached = job.guard.used, [*job.cursor.left_out, bad_step], job.cursor.step
    if job.publisher:
        flush(job)
    found = job.world.share(load_newest(job))
    if not found:
        raise RunError(f"step {bad_step} was not finite and there is no checkpoint to return to; lower optim.lr")
    key, meta, shapes = found
    job.load(receive(job, shapes), meta)
    job.restored = {}
    job.guard.used, job.cursor.left_out = used, left_out
    job.rolled_back = True
    job.meter.drop_interval()
    job.emit(Resumed, checkpoint=key, redone_steps=reached - job.cursor.step)


def load_weights(job: Job, tensors: dict[str, Tensor] | None) -> None:
    """The first rank's weights into the model of every rank (best weights before the final passes)."""
    state = job.model.state_dict()
    for name, target in state.items():
        if tensors is not None:
            target.copy_(tensors[name])
        job.world.broadcast(target)
