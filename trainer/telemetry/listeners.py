"""Which listeners a run has by default, and in which order: ledger, warning signs, console, curves."""

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from trainer.config.settings import TelemetrySettings
from trainer.telemetry.events import Event, Listener, Noted, RunStarted
from trainer.telemetry.ledger import Ledger
from trainer.telemetry.progress import Progress
from trainer.telemetry.reading import Record
from trainer.telemetry.rules import Rule
from trainer.telemetry.tensorboard import TensorBoard
from trainer.telemetry.thresholds import adjusted
from trainer.telemetry.wandb import WandB
from trainer.telemetry.warnings import Watcher, general_rules


class Notice:
    """Listener that says one thing when the run starts."""

    def __init__(self, text: str, emit: Callable[[Event], None]) -> None:
        self._text = text
        self._emit = emit

    def on_event(self, event: Event) -> None:
        """Speak at the start of the attempt."""
        if isinstance(event, RunStarted):
            self._emit(Noted(epoch=event.epoch, step=event.step, text=self._text))

    def close(self) -> None:
        """Nothing is held."""


def listeners(
    settings: TelemetrySettings,
    *,
    put: Callable[[str, bytes], None],
    emit: Callable[[Event], None],
    run: str,
    attempt: str,
    folder: Path | None,
    rules: Sequence[Rule] | None = None,
    history: Iterable[Record] = (),
    console: Console | None = None,
) -> list[Listener]:
    """The listeners of the first rank.

    `put(key, data)` stores an object below the run's folder; `emit` is the bus that these listeners are added to;
    `folder` is the run's folder on this machine, None where its store is elsewhere (then no TensorBoard and W&B);
    `rules` default to the general ones; `history` are the records of earlier attempts.
    Raises SettingsError when TensorBoard is asked for (`on`) and not installed, and for a rule there is not.
    """
    found: list[Listener] = [Ledger(put, run=run, attempt=attempt, segment_seconds=settings.segment_seconds)]
    if settings.warnings:
        known = adjusted(general_rules() if rules is None else rules, settings.rules)
        found.append(Watcher(emit, rules=known, history=history))
    if settings.progress != "off":
        found.append(Progress(settings.progress, console=console))
    found += _tensorboard(settings, emit, folder)
    found += _wandb(settings, emit, folder, run)
    return found


def _tensorboard(settings: TelemetrySettings, emit: Callable[[Event], None], folder: Path | None) -> list[Listener]:
    if settings.tensorboard == "off":
        return []
    if folder is None:
        return [Notice("TensorBoard is off: the run's store is not a folder of this machine", emit)]
    if settings.tensorboard == "auto" and not _installed("tensorboard"):
        return [Notice("TensorBoard is off: not installed (pip install 'signs-trainer[tensorboard]')", emit)]
    return [TensorBoard(folder / "logs")]


def _wandb(settings: TelemetrySettings, emit: Callable[[Event], None], folder: Path | None, run: str) -> list[Listener]:
    if settings.wandb == "disabled":
        return []
    if folder is None:
        return [Notice("W&B is off: the run's store is not a folder of this machine", emit)]
    if not _installed("wandb"):
        return [Notice("W&B is off: not installed (pip install 'signs-trainer[wandb]')", emit)]
    return [WandB(folder / "logs", project=settings.wandb_project, run_id=run, mode=settings.wandb)]


def _installed(module: str) -> bool:
    """Whether a module is there; a folder of the same name in the working directory is none (`wandb` makes one)."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
