"""Ends a process in which nothing moves any more: all stacks to stderr, then exit 170, which a cluster retries."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainer.config.settings import WatchdogSettings
from trainer.errors import InfrastructureError


class Watchdog:
    """The training thread calls `beat` (an attribute write); a thread looks at its age."""

    def __init__(self, settings: WatchdogSettings, give_up: Callable[[float], None] | None = None) -> None:
        self._settings = settings
        self._limit = settings.first_step_seconds
        self._beat = time.monotonic()
        self._give_up = give_up or leave
        self._stop = threading.Event()

    def beat(self) -> None:
        """Something moved: a step or an evaluation batch is done."""
        self._beat = time.monotonic()

    @property
    def last_beat(self) -> float:
        """When something last moved (`time.monotonic`); the start of the watch before that."""
        return self._beat

    def first_step_done(self) -> None:
        """From now on the shorter limit counts."""
        self._limit = self._settings.step_seconds
        self.beat()

    @contextmanager
    def watching(self) -> Iterator["Watchdog"]:
        """Run the thread during the block."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.beat()
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        """Compare the age of the last beat with the limit a few times within it."""
        while not self._stop.wait(min(1.0, self._limit / 4) if self._limit else 1.0):
            age = time.monotonic() - self._beat
            if self._limit and age > self._limit:
                self._give_up(age)
                return


def leave(age_seconds: float) -> None:
    """Dump all stacks and end the process without clean-up: the training thread cannot be trusted to answer."""
    print(f"error: no step ended for {age_seconds:.0f} s (watchdog); stacks follow", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(InfrastructureError.exit_code)
