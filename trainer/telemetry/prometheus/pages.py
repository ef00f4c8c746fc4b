"""What a scrape gets: the registry as text, written at most ten times a second however many ask.

A page of the whole catalogue takes a few milliseconds, in which the training thread may wait for the interpreter's
lock; scrapers that come faster than that share one.
"""

import gzip
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

FRESH_SECONDS = 0.1
"""How old a page may be that is given again; a scrape interval is ten times that or more."""
GZIP_LEVEL = 1
"""A tenth of the text already; the best level takes five times as long for a few per cent more."""


class Page(NamedTuple):
    """One answer: `is_final` tells that nothing has changed since it was written."""

    content_type: str
    is_gzipped: bool
    body: bytes
    is_final: bool


class Pages:
    """The pages of a registry; asked from any thread."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._one_at_a_time = threading.Lock()
        self._written: dict[tuple[str, bool], Page] = {}
        self._written_at = float("-inf")
        self._is_final = False

    def get(self, accept: str | None, accept_encoding: str | None) -> Page:
        """The page in the format and encoding that these headers ask for. Raises what a collector raises."""
        encode, content_type = _encoder(accept or "")
        is_gzipped = any(one.split(";")[0].strip() == "gzip" for one in (accept_encoding or "").split(","))
        with self._one_at_a_time:
            if self._clock() - self._written_at >= FRESH_SECONDS:
                self._written, self._written_at = {}, self._clock()
            page = self._written.get((content_type, is_gzipped))
            if page is None:
                is_final, text = self._is_final, encode(self._registry)
                body = gzip.compress(text, GZIP_LEVEL) if is_gzipped else text
                page = self._written[content_type, is_gzipped] = Page(content_type, is_gzipped, body, is_final)
            return page

    def finish(self) -> None:
        """Nothing will change any more: pages written from now on are final."""
        with self._one_at_a_time:
            self._is_final = True
            self._written = {}


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # of a version such as "latest"
        return choose_encoder("")
