"""The commit of a checkpoint: data, hashed on the way, then a look at what arrived, then the manifest.

    put file, put file, ...  -  list the folder: is every size right?  -  put MANIFEST.json: now it exists

The same for every store; who may commit, what follows it and what happens when it fails is the publisher's.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from trainer.checkpoint.crash import point
from trainer.checkpoint.manifest import MANIFEST_FILE, FileRecord, FolderName, Manifest, software
from trainer.checkpoint.run import CHECKPOINTS
from trainer.checkpoint.store import Chunk, Store
from trainer.errors import InfrastructureError

Files = Iterable[tuple[str, Iterable[Chunk]]]


@dataclass(frozen=True)
class Content:
    """A checkpoint on its way: who it is, and its bytes, which can be read again for another try."""

    name: FolderName
    epoch: int
    sequence: int
    """Counts the checkpoints of an attempt."""
    cursor: Any
    world_size: int
    created: str
    """UTC, ISO 8601."""
    begun: float
    """`time.perf_counter()` when its state was copied."""
    is_best: bool
    milestone: bool
    files: Callable[[], Files]
    """Name and chunks of every file, anew at each call."""
    check: Callable[[], None] = lambda: None
    """Raises InfrastructureError when the bytes that `files` gave may no longer have been these."""


def commit(store: Store, run: str, content: Content) -> Manifest:
    """Write a checkpoint into a store. Until this returns no reader sees it. Raises InfrastructureError."""
    folder = f"{run}/{CHECKPOINTS}{content.name}/"
    files = _put_files(store, folder, content.files())
    point("after_data")
    _check_arrived(store, folder, files)
    content.check()
    manifest = Manifest(
        step=content.name.step, epoch=content.epoch, attempt=content.name.attempt, sequence=content.sequence,
        world_size=content.world_size, files=files, cursor=content.cursor, created=content.created,
        is_best=content.is_best, milestone=content.milestone, versions=software(),
    )  # fmt: skip
    point("before_manifest")
    store.put(folder + MANIFEST_FILE, [manifest.to_bytes()])
    point("after_manifest")
    return manifest


def _put_files(store: Store, folder: str, files: Files) -> dict[str, FileRecord]:
    records: dict[str, FileRecord] = {}
    for name, chunks in files:
        if records:
            point("between_files")
        meter = _Meter(chunks)
        store.put(folder + name, meter)
        records[name] = FileRecord(meter.size_bytes, meter.hasher.hexdigest())
    return records


def _check_arrived(store: Store, folder: str, files: dict[str, FileRecord]) -> None:
    """One listing: a server that answered "written" and kept something else must not get a manifest."""
    there = {entry.key.removeprefix(folder): entry.size_bytes for entry in store.entries(folder)}
    for name, record in files.items():
        if there.get(name) != record.size_bytes:
            found = "nothing" if name not in there else f"{there[name]} bytes"
            raise InfrastructureError(
                f"{store.url}/{folder}{name}: wrote {record.size_bytes} bytes, {found} arrived; "
                "is something else writing there, or does the server lose data?"
            )


class _Meter:
    """Passes chunks through, hashing and counting them: the data are read once for digest and write."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = chunks
        self.hasher = hashlib.sha256()
        self.size_bytes = 0

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            if self.size_bytes:
                point("mid_write")
            self.hasher.update(chunk)
            self.size_bytes += len(chunk)
            yield chunk
