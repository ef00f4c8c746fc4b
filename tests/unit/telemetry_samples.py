"""Hand-made events and records, with fields that do no harm unless a test says otherwise."""

from typing import Any

from trainer.telemetry import events
from trainer.telemetry.ledger import record
from trainer.telemetry.rules import Finding, Rule
from trainer.telemetry.trace import Trace


def run_started(**changes: Any) -> events.RunStarted:
    values: dict[str, Any] = {
        "run": "r",
        "attempt": "1-aa",
        "task": "signs",
        "model": "s_4_2",
        "world_size": 1,
        "device": "cpu",
        "precision": "fp32",
        "seed": 1,
        "num_parameters": 1000,
        "num_samples": 640,
        "steps_per_epoch": 10,
        "total_steps": 100,
        "num_epochs": 10,
        "batch_size": 64,
        "passes": {"val": 96},
        "metrics": {"loss": "min", "top1": "max", "top5": "max"},
        "best_metric": "val/loss",
        "config": {"optim": {"clip": 1.0}},
        "config_digest": "d",
        "versions": {},
        "environment": {},
    }
    return events.RunStarted(**(values | changes))


def step_done(step: int, **changes: Any) -> events.StepDone:
    values: dict[str, Any] = {
        "step": step,
        "num_steps": 20,
        "seconds": 2.0,
        "loss": 1.0,
        "metrics": {"top1": 0.5},
        "learning_rate": 1e-3,
        "grad_norm": 0.5,
        "max_grad_norm": 0.7,
        "clipped_share": 0.0,
        "loss_scale": None,
        "skipped_steps": 0,
        "samples": 64 * step,
        "samples_per_second": 640.0,
        "data_wait_seconds": 0.1,
    }
    return events.StepDone(**(values | changes))


def pass_done(step: int, loss: float | None = 1.0, **changes: Any) -> events.PassDone:
    metrics = {"loss": loss, "top1": 0.5} | changes.pop("metrics", {})
    values: dict[str, Any] = {"step": step, "name": "val", "num_samples": 96, "seconds": 1.0, "metrics": metrics}
    return events.PassDone(**(values | changes))


def records_of(
    *happened: events.Event, attempt: str = "1-aa", start: float = 1000.0, each: float = 1.0
) -> list[dict[str, Any]]:
    """The ledger of these events, `each` seconds apart."""
    stamped = ((event, start + each * index) for index, event in enumerate(happened))
    return [record(event, run="r", attempt=attempt, wall=wall, mono=wall - start) for event, wall in stamped]


NUM_POINTS = 30
"""Log points of 20 steps: three windows of 200 steps."""


def steps(count: int = NUM_POINTS, **of_point: Any) -> list[events.Event]:
    """`count` log points; a callable value is asked with the number of the point."""
    return [
        step_done(
            20 * (point + 1),
            **{name: value(point) if callable(value) else value for name, value in of_point.items()},
        )
        for point in range(count)
    ]


def evaluations(validation: list[float | None], training: list[float], **metrics: Any) -> list[events.Event]:
    """Epochs of one log point and a pass each."""
    happened: list[events.Event] = []
    for epoch, (val, train) in enumerate(zip(validation, training, strict=True), start=1):
        happened += [step_done(20 * epoch, loss=train), pass_done(20 * epoch, val, metrics=metrics)]
    return happened


def check(rule: Rule, happened: list[events.Event], **started: Any) -> Finding | None:
    return rule.check(Trace.of(records_of(run_started(**started), *happened)))
