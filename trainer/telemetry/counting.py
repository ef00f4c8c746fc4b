"""How far something long has come that is no training: a bar on a terminal, now and then a line elsewhere.

    with counting("packing") as progress:
        progress(12, 500)

Used for packing (recordings) and for moving data sets (bytes). On stderr, because stdout belongs to results.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from trainer.telemetry.text import duration, size

Count = Callable[[int, int | None], None]
"""Called with what is done so far and with all there is to do, where that is known."""
Mode = Literal["auto", "bar", "lines", "off"]

BAR_SECONDS = 0.25
LINE_SECONDS = 10.0
"""Shorter work prints no line at all."""


@contextmanager
def counting(what: str, *, mode: Mode = "auto", in_bytes: bool = False) -> Iterator[Count]:
    """Show what the function it yields is told, as `telemetry.progress` says; a bar is gone afterwards."""
    if mode == "off":
        yield lambda _done, _total: None
    elif mode == "bar" or (mode == "auto" and sys.stderr.isatty()):
        with _bar(what, in_bytes) as progress:
            yield progress
    else:
        yield _Lines(what, in_bytes)


@contextmanager
def _bar(what: str, in_bytes: bool) -> Iterator[Count]:
    """Drawn by the caller's thread, so that it costs nothing in between; text after the bar: amount and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        job = bar.add_task(what, total=None)
        pace = _Pace(BAR_SECONDS, starts_at_once=True)

        def progress(done: int, total: int | None) -> None:
            bar.update(job, completed=done, total=total)
            if pace.is_due() or done == total:
                bar.refresh()

        yield progress


class _Lines:
    """`fetching s3://...: 1.2 GB of 3.4 GB (35 %), 0:40`, every ten seconds."""

    def __init__(self, what: str, in_bytes: bool) -> None:
        self._what = what
        self._show: Callable[[int], str] = size if in_bytes else "{:,}".format
        self._begun = time.monotonic()
        self._pace = _Pace(LINE_SECONDS)

    def __call__(self, done: int, total: int | None) -> None:
        if not self._pace.is_due():
            return
        share = f" of {self._show(total)} ({done / total:.0%})" if total else ""
        print(f"{self._what}: {self._show(done)}{share}, {duration(time.monotonic() - self._begun)}", file=sys.stderr)


class _Pace:
    """Answers yes at most once in so many seconds."""

    def __init__(self, seconds: float, *, starts_at_once: bool = False) -> None:
        self._seconds = seconds
        self._last = time.monotonic() - (seconds if starts_at_once else 0.0)

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
