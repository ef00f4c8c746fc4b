"""What a folder of this machine, or of a volume that is mounted here, lets the `file://` store do."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer.checkpoint.files import FileStore
from trainer.checkpoint.probe_steps import Finding, Step
from trainer.errors import InfrastructureError

_LEAST_FREE_BYTES = 64 << 20
"""Less cannot hold two checkpoints of the smallest models and their ledgers."""
_AWAY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EAGAIN}
"""Errors of a network file system whose server may come back."""
_CONTENT = b"trainer preflight\n"


class FileProbe:
    """Tries one folder; what it makes there goes when the context ends."""

    def __init__(self, store: FileStore, name: str) -> None:
        self._store = store
        self._name = name
        self._folder = store.path / name
        self._made = [folder for folder in (store.path, *store.path.parents) if not folder.exists()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        for folder in self._made:
            with suppress(OSError):  # never made, or somebody has begun to use it
                folder.rmdir()

    def steps(self) -> list[Step]:
        """In the order in which they are tried."""
        return [
            Step("writable", self._write, is_gate=True),
            Step("free space", self._measure_space),
            Step("atomic rename", self._rename),
            Step(
                "locks",
                self._lock,
                "whether a run is being trained on this machine is told by its attempts alone, so start it only once",
            ),
            Step(
                "hard links",
                self._link,
                "a new file gets its name after a look whether that is free, so start a new run only once",
            ),
            Step(
                "fsync of folders",
                self._sync_folder,
                "a power cut may take the newest checkpoint; the one before is used then",
            ),
        ]

    def _write(self) -> str:
        """Through the store itself, which also syncs the file."""
        key = f"{self._name}/object"
        try:
            self._store.put(key, [_CONTENT])
            found = self._store.get(key)
        except InfrastructureError as error:
            cause = error.__cause__
            raise Finding(str(error), retry_helps=isinstance(cause, OSError) and cause.errno in _AWAY) from error
        if found != _CONTENT:
            raise Finding(f"{self._folder} gives back other bytes than were written; use another disk")
        return ""

    def _measure_space(self) -> str:
        with _explained():
            status = os.statvfs(self._folder)
        free_bytes = status.f_bavail * status.f_frsize
        if free_bytes < _LEAST_FREE_BYTES:
            raise Finding(f"{free_bytes / 2**20:.0f} MiB are free; free space there or choose another run.store")
        return f"{free_bytes / 2**30:.1f} GiB are free"

    def _rename(self) -> str:
        """Whoever reads goes on reading the old file, and the next one gets the new."""
        old, new = self._folder / "object", self._folder / "newer"
        with _explained():
            new.write_bytes(b"newer")
            with old.open("rb") as reader:
                os.replace(new, old)
                is_atomic = reader.read() == _CONTENT and old.read_bytes() == b"newer" and not new.exists()
        if not is_atomic:
            raise Finding("a file that is replaced changes under its readers; use another file system")
        return ""

    def _lock(self) -> str:
        with _explained(), self._opened("lock") as first, self._opened("lock") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                raise Finding("two can hold one lock")
        return ""

    def _link(self) -> str:
        with _explained():
            os.link(self._folder / "object", self._folder / "link")
        return ""

    def _sync_folder(self) -> str:
        with _explained():
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return ""

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        descriptor = os.open(Path(self._folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def _explained() -> Iterator[None]:
    """What the operating system says becomes a finding."""
    try:
        yield
    except OSError as error:
        raise Finding(f"the file system says: {error.strerror or error}", retry_helps=error.errno in _AWAY) from error
