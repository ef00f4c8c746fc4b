"""The engine's side of checkpoints: when the loop takes one, goes on from one, or goes back to one."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint import crash
from trainer.checkpoint.restore import Restored, restore
from trainer.engine.job import Job
from trainer.engine.world import World
from trainer.errors import InfrastructureError, RunError
from trainer.telemetry.events import Noted, Resumed, TimeAccounted

Tensors = dict[str, dict[str, Tensor]]
"""By part of the state and name."""
Shapes = dict[str, dict[str, tuple[list[int], torch.dtype]]]
RESCUE_SHARE = 1 / 3
"""Part of the grace period that is kept for the spool and the end of the attempt."""
_SLICE_SECONDS = 10.0
"""How often ranks that wait for the store tell each other that they live."""


def checkpoint(job: Job, timeout: float | None = None) -> None:
    """Copy the state and publish it behind the training; the copy is all that training waits for.

    With a `timeout` it is left out when the publish under way takes longer (a process that will be killed soon).
    """
    mark = (job.cursor.step, tuple(job.cursor.owed), job.best.value)
    if mark == job.last_checkpoint:
        return
    if job.publisher is None:
        job.last_checkpoint = mark
        return
    with job.clock.during("checkpoint_stall"):
        is_taken = job.publisher.submit(
            job.capture(),
            step=job.cursor.step,
            epoch=job.cursor.epoch,
            is_best=job.best.value is not None and job.best.step == job.cursor.step,
            milestone=job.moments.milestone.due(job.cursor.step),
            timeout=timeout,
            hurries=lambda: has_no_time(job),
        )
    if is_taken:
        job.last_checkpoint = mark


def has_no_time(job: Job) -> bool:
    """Whether to leave a checkpoint out rather than wait for the one under way.

    Between steps that is so once this rank was asked to stop, because the end takes a checkpoint of its own. That last
    one waits while the grace period lasts, and where none runs for as long as it takes.
    """
    if job.stopping or job.is_done:
        return job.stop.seconds_left(RESCUE_SHARE) == 0.0
    return job.stop.code is not None


def warm_buffers(job: Job) -> None:
    """Touch the memory that checkpoints are copied to, so that the first one stalls no longer than the others."""
    if job.publisher:
        with job.clock.during("startup"):
            job.publisher.warm(job.capture())


def publish_all(job: Job) -> None:
    """Wait, all ranks together, until everything taken is published; raises what made that impossible.

    After a signal no longer than the grace period allows: what is left then goes to the spool. Raises
    InfrastructureError.
    """
    while not job.world.share(flush(job)):
        job.watchdog.beat()
    job.emit(TimeAccounted, seconds=job.clock.account())


def flush(job: Job) -> bool:
    """One slice of waiting; True when all is published (or this rank has no publisher)."""
    if job.publisher is None:
        return True
    left = job.stop.seconds_left(RESCUE_SHARE)
    with job.clock.during("idle"):
        is_done = job.publisher.flush(_SLICE_SECONDS if left is None else min(left, _SLICE_SECONDS))
    if job.publisher.error:
        raise job.publisher.error
    if not is_done and left is not None and left <= _SLICE_SECONDS:
        raise InfrastructureError(
            f"{job.stop.reason}, but the store did not take the newest checkpoint in time: {job.publisher.rescue()}"
        )
    return is_done


def go_on_from_checkpoint(job: Job) -> None:
    """Put the newest good checkpoint back on every rank, or start from the beginning when there is none."""
    found = load_newest(job)
    if found:
        key, meta = found
        crash.point("after_restore")
        job.emit(Resumed, checkpoint=key, redone_steps=max(0, job.highest_step - job.cursor.step))
        for text in changes(job, meta):
            job.emit(Noted, text=text)
    job.first_step = job.cursor.step


def changes(job: Job, meta: dict[str, Any]) -> Iterator[str]:
    """What of a checkpoint other settings have changed, in words."""
    if meta["total_steps"] != job.total_steps:
        yield (
            f"the run is {job.total_steps} steps long now, {meta['total_steps']} before; "
            "curves and triggers in percent are resolved anew"
        )
    if job.balance and job.balance.is_foreign(meta["balance"]):
        yield (
            f"balance.kind is {job.balance.settings.kind} now and was another rule before: the weights of the loss "
            "terms begin anew"
        )
    if gone := [name for name in meta["cursor"]["owed"] if name not in job.moments.passes]:
        yield f"owed passes that the settings no longer have are dropped: {', '.join(gone)}"


def load_newest(job: Job) -> tuple[str, dict[str, Any]] | None:
    """The first rank finds and verifies the newest good checkpoint, all ranks load it: its folder's name and its meta.

    None when there is none.
    """
    found = restore(job.run, job.events.emit) if job.run else None
    shared = job.world.share((found.key, found.meta, shapes_of(found.tensors)) if found else None)
    if shared is None:
        return None
    key, meta, shapes = shared
    job.load(received(job.world, found.tensors if found else None, shapes), meta)
    return key, meta


def shapes_of(tensors: Tensors) -> Shapes:
    """What the other ranks must know of tensors to receive them."""
    return {
        part: {name: (list(value.shape), value.dtype) for name, value in named.items()}
        for part, named in tensors.items()
    }


def received(world: World, own: Tensors | None, shapes: Shapes) -> Tensors:
    """The first rank's `own` tensors on every rank."""
    if world.size == 1:
        assert own is not None
        return own
    found: Tensors = {}
    for part, entries in shapes.items():
        found[part] = {}
        for name, (shape, dtype) in entries.items():
            tensor = own[part][name].contiguous() if own else torch.empty(shape, dtype=dtype)
            world.broadcast(tensor)
            found[part][name] = tensor
    return found


def roll_back(job: Job, bad_step: int) -> None:
    """Return to the last good checkpoint and leave the update of `bad_step` out when the run comes there again."""
    used, left_out, reached = job.guard.used, [*job.cursor.left_out, bad_step], job.cursor.step
    publish_all(job)
    found = load_newest(job)
    if not found:
        raise RunError(f"step {bad_step} was not finite and there is no checkpoint to return to; lower optim.lr")
    job.highest_step = max(job.highest_step, reached)
    job.guard.used, job.cursor.left_out = used, left_out
    job.rolled_back = True
    job.meter.drop_interval()
    job.sample_ids.clear()
    job.emit(Resumed, checkpoint=found[0], redone_steps=reached - job.cursor.step)


def load_weights(job: Job, found: Restored | None) -> None:
    """What the first rank found (best weights before the final passes) into the model of every rank.

    Of weights with an average that is taken. The weights of the loss terms are those of that moment, too.
    """
    tensors = found.tensors.get("ema", found.tensors["model"]) if found else None
    if job.balance and (balance := job.world.share(found.meta["balance"] if found else None)):
        job.balance.load(balance)
    state = job.model.state_dict()
    for name, target in state.items():
        if tensors is not None:
            target.copy_(tensors[name])
        job.world.broadcast(target)
