"""Where a run's files live: nine verbs over keys, so few that a new kind of storage is one small class.

Keys are relative paths with `/` (never a leading one, never `..`). A `put` is atomic: readers see the whole
object or none. Everything about manifests, attempts and retention is policy above this interface.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

Chunk = bytes | bytearray | memoryview


class StoreMissing(Exception):
    """The key does not exist."""


class StoreConflict(Exception):
    """`only_new` was asked for and the key exists already."""


class StoreDamaged(Exception):
    """The medium itself finds that an object is not what was written (its own checksum); the text says which."""


@dataclass(frozen=True)
class Entry:
    """One object in a listing: its key, size in bytes, and time of last change (seconds since the epoch)."""

    key: str
    size_bytes: int
    modified: float


class Store(Protocol):
    """The interface behind `file://` and `s3://`; errors of the medium surface as `InfrastructureError`."""

    url: str
    has_locks: bool
    """Whether `claim` is a real lock of this machine; without it ownership is by attempts alone."""
    notices: deque[str]
    """What a person should hear once, oldest first (a feature that the server lacks); whoever shows it takes it out."""

    def put(self, key: str, chunks: Iterable[Chunk], *, only_new: bool = False) -> None:
        """Write an object from its chunks in order, durable on return; atomic for readers.

        Raises StoreConflict when `only_new` and the key exists.
        """
        ...

    def get(self, key: str) -> bytes:
        """The whole object (for small ones). Raises StoreMissing, StoreDamaged."""
        ...

    def fetch(self, key: str, path: Path) -> Path:
        """The object as a local file: written to `path`, or the store's own file where it has one.

        Raises StoreMissing, StoreDamaged.
        """
        ...

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key starts with `prefix`, sorted by key."""
        ...

    def folders(self, prefix: str, after: str = "") -> list[str]:
        """Names directly below `prefix` (which ends in `/` or is empty) that hold objects, sorted.

        Only names greater than `after`: on an object store that is one request, however many come before.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects in the order given; a key that is gone already is no error."""
        ...

    def claim(self, key: str) -> bool:
        """Take a lock that ends with this process; False when another living process holds it.

        A store that has no such locks (an object store) answers True.
        """
        ...

    def release(self, key: str) -> None:
        """Let go of a lock that `claim` took; no error without one."""
        ...

    def sweep(self, prefix: str, is_dead: Callable[[Entry], bool]) -> None:
        """Remove what unfinished puts left below `prefix` (temporary files, open uploads).

        A store that cannot tell by itself whether a writer lives (no locks) asks `is_dead`, with the key that was to
        be written and the time when that began.
        """
        ...


@runtime_checkable
class Counted(Protocol):
    """A store behind a network, which counts what it asks its server."""

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests sent so far by operation, retries included."""
        ...

    @property
    def failed_requests(self) -> Mapping[str, int]:
        """Those of them that the server refused or nobody answered."""
        ...


_CHUNK_BYTES = 4 << 20


def chunks_of(path: Path) -> Iterator[bytes]:
    """A file in pieces, as `put` takes them."""
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
