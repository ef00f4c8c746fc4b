"""The time account of an attempt: wall time, cut into kinds without gap or overlap."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.telemetry.events import TIME_KINDS


class Clock:
    """Exactly one kind runs at any time, so the kinds always sum to the wall clock."""

    def __init__(self, kind: str = "startup") -> None:
        self.seconds = dict.fromkeys(TIME_KINDS, 0.0)
        self.kind = kind
        self._since = self.started = time.perf_counter()
        self._version = 0
        """Odd while the three above are being changed."""

    def switch(self, kind: str) -> float:
        """Charge the time since the last switch to the running kind and start `kind`; returns those seconds."""
        now = time.perf_counter()
        elapsed = now - self._since
        self._version += 1
        self.seconds[self.kind] += elapsed
        self.kind, self._since = kind, now
        self._version += 1
        return elapsed

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Charge a block to `kind` and return to the kind that ran before."""
        before = self.kind
        self.switch(kind)
        try:
            yield
        finally:
            self.switch(before)

    def account(self) -> dict[str, float]:
        """Seconds of each kind up to now."""
        self.switch(self.kind)
        return dict(self.seconds)

    def peek(self) -> tuple[str, dict[str, float]]:
        """The running kind and the seconds of each kind up to now, from any thread; changes nothing."""
        while True:
            version = self._version
            kind, since, seconds = self.kind, self._since, dict(self.seconds)
            if version % 2 == 0 and version == self._version:
                break
        seconds[kind] += time.perf_counter() - since
        return kind, seconds

    @property
    def wall_seconds(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.started
