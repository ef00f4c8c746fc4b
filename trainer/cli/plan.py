"""`trainer config --plan`: the timeline of a run, resolved against its data by the engine's own functions."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction

from trainer.cli.output import print_json, print_table
from trainer.config.expressions import Amount, Curve
from trainer.config.lengths import PerEpoch, in_epochs, typical
from trainer.config.settings import CommonSettings, ScheduleSettings
from trainer.data.plan import steps_per_epoch
from trainer.engine.setup import build_schedule, resolve_moments, run_length
from trainer.tasks import registry


@dataclass(frozen=True)
class Firing:
    """Something that is due after a step."""

    step: int
    epoch: float
    what: str
    learning_rate: float
    """Of the step that follows; a plateau counts as if it never saw a value."""


def show_plan(settings: CommonSettings, as_json: bool) -> int:
    """Print passes, checkpoints, milestones and knots of the learning rate in order."""
    name = getattr(settings, "task", "")
    task = registry.load(name).create(settings)
    per_epoch = steps_per_epoch(task.plan(), settings.num_epochs, settings.max_steps)
    total = run_length(settings, per_epoch)
    moments = resolve_moments(settings, list(task.passes()), total, per_epoch)
    schedule = build_schedule(task, settings, per_epoch)
    due = {f"pass {name}": moment for name, moment in moments.passes.items()}
    due |= {"checkpoint": moments.checkpoint, "milestone": moments.milestone}
    knots = set(_knots(settings.schedule, total, per_epoch))
    firings = []
    for step in range(total + 1):
        names = ["learning rate"] if step in knots else []
        names += [what for what, moment in due.items() if step and moment.due(step)]
        rate = settings.optim.lr * schedule.factor(step) if names else 0.0
        firings += [Firing(step, float(in_epochs(Fraction(step), per_epoch)), what, rate) for what in names]
    if as_json:
        print_json({"steps_per_epoch": per_epoch, "total_steps": total, "timeline": [asdict(one) for one in firings]})
        return 0
    print(f"{total} steps, {typical(per_epoch)} an epoch")
    rows = [(one.step, f"{one.epoch:.3f}", one.what, f"{one.learning_rate:.6g}") for one in firings]
    print_table(("step", "epoch", "what", "next learning rate"), rows, right=frozenset({0, 1, 3}))
    return 0


def _knots(schedule: ScheduleSettings, total: int, per_epoch: PerEpoch) -> Iterator[int]:
    """Steps at which the learning rate changes its course."""
    yield 0
    yield total
    yield min(total, math.ceil(Amount.parse(schedule.warmup).steps(total, per_epoch)))
    if schedule.name == "curve" and schedule.curve:
        yield from (math.ceil(place.steps(total, per_epoch)) for _, place in Curve.parse(schedule.curve).knots)
