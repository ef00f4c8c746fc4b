"""Builds a job from settings and a task: everything that is decided before the first step."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.run import Run
from trainer.config.expressions import Curve, Trigger
from trainer.config.lengths import PerEpoch, in_steps
from trainer.config.settings import CommonSettings
from trainer.engine.balance import Balance, balance_moments, build_balance
from trainer.engine.best import Best, EarlyStop, Reported, build_best, direction
from trainer.engine.clock import Clock
from trainer.engine.ema import Ema
from trainer.engine.job import Emitter, Job, Scheduler, Timetable
from trainer.engine.meter import Meter
from trainer.engine.nonfinite import NonFiniteGuard
from trainer.engine.optim import base_rate, build_optimizer, freeze
from trainer.engine.phases import Profiler
from trainer.engine.precision import Precision
from trainer.engine.rng import rekey
from trainer.engine.schedule import Schedule
from trainer.engine.source import PlannedSource, Source
from trainer.engine.stop import StopRequests
from trainer.engine.task import WEIGHTED_LOSS, Pass, Task
from trainer.engine.watchdog import Watchdog
from trainer.engine.world import World
from trainer.engine.wrap import wrap
from trainer.errors import SettingsError


def build_model(task: Task, settings: CommonSettings, world: World) -> nn.Module:
    """The task's model on the device, initialised from the seed alone (equal on every rank)."""
    rekey(torch.device("cpu"), settings.seed, "init")
    model = task.build_model()
    freeze(model, settings.optim.freeze)
    model.to(world.device)
    if settings.precision.compile:
        model.compile()
    return model


@dataclass
class Parts:
    """What is trained and how: built from the settings, or brought along by a caller of `train(...)`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Scheduler
    source: Source
    module: nn.Module | None = None
    """A wrapped model that was brought along; then the job is a foreign one."""


def build_parts(task: Task, settings: CommonSettings, world: World) -> Parts:
    """Model, optimizer, schedule and data, all from the task and the settings."""
    model = build_model(task, settings, world)
    optimizer = build_optimizer(settings.optim, model, base_rate(settings.optim, settings.batch_size))
    source = PlannedSource(task, settings, world)
    per_epoch = source.steps_per_epoch(settings.num_epochs, settings.max_steps)
    return Parts(model, optimizer, build_schedule(task, settings, per_epoch), source)


def assemble(
    task: Task,
    settings: CommonSettings,
    world: World,
    parts: Parts,
    events: Emitter,
    run: Run | None,
    publisher: Publisher | None,
    clock: Clock,
    stop: StopRequests,
) -> Job:
    """The job of this attempt; `run` and `publisher` are the first rank's."""
    per_epoch = parts.source.steps_per_epoch(settings.num_epochs, settings.max_steps)
    total = run_length(settings, per_epoch)
    passes = list(task.passes())
    reported = reported_metrics(task, settings, passes)
    best = build_best(settings.best, task.best_metric, reported)
    stop_metric = settings.early_stop.metric or best.metric
    stop_mode = direction(stop_metric, settings.early_stop.mode, reported, "early_stop.metric")
    stop_record = Best(stop_metric, stop_mode, settings.early_stop.min_delta)
    own_curves = [group.get("curve") for group in parts.optimizer.param_groups]
    return Job(
        task=task,
        settings=settings,
        world=world,
        events=events,
        run=run,
        publisher=publisher,
        model=parts.model,
        module=parts.module or wrap(task, parts.model, world),
        optimizer=parts.optimizer,
        base_rates=[group["lr"] for group in parts.optimizer.param_groups],
        rate_curves=[
            Curve.parse(curve).resolve(total, per_epoch, "optim.groups") if curve else None for curve in own_curves
        ],
        curves=getattr(task, "curves", {}),
        schedule=parts.schedule,
        balance=balance_of(task, settings, parts, total, per_epoch),
        precision=Precision(settings.precision, world.device),
        ema=Ema(settings.ema, parts.model) if settings.ema.enabled else None,
        source=parts.source,
        passes=passes,
        best=best,
        early_stop=EarlyStop(settings.early_stop, stop_record, total, per_epoch),
        guard=NonFiniteGuard(settings.nonfinite),
        moments=resolve_moments(settings, passes, total, per_epoch),
        steps_per_epoch=per_epoch,
        total_steps=total,
        stop=stop,
        watchdog=Watchdog(settings.watchdog),
        clock=clock,
        meter=Meter(world, getattr(task, "derived", None)),
        foreign=parts.module is not None,
        profiler=Profiler(settings.profile, world.device) if settings.profile.enabled and world.is_first else None,
    )


def balance_of(task: Task, settings: CommonSettings, parts: Parts, total: int, per_epoch: PerEpoch) -> Balance | None:
    """The weights of the loss terms, if they are to be weighed; a model from outside has one term."""
    if settings.balance.kind == "none":
        return None
    moments = balance_moments(settings.balance, total, per_epoch)
    counts = {} if parts.module else task.counts(np.arange(len(task.train_data()), dtype=np.int64), 0)
    balance = build_balance(settings.balance, task, parts.model, counts, moments)
    if balance.trunk and settings.precision.compile:
        # A compiled backward reuses what the forward kept, which the backward after a measurement still needs.
        torch._functorch.config.donated_buffer = False
    return balance


def declared_metrics(task: Task, settings: CommonSettings) -> dict[str, str]:
    """The closed set of the run: that of the task, and the weighed loss of passes where terms are weighed."""
    return {**task.metrics} | ({} if settings.balance.kind == "none" else {WEIGHTED_LOSS: "min"})


def reported_metrics(task: Task, settings: CommonSettings, passes: Sequence[Pass]) -> Reported:
    """The metrics of every pass: those that it names, else all of them."""
    declared = declared_metrics(task, settings)
    return {one.name: {name: declared[name] for name in one.metrics or declared} for one in passes}


def run_length(settings: CommonSettings, steps_per_epoch: PerEpoch) -> int:
    """Steps of the run: the epochs, or `max_steps` if that comes first."""
    total = int(in_steps(Fraction(settings.num_epochs), steps_per_epoch))
    return min(total, settings.max_steps) if settings.max_steps else total


def build_schedule(task: Task, settings: CommonSettings, steps_per_epoch: PerEpoch) -> Schedule:
    """The schedule of the settings, watching its metric if it is a plateau."""
    metric = settings.schedule.metric or task.best_metric
    mode = direction(metric, "auto", reported_metrics(task, settings, task.passes()), "schedule.metric")
    return Schedule(settings.schedule, run_length(settings, steps_per_epoch), steps_per_epoch, metric, mode)


def resolve_moments(settings: CommonSettings, passes: list[Pass], total: int, per_epoch: PerEpoch) -> Timetable:
    """All triggers, resolved against the length of the run. Raises SettingsError for a pass that does not exist."""
    names = [a_pass.name for a_pass in passes]
    for name in settings.passes:
        if name not in names:
            raise SettingsError(f"passes.{name} is set, but the task has only: {', '.join(names)}")
    triggers = {a_pass.name: settings.passes.get(a_pass.name, a_pass.trigger) for a_pass in passes}
    return Timetable(
        log=Trigger.parse(settings.telemetry.log_every).resolve(total, per_epoch),
        checkpoint=Trigger.parse(settings.checkpoint.every).resolve(total, per_epoch),
        milestone=Trigger.parse(settings.checkpoint.milestones).resolve(total, per_epoch),
        passes={name: Trigger.parse(text).resolve(total, per_epoch) for name, text in triggers.items()},
    )
