"""Curves for TensorBoard in `<run>/logs`; x is the step. Needs the extra `tensorboard`.

All numbers of an event are one record, written by a background thread: one `add_scalar` after the other would cost
the training thread half a millisecond a log point. A resume or rollback tells TensorBoard to forget later points.
"""

import os
import socket
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from trainer.errors import SettingsError
from trainer.telemetry.background import Background
from trainer.telemetry.events import Event, PassDone, Resumed
from trainer.telemetry.scalars import scalars

WRITE_SECONDS = 5.0
CLOSE_SECONDS = 10.0


class _Point(NamedTuple):
    wall: float
    step: int
    values: dict[str, float]
    """Empty: a new start behind this step."""


class TensorBoard:
    """Listener that writes event files; several attempts of a run write several files into one folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder and an event file in it. Raises SettingsError without the extra, OSError on a full disk."""
        try:
            protos = import_module("tensorboard.compat.proto.event_pb2")
            summary = import_module("tensorboard.compat.proto.summary_pb2")
            writer = import_module("tensorboard.summary.writer.record_writer")
        except ImportError as error:
            raise SettingsError("TensorBoard is not installed: pip install 'signs-trainer[tensorboard]'") from error
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._protos: Any = protos
        self._summary: Any = summary.Summary
        self._writer: Any = writer.RecordWriter((folder / name).open("wb"))
        self._writer.write(protos.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        self._thread = Background(self._write, interval=WRITE_SECONDS, name="tensorboard")

    def on_event(self, event: Event) -> None:
        """Queue the numbers of one event."""
        values = scalars(event)
        if values or isinstance(event, Resumed):
            self._thread.add(_Point(time.time(), event.step, values), urgent=isinstance(event, PassDone))

    def close(self) -> None:
        """Write what is left."""
        self._thread.close(CLOSE_SECONDS)
        self._writer.close()

    def _write(self, points: Sequence[_Point]) -> bool:
        for point in points:
            self._writer.write(self._encode(point))
        self._writer.flush()
        return True

    def _encode(self, point: _Point) -> bytes:
        if point.values:
            numbers = [self._summary.Value(tag=tag, simple_value=value) for tag, value in point.values.items()]
            event = self._protos.Event(wall_time=point.wall, step=point.step, summary=self._summary(value=numbers))
        else:
            start = self._protos.SessionLog(status=self._protos.SessionLog.START)
            event = self._protos.Event(wall_time=point.wall, step=point.step + 1, session_log=start)
        encoded: bytes = event.SerializeToString()
        return encoded
