"""Folders of prepared data: made beside their place and renamed into it, so that they are whole or not there."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import DataError
from trainer.tasks.disk import disk_errors


class HashedFile:
    """A file that is written once, front to back, and knows its size and digest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = path.open("wb", buffering=1 << 20)
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.file.write(data)
        self.sha256.update(data)
        self.size_bytes += len(data)

    def close(self) -> dict[str, Any]:
        """Make it durable; its record for a header."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"size_bytes": self.size_bytes, "sha256": self.sha256.hexdigest()}


def record_of(path: Path) -> dict[str, Any]:
    """Size and digest of a file as `HashedFile.close` gave them. Raises DataError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return {"size_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


@contextmanager
def whole_folder(target: Path, header: str, *, overwrite: bool) -> Iterator[Path]:
    """A folder that takes the place of `target` when the block is done, and is gone if it fails.

    Raises DataError for a target that exists, unless it has a file `header` and may be overwritten; InfrastructureError
    if the disk refuses.
    """
    _check_target(target, header, overwrite)
    with disk_errors(target), _temporary_folder(target) as folder:
        yield folder
        _put_in_place(folder, target)


def copy_files(source: Path, names: Iterable[str], target: Path, header: str, *, overwrite: bool) -> Path:
    """Copy these files of `source` to the folder `target` and return it; errors are those of `whole_folder`."""
    with whole_folder(target, header, overwrite=overwrite) as folder:
        for name in names:
            shutil.copyfile(source / name, folder / name)
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
    return target


def _check_target(target: Path, header: str, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / header).is_file():
        raise DataError(f"{target} exists and is no packed data set: choose another folder")
    if not overwrite:
        raise DataError(f"{target} exists already: remove it, or say --overwrite to replace it")


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that is gone afterwards, whatever happens."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the finished folder to `target`; an old packed folder there is moved aside first and then deleted."""
    folder.chmod(0o755)  # mkdtemp makes it private; other users of the machine may read a data set
    if target.exists():
        old = folder.with_name(f"{folder.name}-old")
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
