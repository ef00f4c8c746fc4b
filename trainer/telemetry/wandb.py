"""Curves for Weights & Biases, offline unless asked otherwise. Needs the extra `wandb`.

An offline run lies in `<run>/logs/wandb` and can be sent later with `wandb sync`. The id is the run's name, so all
attempts are one run there. Keys are the library's own business (its environment or login), never ours.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from trainer.errors import SettingsError
from trainer.telemetry.events import AttemptEnded, Event, RunStarted
from trainer.telemetry.scalars import scalars


class WandB:
    """Listener that starts a W&B run at `RunStarted` and logs the same numbers as TensorBoard."""

    def __init__(self, folder: Path, *, project: str, run_id: str, mode: Literal["offline", "online"]) -> None:
        """Raises SettingsError without the extra."""
        try:
            self._wandb: Any = import_module("wandb")
        except ImportError as error:
            raise SettingsError("W&B is not installed: pip install 'signs-trainer[wandb]'") from error
        self._folder = folder
        self._where = {"project": project, "id": run_id, "name": run_id, "mode": mode}
        self._run: Any = None
        self._code = 1

    def on_event(self, event: Event) -> None:
        """Log the numbers of one event; x is `step`, so that redone steps may come again."""
        if isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, AttemptEnded):
            self._code = event.code
        elif self._run is not None and (values := scalars(event)):
            self._run.log({**values, "step": event.step})

    def close(self) -> None:
        """Finish the W&B run with the exit code of the attempt."""
        if self._run is not None:
            self._run.finish(exit_code=self._code)
            self._run = None

    def _start(self, event: RunStarted) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        quiet = {"silent": True}  # the console is ours
        self._run = self._wandb.init(
            **self._where, dir=str(self._folder), resume="allow", config=event.config, settings=quiet
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
