"""What a run will do and when, before its first step: the same expressions that the loop asks, all resolved at once.

A line is something that happens after a step. The ledger of the run says the same later: `PassDone` for a pass (a
final one, `is_final`, takes the best weights when all steps are done), a taken checkpoint for a checkpoint (a new best
adds further ones), `Balanced` for new weights of the loss terms, `StepDone.learning_rate` and `.curves` of the step
that follows for the values. An early stop cuts the timeline short.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from trainer.config.expressions import Course
from trainer.config.lengths import PerEpoch, in_epochs
from trainer.config.settings import CommonSettings
from trainer.data.plan import steps_per_epoch
from trainer.engine.balance import balance_moments
from trainer.engine.optim import base_rate
from trainer.engine.schedule import Schedule
from trainer.engine.setup import build_schedule, resolve_moments, run_length
from trainer.engine.task import Task


@dataclass(frozen=True)
class Line:
    """What is due after a step, or the value that changes its course there; and all values for the next step."""

    step: int
    epoch: float
    what: str
    learning_rate: float
    """A plateau counts as if it never saw a value."""
    curves: dict[str, float]
    """The task's curves by name."""


@dataclass(frozen=True)
class Timeline:
    """A run from its first step to its last."""

    total_steps: int
    steps_per_epoch: PerEpoch
    lines: list[Line]


def timeline(task: Task, settings: CommonSettings) -> Timeline:
    """All passes, checkpoints, milestones, measurements of the balance and knots of curves of a run in order.

    Raises SettingsError.
    """
    per_epoch = steps_per_epoch(task.plan(), settings.num_epochs, settings.max_steps)
    total = run_length(settings, per_epoch)
    schedule = build_schedule(task, settings, per_epoch)
    curves: Mapping[str, Course] = getattr(task, "curves", {})
    rate = base_rate(settings.optim, settings.batch_size)
    lines = [
        Line(
            step,
            float(in_epochs(Fraction(step), per_epoch)),
            what,
            rate * schedule.factor(step),
            {name: curve.at(step) for name, curve in curves.items()},
        )
        for step, what in sorted(events(task, settings, schedule, curves, total, per_epoch), key=lambda one: one[0])
    ]
    return Timeline(total, per_epoch, lines)


def events(
    task: Task,
    settings: CommonSettings,
    schedule: Schedule,
    curves: Mapping[str, Course],
    total: int,
    per_epoch: PerEpoch,
) -> Iterator[tuple[int, str]]:
    """Steps and what is due after them, kind by kind."""
    moments = resolve_moments(settings, list(task.passes()), total, per_epoch)
    for name, one in moments.passes.items():
        yield from ((step, f"pass {name}") for step in one.firings(total))
    # The state at the end is always kept.
    checkpoints = {*moments.checkpoint.firings(total), *moments.milestone.firings(total), total}
    yield from ((step, "checkpoint") for step in sorted(checkpoints))
    yield from ((step, "milestone") for step in moments.milestone.firings(total))
    balance = balance_moments(settings.balance, total, per_epoch)
    yield from ((step, "balance") for step in balance.firings(total))
    yield from ((step, "learning rate") for step in schedule.knots)
    for name, curve in curves.items():
        yield from ((step, f"curve {name}") for step in curve.knots if step <= total)
    yield from ((total, f"final pass {name}") for name in moments.passes)
