"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere, a table of results at the end.

The contract is the cost: the bar is drawn at log points only and at most four times a second, a step line is printed
at most twice a second, and no thread of its own wakes up in between.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Literal

from rich.console import Console

from trainer.telemetry.bar import Bar
from trainer.telemetry.events import (
    ArtifactWritten,
    AttemptEnded,
    CheckpointFailed,
    CheckpointRejected,
    EpochDone,
    Event,
    NonFinite,
    Noted,
    PassDone,
    PassStarted,
    Profiled,
    Resumed,
    RunStarted,
    StepDone,
    Stopping,
    Warned,
)
from trainer.telemetry.results import print_paths, print_profile, print_results
from trainer.telemetry.text import duration, metrics_text, number, rate, shown_names

LINE_SECONDS = 0.5
MIN_FAILURE_SECONDS = 30.0
"""Of an outage between two lines about it."""

Mode = Literal["auto", "bar", "lines"]


class Progress:
    """Listener that writes for people; with `auto` it draws a bar where the console is a terminal."""

    def __init__(self, mode: Mode = "auto", *, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout)
        self._with_bar = mode == "bar" or (mode == "auto" and self._console.is_terminal)
        self._bar: Bar | None = None
        self._run: RunStarted | None = None
        self._names = ["loss"]
        self._printed_at: float | None = None
        self._outage_seconds = self._next_failure_seconds = 0.0
        self._last_step = 0
        self._final: dict[str, PassDone] = {}
        self._best: PassDone | None = None
        self._paths: dict[str, str] = {}
        self._ended = False

    def on_event(self, event: Event) -> None:
        """Show one event, or not."""
        match event:
            case StepDone():
                self._step(event)
            case RunStarted():
                self._begin(event)
            case EpochDone():
                self._epoch(event)
            case PassStarted():
                if self._bar is not None:
                    self._bar.phase(f"pass {event.name} ...")
            case PassDone():
                self._pass(event)
            case ArtifactWritten():
                self._artifact(event)
            case Profiled():
                print_profile(self._console, event)
            case AttemptEnded():
                self._end(event)
            case _:
                self._message(event)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _begin(self, event: RunStarted) -> None:
        width = self._console.width if self._console.is_terminal else 100
        self._run, self._names = event, shown_names(event.metrics, width)
        processes = f"{event.world_size} process" + ("es" if event.world_size > 1 else "")
        passes = "".join(f", {text}" for text in _samples(event.passes))
        self._print(f"run {event.run}, attempt {event.attempt}: {event.task} {event.model}", style="bold")
        self._print(f"{event.num_parameters:,} parameters, {event.device}, {event.precision}, {processes}")
        self._print(
            f"{event.num_epochs} epochs of {event.steps_per_epoch:,} steps, batch size {event.batch_size}; "
            f"samples: train {event.num_samples:,}{passes}"
        )
        if self._with_bar:
            accuracy = self._names[1] if len(self._names) > 1 else None
            self._bar = Bar(self._console, event, accuracy)

    def _step(self, event: StepDone) -> None:
        self._last_step = event.step
        if self._bar is not None:
            self._bar.step(event)
            return
        now = time.monotonic()
        if self._printed_at is not None and now - self._printed_at < LINE_SECONDS:
            return
        self._printed_at = now
        others = "".join(
            f" | {name} {number(event.metrics[name])}" for name in self._names[1:2] if name in event.metrics
        )
        left = f" | {duration(event.seconds_left)} left" if event.seconds_left else ""
        self._print(
            f"step {event.step:6} | loss {number(event.loss)} | lr {event.learning_rate:.6f} | "
            f"grad norm {number(event.grad_norm, 2)} | {rate(event.samples_per_second)} samples/s{others}{left}"
        )

    def _tell_failure(self, event: CheckpointFailed) -> None:
        """The first failure of an outage and then ever fewer: it may be tried again for an hour."""
        is_new = event.outage_seconds <= self._outage_seconds
        self._outage_seconds = event.outage_seconds
        if event.will_retry and not is_new and event.outage_seconds < self._next_failure_seconds:
            return
        self._next_failure_seconds = max(MIN_FAILURE_SECONDS, 2 * event.outage_seconds)
        then = "will try again" if event.will_retry else "gave up"
        age = f"; the last durable one is {duration(event.age_seconds)} old" if event.age_seconds >= 60 else ""
        self._print(f"warning: checkpoint {event.checkpoint}: {event.reason}; {then}{age}", style="yellow")

    def _epoch(self, event: EpochDone) -> None:
        metrics = {"loss": event.loss, **event.metrics}
        numbers = metrics_text(metrics, self._names)
        took = f"{duration(event.seconds)}, {rate(event.samples_per_second)} samples/s"
        label = f"Epoch {event.epoch}/{self._run.num_epochs if self._run else '-'}"
        self._print(f"{self._columns(label, 'train')}  {numbers}  ({took})")

    def _pass(self, event: PassDone) -> None:
        if self._bar is not None:
            self._bar.phase(None)
        if event.is_final:
            self._final[event.name] = event
            return
        best = "  new best" if event.is_best else ""
        numbers = metrics_text(event.metrics, self._names)
        label = self._columns(f"step {event.step:,}", event.name)
        self._print(f"{label}  {numbers}  ({duration(event.seconds)}){best}")
        if event.is_best:
            self._best = event

    def _columns(self, label: str, name: str) -> str:
        """Epoch lines and pass lines stand below each other: the label and the name are as wide in both."""
        if self._run is None:
            return f"{label}  {name}"
        epochs, steps = f"Epoch {self._run.num_epochs}/{self._run.num_epochs}", f"step {self._run.total_steps:,}"
        return f"{label:{max(len(epochs), len(steps))}}  {name:{max(map(len, ['train', *self._run.passes]))}}"

    def _message(self, event: Event) -> None:
        match event:
            case Warned():
                self._print(f"{'note' if event.severity == 'note' else 'warning'}: {event.text}", style="yellow")
            case Noted():
                self._print(f"note: {event.text}")
            case Resumed():
                redone = f"; {event.redone_steps:,} steps are done again" if event.redone_steps else ""
                self._print(f"goes on from {event.checkpoint} (step {event.step:,}, epoch {event.epoch + 1}){redone}")
                if self._bar is not None:
                    self._bar.move(event.epoch, event.step)
            case CheckpointRejected():
                self._print(f"warning: checkpoint {event.checkpoint} is not good: {event.reason}", style="yellow")
            case CheckpointFailed():
                self._tell_failure(event)
            case NonFinite():
                self._print(
                    f"warning: not finite: {event.what}; {event.policy} ({event.used} of {event.budget})",
                    style="yellow",
                )
            case Stopping():
                self._print(f"stopping after step {event.step:,}: {event.reason}")

    def _artifact(self, event: ArtifactWritten) -> None:
        if self._ended:
            print_paths(self._console, [(event.kind, event.path)])
        self._paths[event.kind] = event.path

    def _end(self, event: AttemptEnded) -> None:
        self.close()
        self._ended = True
        if self._final:
            declared, caveat = (self._run.metrics, self._run.caveat) if self._run else ({}, "")
            print_results(self._console, self._final, declared, caveat=caveat)
        elif self._best is not None:
            self._print(f"best so far: step {self._best.step:,}  {metrics_text(self._best.metrics, self._names)}")
        print_paths(self._console, self._paths.items())
        outcome = "complete" if event.code == 0 else f"ended with code {event.code}"
        reason = f": {event.reason}" if event.reason and event.reason != outcome else ""
        step = f"step {self._last_step:,}, " if self._last_step else ""
        self._print(f"{outcome}{reason} ({step}{duration(event.seconds)})", style="bold")

    def _print(self, text: str, *, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _samples(passes: Mapping[str, int]) -> Iterator[str]:
    """Passes and their samples; neighbours that have as many share the number."""
    for count, group in groupby(passes, key=passes.__getitem__):
        names = list(group)
        yield f"{', '.join(names)} {count:,}{' each' if len(names) > 1 else ''}"
