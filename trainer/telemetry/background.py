"""A thread that takes slow work off the training thread: items are handed over in batches, none is dropped.

`add` costs one append: the worker is woken at urgent items and every `interval` seconds, not for each item, because a
thread switch costs more than the item. What the worker could not finish it keeps itself and is asked again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

MAX_WAITING = 100_000
"""Items that may wait before `add` blocks; with one log point in 20 steps these are two million steps."""
RETRY_SECONDS = 0.5


class Background(Generic[Item]):
    """Calls `work(items)` on a thread of its own.

    `work` answers False while something is still to be tried again (it is then called with what is new, maybe
    nothing); if it raises, the thread ends and the next `add` raises the same error on the calling thread.
    """

    def __init__(self, work: Callable[[Sequence[Item]], bool], *, interval: float, name: str) -> None:
        self._work = work
        self._interval = interval
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._urgent = False
        self._closing = False
        self._error: Exception | None = None
        self._num_added = 0
        self._num_done = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, item: Item, *, urgent: bool = False) -> None:
        """Hand an item over; blocks only while `MAX_WAITING` others wait."""
        if self._error is not None:
            raise self._error
        self._items.append(item)
        self._num_added += 1
        if urgent or len(self._items) >= MAX_WAITING:
            self._wake()

    def flush(self, timeout: float) -> bool:
        """Wait until all that was added is done, at most `timeout` seconds; says whether it is."""
        target, deadline = self._num_added, time.monotonic() + timeout
        with self._changed:
            while self._num_done < target and self._thread.is_alive():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._urgent = True
                self._changed.notify_all()
                self._changed.wait(min(remaining, RETRY_SECONDS))
            return self._num_done >= target

    def close(self, timeout: float) -> bool:
        """Flush and end the thread; says whether everything was done."""
        done = self.flush(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout if done else 0)
        return done

    def _wake(self) -> None:
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._items) < MAX_WAITING or not self._thread.is_alive())

    def _run(self) -> None:
        num_handed = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._urgent or self._closing, timeout=self._interval)
                if self._closing:
                    return
                self._urgent = False
                taken = [self._items.popleft() for _ in range(len(self._items))]
                self._changed.notify_all()
            num_handed += len(taken)
            try:
                finished = self._work(taken)
            except Exception as error:
                self._error = error
                return
            with self._changed:
                self._num_done = num_handed if finished else self._num_done
                self._changed.notify_all()
