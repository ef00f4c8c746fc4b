"""From the engine to the listeners: every event, to each listener, in order, on the calling thread.

The contract: a listener cannot hurt training. One that raises is reported once on stderr and switched off. An event
emitted from inside a listener waits until the current one has reached everybody, so all see the same order.
"""

import sys
from collections import deque
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from trainer.telemetry.events import Event, Listener


@runtime_checkable
class _Flushing(Protocol):
    """A listener with a thread that is behind."""

    def flush(self, timeout: float) -> bool:
        """Catch up; says whether all is done."""
        ...


class Bus:
    """Hands events on; on ranks without listeners an `emit` costs next to nothing."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = list(listeners)
        self._waiting: deque[Event] = deque()
        self._busy = False

    def add(self, *listeners: Listener) -> None:
        """Take in further listeners; they see what is emitted from now on."""
        self._listeners.extend(listeners)

    def emit(self, event: Event) -> None:
        """Give the event to every listener that still works. Never raises."""
        self._waiting.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                self._deliver(self._waiting.popleft())
        finally:
            self._busy = False

    def flush(self, timeout: float) -> bool:
        """Wait until listeners that store things have done so, at most `timeout` seconds each; says whether they did.

        For a reader of the ledger in the same process, a report at the end.
        """
        done = [one.flush(timeout) for one in self._listeners if isinstance(one, _Flushing)]
        return all(done)

    def close(self) -> None:
        """Close every listener, the last added first; a second call does nothing."""
        while self._listeners:
            _close(self._listeners.pop())

    def _deliver(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            try:
                listener.on_event(event)
            except Exception as error:
                self._listeners.remove(listener)
                _report(listener, error)
                _close(listener)


def _close(listener: Listener) -> None:
    try:
        listener.close()
    except Exception as error:
        _report(listener, error)


def _report(listener: Listener, error: Exception) -> None:
    reason = " ".join(str(error).split())
    print(
        f"{type(listener).__name__} failed and is switched off, training goes on: {type(error).__name__}: {reason}",
        file=sys.stderr,
    )
