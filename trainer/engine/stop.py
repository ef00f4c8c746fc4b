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
_BEGUN_WITHIN_SECONDS = 60.0
"""How much later than another rank this one may have begun: so much earlier came that one's deadline."""


class StopRequests:
    """What this rank asks for; thread-safe, and the first request stays."""

    def __init__(self, deadline_seconds: float | None = None, grace_seconds: float | None = None) -> None:
        self.reason = ""
        self.code: int | None = None
        self.num_signals = 0
        """Signals that told this process to stop; only the first one changes anything."""
        self._grace_seconds = grace_seconds
        self._signalled_at: float | None = None
        self._at_once = False
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

    def signalled(self, name: str) -> None:
        """A signal told this process to stop: from now on the grace period runs."""
        self.num_signals += 1
        if self._signalled_at is None:
            self._signalled_at = time.monotonic()
        self.ask(f"told to stop by {name}", Stopped.exit_code)
        if self._at_once:
            self._at_once = False  # a second signal must not interrupt the clean-up after the first
            raise Stopped(self.reason)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Where there are no steps: a signal to stop raises Stopped in the main thread instead of waiting for one."""
        self._at_once = True
        try:
            if self._signalled_at is not None:
                raise Stopped(self.reason)
            yield
        finally:
            self._at_once = False

    def seconds_left(self, reserve: float = 0.0) -> float | None:
        """What is left of the grace period, less a share `reserve` of it; None where nobody is going to kill us."""
        if self._signalled_at is None or self._grace_seconds is None:
            return None
        return max(0.0, self._grace_seconds * (1 - reserve) - (time.monotonic() - self._signalled_at))

    def flags(self) -> list[float]:
        """One number for each of `CODES`: what to add to the step's reduction."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.ask("the deadline has come", Stopped.exit_code)
        return [float(self.code == code) for code in CODES]

    def agreed(self, flags: list[float]) -> tuple[str, int] | None:
        """Reason and code out of the summed flags of all ranks, the same on every rank but for the words."""
        for flag, code in zip(flags, CODES, strict=True):
            if flag > 0:
                if code == Stopped.exit_code and self.code != code and not self._nears_deadline():
                    # A signal to another rank of this pod or job: it is our end, too.
                    self._signalled_at = self._signalled_at or time.monotonic()
                return (self.reason if self.code == code else f"another rank asked (code {code})"), code
        return None

    def _nears_deadline(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline - _BEGUN_WITHIN_SECONDS


@contextmanager
def signals_ask(requests: StopRequests) -> Iterator[None]:
    """SIGTERM and SIGINT ask for a stop; a second one changes nothing. Outside the main thread: no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        requests.signalled(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
