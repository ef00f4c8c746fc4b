"""What an attempt says of itself at its start: settings, versions, environment, sizes."""

import os
import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from trainer.checkpoint.manifest import software
from trainer.config.digest import digest, matters
from trainer.config.lengths import steps_of, typical
from trainer.engine.job import Job
from trainer.engine.schedule import Schedule
from trainer.engine.setup import declared_metrics
from trainer.engine.task import caveat_of
from trainer.telemetry.events import RunStarted


def run_started(job: Job, run: str, attempt: str) -> RunStarted:
    """The event that opens an attempt of a run."""
    settings = job.settings
    return RunStarted(
        run=run,
        attempt=attempt,
        task=job.task.name,
        model=job.task.model_name,
        world_size=job.world.size,
        device=device_name(job.world.device),
        precision=job.precision.name,
        seed=settings.seed,
        num_parameters=sum(parameter.numel() for parameter in job.model.parameters()),
        num_samples=job.source.num_samples(),
        steps_per_epoch=typical(job.steps_per_epoch),
        total_steps=job.total_steps,
        num_epochs=settings.num_epochs,
        batch_size=batch_size(job),
        passes={a_pass.name: len(a_pass.data) for a_pass in job.passes},
        metrics=declared_metrics(job.task, settings),
        best_metric=job.best.metric,
        config=settings.model_dump(mode="json"),
        config_digest=digest(matters(settings)),
        versions=versions(),
        environment=environment(),
        info=job.task.info(),
        caveat=caveat_of(job.task),
    )


def remarks(job: Job) -> list[str]:
    """What follows from settings and data together and a user should be told once; a task may have some of its own."""
    caveat = caveat_of(job.task)
    found: list[str | None] = [f"no headline: {caveat}" if caveat else None, *getattr(job.task, "remarks", [])]
    found.append(job.schedule.remark if isinstance(job.schedule, Schedule) else None)
    found.append(job.balance.remark(job.total_steps) if job.balance else None)
    return [*(one for one in found if one), *unmeasured(job)]


def unmeasured(job: Job) -> Iterator[str]:
    """Metrics that decide something, but of a pass that never runs in training."""
    chosen = [("best.metric", job.best.metric, "the newest weights count as the best ones")]
    if job.early_stop.is_on:
        chosen.append(("early_stop.metric", job.early_stop.record.metric, "early_stop never looks at anything"))
    if job.settings.schedule.name == "plateau" and not job.foreign:
        watched = job.settings.schedule.metric or job.task.best_metric
        chosen.append(("schedule.metric", watched, "schedule.name plateau never lowers the rate"))
    for setting, metric, what_then in chosen:
        name = metric.partition("/")[0]
        if not job.moments.passes[name].fires_between(0, job.total_steps + 1):
            yield f"{setting} is {metric}, but the pass {name} does not run in training (passes.{name}): {what_then}"


def batch_size(job: Job) -> int:
    """Samples of a step: as set, or the mean where the plan goes by something else."""
    num_samples, num_steps = job.source.num_samples(), steps_of(job.steps_per_epoch, 0)
    fixed = job.settings.batch_size
    return fixed if job.foreign or -(-num_samples // fixed) == num_steps else round(num_samples / num_steps)


def device_name(device: torch.device) -> str:
    """Name of the GPU, or the kind of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Versions of what decides results."""
    return software() | {package: metadata.version(package) for package in ("numpy", "safetensors")}


def environment() -> dict[str, str | int | None]:
    """The machine as far as it matters for speed and for repeating a run; no variable that could hold a secret."""
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
