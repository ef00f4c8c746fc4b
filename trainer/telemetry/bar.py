"""The bar on a terminal: one line for the whole run, drawn only when asked.

    epoch  3/50 ━━━━━━━━━╸━━━━━━━━━━━━  45%  1,234/2,750  loss 0.1234  top1 0.9123  12,345 samples/s  1:34 left

No refresh thread: drawing takes about 2 ms of the interpreter lock, so it happens at log points, `BAR_SECONDS` apart.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress

from trainer.telemetry.events import RunStarted, StepDone
from trainer.telemetry.text import duration, number, rate

BAR_SECONDS = 0.25
WIDE = 110
"""From this many columns on, steps are counted and the unit of the rate is written out."""


class Bar:
    """Shows the newest log point of a run; lines printed through the same console appear above it."""

    def __init__(self, console: Console, run: RunStarted, accuracy: str | None) -> None:
        self._run = run
        self._accuracy = accuracy
        self._drawn_at: float | None = None
        self._label = self._epoch(run.epoch)
        self._rich = RichProgress(*_columns(console.width), console=console, auto_refresh=False)
        self._task = self._rich.add_task(self._label, total=run.total_steps, completed=run.step, numbers="")
        self._rich.start()
        self._rich.refresh()

    def step(self, event: StepDone) -> None:
        """Take over a log point, and draw it if the last drawing is old enough."""
        now = time.monotonic()
        is_due = self._drawn_at is None or now - self._drawn_at >= BAR_SECONDS
        if not is_due and event.step < self._run.total_steps:
            return
        self._drawn_at = now
        wide = self._rich.console.width >= WIDE
        parts = [f"loss {number(event.loss)}"]
        if self._accuracy in event.metrics:
            parts.append(f"{self._accuracy} {number(event.metrics[self._accuracy])}")
        parts.append(f"{rate(event.samples_per_second)}{' samples' if wide else ''}/s")
        if event.seconds_left is not None and event.step < self._run.total_steps:
            parts.append(f"{duration(event.seconds_left)} left")
        self._rich.update(self._task, numbers="  ".join(parts))
        ends_epoch = event.epoch_progress == 0 and event.epoch > 0
        self.move(event.epoch - ends_epoch, event.step)

    def move(self, epoch: int, step: int) -> None:
        """Show another place, after a log point or a rollback."""
        self._label = self._epoch(epoch)
        self._rich.update(self._task, description=self._label, completed=step)
        self._rich.refresh()

    def phase(self, text: str | None) -> None:
        """Say what goes on instead of steps (a pass over the validation set); None when steps go on."""
        self._rich.update(self._task, description=text or self._label)
        self._rich.refresh()

    def stop(self) -> None:
        """Draw it a last time and leave it on the screen."""
        self._rich.refresh()
        self._rich.stop()

    def _epoch(self, epoch: int) -> str:
        num_epochs = self._run.num_epochs
        return f"epoch {min(epoch + 1, num_epochs):{len(str(num_epochs))}}/{num_epochs}"


def _columns(width: int) -> list[ProgressColumn]:
    counts = [TextColumn("{task.completed:,.0f}/{task.total:,.0f}")] if width >= WIDE else []
    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        *counts,
        TextColumn("{task.fields[numbers]}", markup=False),
    ]
