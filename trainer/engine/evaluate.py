"""Runs a pass: every sample once, sharded exactly over the ranks, sums reduced once at the end.

A pass changes no weight and no cursor, so an interrupted one simply starts again.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import crash
from trainer.data.dataset import Batch, Indices, Ragged
from trainer.data.plan import share
from trainer.data.prefetch import Prefetcher
from trainer.engine.balance import weighted_sum
from trainer.engine.job import Job
from trainer.engine.memory import peak_memory_bytes, reset_peak_memory
from trainer.engine.rng import rekey
from trainer.engine.source import to_device
from trainer.engine.task import WEIGHTED_LOSS, Pass, PassResult, Placed
from trainer.telemetry.events import PassStarted

_AGREE_EVERY = 8
"""Batches of a pass between two looks at the stop flags of all ranks; one small reduction each."""


def run_pass(job: Job, a_pass: Pass) -> tuple[PassResult, float, int | None] | None:
    """Result, seconds and peak memory (bytes); None when all ranks agreed to stop before the end."""
    job.emit(PassStarted, name=a_pass.name, num_samples=len(a_pass.data))
    rekey(job.world.device, job.settings.seed, "pass", job.cursor.step, job.world.rank)
    reset_peak_memory(job.world.device)
    was_training = job.model.training
    job.model.eval()
    before = job.clock.seconds["evaluation"]
    try:
        with job.clock.during("evaluation"), torch.no_grad():
            sums = sum_over(job, a_pass)
            result = None if sums is None else weighed(job, a_pass, job.task.summarize(a_pass.name, sums))
    finally:
        job.model.train(was_training)
    if result is None:
        return None
    return result, job.clock.seconds["evaluation"] - before, peak_memory_bytes(job.world.device)


def weighed(job: Job, a_pass: Pass, result: PassResult) -> PassResult:
    """With the loss as it is weighed at this moment, where the terms are balanced."""
    if job.balance is None or a_pass.metrics:
        return result
    return replace(result, metrics=result.metrics | {WEIGHTED_LOSS: weighted_sum(result.terms, job.balance.weights)})


def sum_over(job: Job, a_pass: Pass) -> dict[str, Tensor] | None:
    """The task's sums over the whole pass and all ranks, float64 on the CPU; None when interrupted."""
    batches = Prefetcher(rank_batches(job, a_pass), job.settings.prefetch)
    evaluate = a_pass.evaluate or job.task.evaluate
    totals: dict[str, Tensor] = {}
    try:
        for number, (weight, batch) in enumerate(batches):
            with job.precision.autocast():
                sums = evaluate(job.model, to_device(batch, job.world.device))
            for name, part in sums.items():
                add(totals, name, part, weight)
            job.watchdog.beat()
            crash.point("mid_pass")
            # Loaders from outside may give ranks unequal numbers of batches: no reductions among those.
            if number % _AGREE_EVERY == 0 and not (job.foreign and job.world.size > 1) and agree_to_stop(job):
                return None
    finally:
        batches.close()
    return reduce_sums(job, totals)


def add(totals: dict[str, Tensor], name: str, part: Tensor | Placed, weight: float) -> None:
    """Add a batch's part to a sum in place; one of weight 0 only gives the sum its shape."""
    values = (part.values if isinstance(part, Placed) else part).detach()
    if name not in totals:
        shape = (part.size, *values.shape[1:]) if isinstance(part, Placed) else values.shape
        totals[name] = values.new_zeros(shape)
    if weight and isinstance(part, Placed):
        totals[name].index_add_(0, part.index, values)
    elif weight:
        totals[name] += values


def rank_batches(job: Job, a_pass: Pass) -> Iterator[tuple[float, Batch]]:
    """This rank's (weight, batch) pairs; all ranks get equally many, padded by placeholders of weight 0."""
    if a_pass.loader:
        yield from ((1.0, batch) for batch in a_pass.loader())
        return
    for part in rank_parts(a_pass, job.world.rank, job.world.size):
        batch = a_pass.data.take(part if len(part) else np.zeros(1, np.int64), 0)
        yield float(len(part) > 0), a_pass.transform(batch) if a_pass.transform else batch


def rank_parts(a_pass: Pass, rank: int, world_size: int) -> Iterator[Indices]:
    """The samples of each of this rank's batches; the last ones may be empty.

    Samples of different size go into batches from small to large, which the ranks take in turns: so batches are the
    same for any number of ranks, and ranks have equally much to do.
    """
    data, size = a_pass.data, a_pass.batch_size
    everything = np.arange(len(data), dtype=np.int64)
    if isinstance(data, Ragged):
        ordered = everything[np.argsort(data.costs(everything), kind="stable")]
        for start in range(0, len(data), size * world_size):
            yield ordered[start + rank * size : start + (rank + 1) * size]
        return
    mine = share(everything, rank, world_size)
    for start in range(0, -(-len(everything) // world_size), size):
        yield mine[start : start + size]


def agree_to_stop(job: Job) -> bool:
    """Whether any rank was asked to stop; sets `job.stopping` alike on all of them."""
    flags = torch.tensor(job.stop.flags(), device=job.world.device)
    job.stopping = job.stop.agreed(job.world.sum(flags).tolist())
    return job.stopping is not None


def reduce_sums(job: Job, totals: dict[str, Tensor]) -> dict[str, Tensor]:
    """All sums in one reduction; float64, so that counts stay exact whatever the number of ranks."""
    names = sorted(totals)
    wide = torch.float32 if job.world.device.type == "mps" else torch.float64
    flat = torch.cat([totals[name].to(wide).reshape(-1) for name in names])
    reduced = job.world.sum(flat).to("cpu", torch.float64)
    parts = torch.split(reduced, [totals[name].numel() for name in names])
    return {name: part.reshape(totals[name].shape) for name, part in zip(names, parts, strict=True)}
