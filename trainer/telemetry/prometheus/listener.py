"""From events to metrics, on the first rank.

A resumed attempt begins with what the run knew: its account, its best value, the newest pass of each kind that counts.
Names of passes, metrics and warnings come from closed sets that the task declares, terms of the loss are the first few
that it has; anything else is left out, so that the number of series is bounded whatever happens.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from trainer.errors import DataError, Stopped
from trainer.telemetry.account import time_account
from trainer.telemetry.events import (
    REJECTIONS,
    AttemptEnded,
    CheckpointFailed,
    CheckpointPublished,
    CheckpointRejected,
    CheckpointTaken,
    EpochDone,
    Event,
    Metrics,
    NonFinite,
    OutOfMemory,
    PassDone,
    Resumed,
    RunStarted,
    SamplesLeftOut,
    StepDone,
    Warned,
)
from trainer.telemetry.prometheus.catalogue import DATA_ERRORS, FAMILIES
from trainer.telemetry.prometheus.live import Live
from trainer.telemetry.prometheus.values import Values, label_value
from trainer.telemetry.reading import Record, attempt_key, effective, select
from trainer.telemetry.rules import Rule
from trainer.telemetry.summary import best_so_far

TRAIN = "train"
"""The label `pass` of training itself."""
MAX_METRICS = 100
"""Names that a task may bring: one for each signer of a large corpus would be too many series."""
MAX_TERMS = 20
"""Terms of a loss, with three series each."""
NUM_SAVES = 20
"""Checkpoints that `grace_needed_seconds` looks back at."""


class MetricsListener:
    """Listener that fills `values`, and `live` with what goes on by itself between two events."""

    def __init__(
        self,
        values: Values,
        live: Live,
        *,
        rules: Iterable[Rule],
        history: Sequence[Record],
        num_gpus: int,
        grace_seconds: float | None,
        warn: Callable[[str], None],
    ) -> None:
        self._values, self._live, self._warn = values, live, warn
        self._history = history
        self._passes: frozenset[str] = frozenset()
        self._metrics: dict[str, str] = {}
        """Label of each metric's name."""
        self._best_name = ""
        self._total_steps = 0
        self._has_trained = False
        self._warnings = {(rule.name, rule.severity): None for rule in rules}
        self._intervals = _Intervals()
        self._saves: deque[float] = deque(maxlen=NUM_SAVES)
        self._stall = self._step_seconds = 0.0
        live.earlier = time_account(history, until=live.wall.at(live.begun))
        values.set("gpus", num_gpus)
        if grace_seconds is not None:
            values.set("grace_available_seconds", grace_seconds)
        _start_counters(values)
        values.start("warnings_total", self._warnings)
        values.add("preemptions_total", _count(history, "AttemptEnded", code=Stopped.exit_code))
        values.add("redone_steps_total", sum(record["redone_steps"] for record in select(history, "Resumed")))

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
        match event:
            case StepDone():
                self._step(event)
            case CheckpointTaken():
                self._taken(event)
            case CheckpointPublished():
                self._published(event)
            case CheckpointFailed():
                self._failed(event)
            case EpochDone():
                self._epoch(event)
            case PassDone():
                self._pass(event)
            case RunStarted():
                self._begin(event)
            case Resumed():
                self._resume(event)
            case AttemptEnded():
                self._end(event)
            case _:
                self._count(event)

    def close(self) -> None:
        """Nothing is held: the last values are to be scraped yet."""

    def _begin(self, event: RunStarted) -> None:
        values = self._values
        self._passes = frozenset(event.passes)
        self._metrics = {name: label_value(name) for name in islice(event.metrics, MAX_METRICS)}
        if len(event.metrics) > MAX_METRICS:
            self._warn(f"the task has {len(event.metrics)} metrics; Prometheus gets the first {MAX_METRICS} of them")
        self._best_name, self._total_steps = event.best_metric, event.total_steps
        values.set("epochs_target", event.num_epochs)
        values.set("steps_target", event.total_steps)
        values.set("attempts", attempt_key(event.attempt)[0])
        values.start("samples_total", [(TRAIN,)])
        for name in ("samples_total", "passes_total", "pass_duration_seconds"):
            values.start(name, [(a_pass,) for a_pass in event.passes])
        if not self._history:
            self._place(event)
        published = select(self._history, "CheckpointPublished")
        if published:
            self._live.moments["last_checkpoint_success_timestamp_seconds"] = self._live.wall.moment(
                published[-1]["wall"]
            )

    def _resume(self, event: Resumed) -> None:
        """What the run knew at the checkpoint it goes on from counts, what came after it does not."""
        values = self._values
        values.add("redone_steps_total", event.redone_steps)
        self._place(event)
        if self._has_trained:  # a rollback
            return
        values.set("resumed", 1)
        values.set("resume_epoch", event.epoch)
        story = [record for record in effective(self._history) if record["step"] <= event.step]
        for record in select(story, "PassDone"):
            if not record["is_final"]:
                self._set_metrics(record["name"], record["metrics"])
        best = best_so_far(story)
        if best:
            values.set("best_metric", best.value, *best.metric.split("/", 1))

    def _place(self, event: Event) -> None:
        values = self._values
        values.set("epoch", event.epoch)
        values.set("step", event.step)
        if self._total_steps:
            values.set("progress_ratio", min(1.0, event.step / self._total_steps))

    def _step(self, event: StepDone) -> None:
        values, num_steps = self._values, event.num_steps
        self._has_trained = True
        self._place(event)
        values.add("steps_total", num_steps)
        values.add("skipped_steps_total", event.skipped_steps)
        values.add("samples_total", round(event.samples_per_second * event.seconds), TRAIN)
        values.set("loss", event.loss, TRAIN)
        self._set_named("metric", event.metrics, TRAIN)
        self._set_terms(event)
        values.set("learning_rate", event.learning_rate)
        values.set("clipped_ratio", event.clipped_share)
        if num_steps:
            values.set("grad_norm", event.grad_norm)
            wait = event.data_wait_seconds / num_steps
            self._step_seconds = event.seconds / num_steps
            values.observe("step_duration_seconds", self._step_seconds - wait, times=num_steps)
            values.observe("data_wait_seconds", wait, times=num_steps)
        if event.loss_scale is not None:
            values.set("loss_scale", event.loss_scale)
        if event.seconds_left is not None:
            values.set("eta_seconds", event.seconds_left)

    def _epoch(self, event: EpochDone) -> None:
        self._place(event)
        self._values.add("epochs_completed_total", 1)
        self._values.observe("epoch_duration_seconds", event.seconds)
        self._values.set("epoch_loss", event.loss)
        self._set_named("epoch_metric", event.metrics)

    def _pass(self, event: PassDone) -> None:
        if event.name not in self._passes:
            return
        values = self._values
        values.add("passes_total", 1, event.name)
        values.add("samples_total", event.num_samples, event.name)
        values.observe("pass_duration_seconds", event.seconds, event.name)
        if event.is_final:
            self._set_named("result", event.metrics, event.name)
            return
        self._set_metrics(event.name, event.metrics)
        pass_name, _, metric = self._best_name.partition("/")
        if event.is_best and event.name == pass_name:
            values.set("best_metric", event.metrics.get(metric), pass_name, metric)

    def _set_metrics(self, pass_name: str, metrics: Metrics) -> None:
        if "loss" in metrics:
            self._values.set("loss", metrics["loss"], pass_name)
        self._set_named("metric", metrics, pass_name)

    def _set_named(self, family: str, metrics: Metrics, *labels: str) -> None:
        for name, value in metrics.items():
            label = self._metrics.get(name)
            if label is not None:
                self._values.set(family, value, *labels, label)

    def _set_terms(self, event: StepDone) -> None:
        for term in islice(event.terms, MAX_TERMS):
            label = label_value(term)
            self._values.set("term_loss", event.terms[term], label)
            if term in event.weights:
                self._values.set("term_weight", event.weights[term], label)
            if term in event.norms:
                self._values.set("term_grad_norm", event.norms[term], label)

    def _taken(self, event: CheckpointTaken) -> None:
        values = self._values
        values.set("checkpoint_size_bytes", event.size_bytes)
        values.observe("checkpoint_stall_seconds", event.stall_seconds)
        values.add("checkpoints_replaced_total", event.replaced)
        values.set("checkpoint_interval_seconds", self._intervals.mean(event.step, self._live.wall.monotonic()))
        self._stall = event.stall_seconds

    def _published(self, event: CheckpointPublished) -> None:
        values = self._values
        values.add("checkpoint_uploads_total", 1, "ok")
        values.add("checkpoint_upload_bytes_total", event.size_bytes)
        values.observe("checkpoint_upload_duration_seconds", event.seconds)
        self._saves.append(self._stall + event.seconds + self._step_seconds)
        values.set("grace_needed_seconds", max(self._saves))
        self._live.moments["last_checkpoint_success_timestamp_seconds"] = self._live.wall.monotonic()
        self._live.outage_since = None

    def _failed(self, event: CheckpointFailed) -> None:
        self._values.add("checkpoint_uploads_total", 1, "error")
        self._live.outage_since = self._live.wall.monotonic() - event.outage_seconds

    def _count(self, event: Event) -> None:
        values = self._values
        match event:
            case NonFinite():
                values.add("nonfinite_total", 1)
            case Warned() if (event.name, event.severity) in self._warnings:
                values.add("warnings_total", 1, event.name, event.severity)
            case CheckpointRejected():
                values.add("checkpoint_rejected_total", 1, event.kind)
            case OutOfMemory():
                values.add("oom_total", 1)
            case SamplesLeftOut():
                values.add("data_errors_total", event.num_skipped, "skipped")
                values.add("data_errors_total", event.num_tolerated, "tolerated")

    def _end(self, event: AttemptEnded) -> None:
        values = self._values
        values.set("exit_code", event.code)
        values.add("preemptions_total", event.code == Stopped.exit_code)
        values.add("data_errors_total", event.code == DataError.exit_code, "fatal")
        if event.code == 0:
            values.set("progress_ratio", 1.0)
            values.set("eta_seconds", 0.0)


class _Intervals:
    """Mean time between checkpoints of different steps."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._step = -1
        self._num_intervals = -1
        self._mean = 0.0

    def mean(self, step: int, now: float) -> float:
        """Take the checkpoint of a step into account; two of one step (before and after a pass) are one."""
        if step != self._step:
            self._step = step
            self._num_intervals += 1
            if self._first is None:
                self._first = now
            else:
                self._mean = (now - self._first) / self._num_intervals
        return self._mean


def _start_counters(values: Values) -> None:
    """Everything that can be counted before anybody knows the task."""
    closed = {
        "checkpoint_uploads_total": ("ok", "error"),
        "checkpoint_rejected_total": REJECTIONS,
        "data_errors_total": DATA_ERRORS,
    }
    for family in FAMILIES:
        if family.kind in ("counter", "histogram") and not family.labels:
            values.start(family.name)
    for name, labels in closed.items():
        values.start(name, [(label,) for label in labels])
    values.set("exit_code", -1)
    values.set("resumed", 0)
    values.set("resume_epoch", 0)
    values.set("checkpoint_interval_seconds", 0)


def _count(history: Sequence[Record], event: str, **fields: object) -> int:
    return sum(all(record[name] == value for name, value in fields.items()) for record in select(history, event))
