"""Works ahead in a thread: a bounded queue between whoever makes batches and whoever trains on them.

An error of the producer is raised in the consumer, at the item where it happened.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates over `source`, `depth` items ahead in a thread (in line with depth 0); close it when done early."""

    def __init__(self, source: Iterator[T], depth: int) -> None:
        self._source = source
        self._closed = False
        self._thread: threading.Thread | None = None
        if depth > 0:
            self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
            self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)
            self._thread.start()

    def __iter__(self) -> "Prefetcher[T]":
        return self

    def __next__(self) -> T:
        if self._closed:
            raise StopIteration
        if self._thread is None:
            return next(self._source)
        item, error = self._queue.get()
        if error is not None:
            self.close()
            raise error
        return item  # type: ignore[return-value]  # None only beside an error

    def close(self) -> None:
        """End the thread and forget what it made; safe to call twice."""
        self._closed = True
        if self._thread is None:
            return
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(timeout=0.01)

    def _produce(self) -> None:
        """Fill the queue until the source ends, fails, or the consumer closes."""
        try:
            for item in self._source:
                self._queue.put((item, None))
                if self._closed:
                    return
            self._queue.put((None, StopIteration()))
        except BaseException as error:
            self._queue.put((None, error))
