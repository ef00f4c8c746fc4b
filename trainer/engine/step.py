"""One step: forward and backward of each micro-batch, one gradient reduction, clip, check, update.

    re-key ─► [forward ─► backward] x micro-batches ─► clip ─► finite? ─► update ─► average

Nothing here waits for the device but where it must: fp16 (its scaler asks whether the update was skipped) and the
`skip` policy. On CUDA the finite check and the stop flags of a step are read one step later, on every rank alike.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from trainer.checkpoint import crash
from trainer.data.dataset import Batch
from trainer.engine.balance_measure import measure
from trainer.engine.job import Job
from trainer.engine.optim import clip, gradients
from trainer.engine.rng import rekey
from trainer.engine.source import StepBatch, to_device
from trainer.engine.task import Loss
from trainer.engine.wrap import StepModule, buffers_kept, put_back


@dataclass
class Verdict:
    """What is known on the host about a step: its gradient norm and the summed stop flags of all ranks."""

    step: int
    batch: StepBatch
    norm: float
    flags: list[float]

    @property
    def is_finite(self) -> bool:
        """Whether the gradient was a number."""
        return math.isfinite(self.norm)


class Mailbox:
    """Brings a few numbers of each step to the host; on CUDA one step late, so that nobody waits for the device."""

    def __init__(self, is_late: bool) -> None:
        self._is_late = is_late
        self._pending: tuple[int, StepBatch, Tensor, Any] | None = None

    def post(self, step: int, batch: StepBatch, norm: Tensor, flags: Tensor | None) -> Verdict | None:
        """Send norm and flags (None for one process) of a step; returns those of the last one that has arrived."""
        if not self._is_late:
            return Verdict(step, batch, norm.item(), [] if flags is None else flags.tolist())
        arrived = self.collect()
        event = None
        values = norm.reshape(1) if flags is None else torch.cat([norm.reshape(1), flags])
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending = (step, batch, values, event)
        return arrived

    def collect(self) -> Verdict | None:
        """Wait for what is under way, if anything."""
        if self._pending is None:
            return None
        step, batch, values, event = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        norm, *flags = values.tolist()
        return Verdict(step, batch, norm, flags)


def train_step(job: Job, mailbox: Mailbox, batch: StepBatch) -> Verdict | None:
    """Train on one global batch; returns the verdict that has arrived (of this step, or on CUDA the one before)."""
    rekey(job.world.device, job.settings.seed, "step", job.cursor.step, job.world.rank)
    set_rate(job)
    backward(job, batch)
    crash.point("after_backward")
    with job.phase("clip"):
        if job.precision.scaler:
            job.precision.scaler.unscale_(job.optimizer)
        norm = clip(gradients(job.optimizer), job.settings.optim.clip)
    with job.phase("optimizer"):
        is_applied = update(job, norm)
    job.meter.add_step(batch.counts, batch.num_samples, norm, not is_applied)
    verdict = mailbox.post(job.cursor.step, batch, norm, summed_flags(job) if job.world.size > 1 else None)
    for parameter in job.parameters:
        parameter.grad = None
    job.cursor.updates += is_applied
    return verdict


def set_rate(job: Job) -> None:
    """The learning rate of this step, a function of the updates done; a group may have a curve of its own."""
    updates, groups = job.cursor.updates, job.optimizer.param_groups
    factor = job.schedule.factor(updates)
    if factor is not None:
        for group, rate, curve in zip(groups, job.base_rates, job.rate_curves, strict=True):
            group["lr"] = rate * (curve.at(updates) if curve else factor)
    job.rate = float(groups[0]["lr"])


def backward(job: Job, batch: StepBatch) -> None:
    """Add up the gradient of the step; ranks reduce it with the last micro-batch only."""
    scales = scales_of(job, batch)
    last = len(batch.micro) - 1
    is_measured = job.balance is not None and job.balance.is_due(job.cursor.step + 1)
    for number, part in enumerate(batch.micro):
        flags = None
        if number == last and job.world.size > 1:
            flags = torch.tensor(job.stop.flags(), device=job.world.device)
        with job.phase("copy"):
            batch_on_device = to_device(part, job.world.device)
        with synced_if(job, number == last):
            with job.phase("forward"), job.precision.autocast():
                total, loss = job.module(batch_on_device, scales, flags)
            crash.point("after_forward")
            if is_measured and number == last:
                with job.phase("balance"):
                    measure_balance(job, batch, part, loss)
            with job.phase("backward"):
                (job.precision.scaler.scale(total) if job.precision.scaler else total).backward()
        job.meter.add_loss(loss, batch.weight)
        if number < last:
            crash.point("mid_accumulation")


def scales_of(job: Job, batch: StepBatch) -> dict[str, float]:
    """What each loss term is multiplied by: its weight over its count, times the ranks over which DDP averages."""
    share = batch.weight * job.world.size
    weights = job.balance.weights if job.balance else {}
    return {name: share * weights.get(name, 1.0) / count if count else 0.0 for name, count in batch.counts.items()}


def measure_balance(job: Job, batch: StepBatch, part: Batch, loss: Loss) -> None:
    """Let the weights of the loss terms follow a micro-batch, `part`; they count from the next step on."""
    assert job.balance is not None
    counts = job.task.counts(part["index"].numpy(), batch.epoch)
    job.balance.follow(*measure(job.world, job.balance.trunk, loss.terms, counts, batch.weight))


def summed_flags(job: Job) -> Tensor:
    """Stop flags of all ranks: the reduced gradient of the carrier; a caller's own DDP wrapper has none."""
    if job.foreign:
        return job.world.sum(torch.tensor(job.stop.flags(), device=job.world.device))
    carrier = cast(StepModule, job.module.module).carrier
    assert carrier is not None
    assert carrier.grad is not None
    return carrier.grad


def synced_if(job: Job, is_last: bool) -> AbstractContextManager[None]:
    """Gradients of all but the last micro-batch stay on their rank."""
    if is_last or job.world.size == 1 or job.foreign:
        return nullcontext()
    return cast(AbstractContextManager[None], cast(DistributedDataParallel, job.module).no_sync())


def update(job: Job, norm: Tensor) -> bool:
    """Apply the gradient; False when it was left out because it was not finite."""
    crash.point("before_update")
    scaler = job.precision.scaler
    if scaler:
        before = scaler.get_scale()
        scaler.step(job.optimizer)
        scaler.update()
        if scaler.get_scale() < before:
            return False
    elif reads_at_once(job) and not math.isfinite(norm.item()):
        return False
    else:
        job.optimizer.step()
    if job.ema:
        job.ema.update(job.cursor.updates + 1)
    crash.point("after_update")
    return True


def reads_at_once(job: Job) -> bool:
    """Whether the norm is looked at before the update: free on the CPU, asked for by `skip` elsewhere."""
    return job.world.device.type == "cpu" or job.guard.policy == "skip"


def warm_up(job: Job, batch: StepBatch) -> None:
    """Run a throw-away forward and backward, so that DDP orders its buckets as in every later step.

    DDP rebuilds its buckets after the first backward and then adds in another order; without this, the first step
    of a resumed attempt of three or more ranks would differ from the same step of an undisturbed run.
    """
    if job.world.size == 1 or job.foreign:
        return
    kept = buffers_kept(job.model)
    with job.precision.autocast():
        total, _ = job.module(
            to_device(batch.micro[-1], job.world.device),
            dict.fromkeys(batch.counts, 0.0),
            torch.tensor(job.stop.flags(), device=job.world.device),
        )
    total.backward()
    job.module.zero_grad(set_to_none=True)
    put_back(job.model, kept)
