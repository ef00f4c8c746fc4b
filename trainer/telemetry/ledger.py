"""The ledger: one JSON line for every event, kept as numbered segments beside the checkpoints.

    <run>/ledger/<attempt>/<nnnnnn>.jsonl   {"event": "StepDone", "run": ..., "attempt": ..., "wall": ..., "mono": ...}

A segment is closed at each publish, pass and end, and every `segment_seconds` (an object store cannot append). The
contract: the training thread only stamps the time; a thread encodes and stores. A segment that could not be stored
is kept and tried again before the next one; nothing here can stop a training. NaN and infinities become null.
"""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from trainer.telemetry.background import Background
from trainer.telemetry.events import AttemptEnded, CheckpointPublished, Event, PassDone

SEGMENT_DIGITS = 6
CLOSING_EVENTS = (CheckpointPublished, PassDone, AttemptEnded)
END_SECONDS = 10.0
"""Longest wait for the store when the attempt ends."""
MAX_KEPT_BYTES = 64 << 20
"""Segments kept in memory while the store refuses them; beyond it the oldest is given up, and this is said."""


class Stamped(NamedTuple):
    """An event with the moment it reached the ledger: seconds since the epoch, and monotonic seconds."""

    wall: float
    mono: float
    event: Event


class Ledger:
    """Listener that stores every event through `put(key, data)`; the key is relative to the run's folder."""

    def __init__(
        self, put: Callable[[str, bytes], None], *, run: str, attempt: str, segment_seconds: float = 60.0
    ) -> None:
        self._put = put
        self._identity = {"run": run, "attempt": attempt}
        self._segments: deque[tuple[str, bytes]] = deque()
        self._num_segments = 0
        self._told = False
        self.end_seconds = END_SECONDS
        """Longest wait for the store when the attempt ends, in all."""
        self._thread = Background(self._store, interval=segment_seconds, name="ledger")

    def on_event(self, event: Event) -> None:
        """Take note of one event; waits for the store only at the end of the attempt."""
        self._thread.add(Stamped(time.time(), time.monotonic(), event), urgent=isinstance(event, CLOSING_EVENTS))
        if isinstance(event, AttemptEnded) and not self.flush(self.end_seconds):
            self.end_seconds = 0.0  # the time is used up, `close` must not wait again

    def flush(self, timeout: float) -> bool:
        """Store all there is, waiting at most `timeout` seconds; says whether it is stored."""
        return self._thread.flush(timeout)

    def close(self) -> None:
        """Store what is left and end the thread."""
        if not self._thread.close(self.end_seconds):
            print("ledger: the last records could not be stored and are lost", file=sys.stderr)

    def _store(self, items: Sequence[Stamped]) -> bool:
        """On the thread: close a segment of the new records, then store the segments in order."""
        if items:
            self._num_segments += 1
            key = f"ledger/{self._identity['attempt']}/{self._num_segments:0{SEGMENT_DIGITS}}.jsonl"
            lines = [encode(record(item.event, **self._identity, wall=item.wall, mono=item.mono)) for item in items]
            self._segments.append((key, "".join(lines).encode()))
        while self._segments:
            try:
                self._put(*self._segments[0])
            except Exception as error:
                self._keep(error)
                return False
            self._segments.popleft()
        return True

    def _keep(self, error: Exception) -> None:
        if not self._told:
            print(f"ledger: cannot store {self._segments[0][0]}, will try again: {error}", file=sys.stderr)
            self._told = True
        while sum(len(data) for _, data in self._segments) > MAX_KEPT_BYTES and len(self._segments) > 1:
            key, _ = self._segments.popleft()
            print(f"ledger: gave up {key}, the store has refused it for too long", file=sys.stderr)


def record(event: Event, **stamps: Any) -> dict[str, Any]:
    """The event as a flat record; `stamps` (run, attempt, wall, mono) come first and win over equal names."""
    values = {name: value for name, value in vars(event).items() if name not in stamps}
    return {"event": type(event).__name__, **stamps, **values}


def encode(values: dict[str, Any]) -> str:
    """One line of strict JSON: numbers that are not finite become null, unknown objects their text."""
    try:
        return json.dumps(values, allow_nan=False, separators=(",", ":")) + "\n"
    except (ValueError, TypeError):
        return json.dumps(_plain(values), allow_nan=False, separators=(",", ":")) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)
