"""A store that fails: how long already, when to try again, when to give up."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from trainer.errors import InfrastructureError

Result = TypeVar("Result")
_SLICE_SECONDS = 1.0


@dataclass(frozen=True)
class Retry:
    """How long a failing store is tried again. The default suits a disk, which rarely mends itself."""

    tries: int | None = 3
    """Failures in a row after which it is given up; None looks at the time alone."""
    outage_seconds: float | None = None
    """Time without success after which it is given up."""
    first_seconds: float = 0.5
    longest_seconds: float = 30.0

    def pause_seconds(self, failures: int) -> float:
        """Doubled after each failure, between half and all of it at random (many pods, one store)."""
        whole = min(self.first_seconds * 2.0 ** (failures - 1), self.longest_seconds)
        return whole * random.uniform(0.5, 1.0)


class Outage:
    """Counts failures between two successes; used by one thread."""

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self._failures = 0
        self._since = 0.0
        self._next_try = 0.0

    @property
    def is_on(self) -> bool:
        """The last thing that was tried failed."""
        return self._failures > 0

    @property
    def seconds(self) -> float:
        """Since the first failure."""
        return time.monotonic() - self._since if self.is_on else 0.0

    @property
    def lasts_too_long(self) -> bool:
        """Whether to give up."""
        retry = self.retry
        return (retry.tries is not None and self._failures >= retry.tries) or (
            retry.outage_seconds is not None and self.seconds >= retry.outage_seconds
        )

    def failed(self) -> None:
        """Another failure; the next try is put off."""
        if not self.is_on:
            self._since = time.monotonic()
        self._failures += 1
        self._next_try = time.monotonic() + self.retry.pause_seconds(self._failures)

    def seconds_to_next_try(self) -> float:
        """How long to wait before the store is asked again."""
        return max(0.0, self._next_try - time.monotonic())

    def over(self) -> float:
        """A success; how long the outage was, 0 if there was none."""
        lasted, self._failures = self.seconds, 0
        return lasted


def patiently(retry: Retry, work: Callable[[], Result], hurries: Callable[[], bool]) -> Result:
    """Do something with a store, again and again while it fails; raises the last error when it has for too long.

    `hurries` is asked every second while waiting: true ends the patience (the process was told to stop).
    """
    outage, never = Outage(retry), threading.Event()
    while True:
        try:
            return work()
        except InfrastructureError:
            outage.failed()
            while not hurries() and outage.seconds_to_next_try() and not outage.lasts_too_long:
                never.wait(min(_SLICE_SECONDS, outage.seconds_to_next_try()))
            if hurries() or outage.lasts_too_long:
                raise
