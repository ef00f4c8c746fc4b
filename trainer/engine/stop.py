"""Stopping: any rank may ask, all ranks stop after the same step, nobody pays for it in between.

A request only sets a flag. With several ranks the flags of a step ride on the gradient reduction as the gradient
of a tiny extra parameter (`engine.wrap`), so agreement costs no collective of its own; every rank reads the same sum
of the same step. One process just looks at its own flag.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.errors import InfrastructureError, RunError, Stopped, SupersededError

CODES = tuple(error.exit_code for error in (Stopped, InfrastructureError, SupersededError, RunError))
"""The exit codes a rank can ask for, in the order of their flags; the first one set wins."""


class StopRequests:
    """What this rank asks for; thread-safe, and the first request stays."""

    def __init__(self, deadline_seconds: float | None = None) -> None:
        self.reason = ""
        self.code: int | None = None
        self._lock = threading.Lock()
        self._deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds

    def ask(self, reason: str, code: int) -> None:
        """Ask all ranks to stop after the step under way; later requests change nothing."""
        # A signal handler runs between two byte codes of the main thread, which may hold the lock: never wait.
        if self._lock.acquire(blocking=False):
            try:
                if self.code is None:
                    self.reason, self.code = reason, code
            finally:
                self._lock.release()

    def flags(self) -> list[float]:
        """One number for each of `CODES`: what to add to the step's reduction."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.ask("the deadline has come", Stopped.exit_code)
        return [float(self.code == code) for code in CODES]

    def agreed(self, flags: list[float]) -> tuple[str, int] | None:
        """Reason and code out of the summed flags of all ranks, the same on every rank but for the words."""
        for flag, code in zip(flags, CODES, strict=True):
            if flag > 0:
                return (self.reason if self.code == code else f"another rank asked (code {code})"), code
        return None


@contextmanager
def signals_ask(requests: StopRequests) -> Iterator[None]:
    """SIGTERM and SIGINT ask for a stop; a second one changes nothing. Outside the main thread: no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        requests.ask(f"told to stop by {signal.Signals(number).name}", Stopped.exit_code)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
