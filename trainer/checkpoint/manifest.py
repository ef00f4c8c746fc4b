"""The commit of a checkpoint: what belongs to it, byte by byte. Without one a folder does not exist for readers.

A manifest guards itself too (`sealed.py`), so that no change of any byte goes unseen. Unknown fields of a later writer
are kept and ignored.
"""

import platform
import re
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from trainer.checkpoint.sealed import SealError, sealed, unsealed

MANIFEST_FILE = "MANIFEST.json"
FORMAT = 1
"""Raised when a reader of the old format would misread the new one."""

_FOLDER = re.compile(r"(\d{12})-(\d{4,})-([0-9a-f]{6})(?:_(\d+))?")


class ManifestError(Exception):
    """The bytes are not a manifest, or not the one that was written; the text says why."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint; `writer` is the rank that wrote it."""

    size_bytes: int
    sha256: str
    writer: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Where the run was, who wrote it, and every file with size and SHA-256."""

    step: int
    epoch: int
    attempt: str
    sequence: int
    """Counts the checkpoints of an attempt."""
    world_size: int
    files: dict[str, FileRecord]
    cursor: Any
    created: str
    """UTC, ISO 8601."""
    is_best: bool = False
    milestone: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(record.size_bytes for record in self.files.values())

    def to_bytes(self) -> bytes:
        """The one form in which this manifest is stored."""
        return sealed({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read and check. Raises ManifestError."""
        try:
            body = unsealed(data, "manifest", FORMAT)
        except SealError as error:
            raise ManifestError(str(error)) from error
        try:
            files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
            known = {name: value for name, value in body.items() if name in cls.__dataclass_fields__}
            return cls(files=files, **known)
        except (TypeError, AttributeError, KeyError) as error:
            raise ManifestError(f"manifest lacks a field: {error}") from error


@dataclass(frozen=True, order=True)
class FolderName:
    """The name of a checkpoint folder; the order is the order of checkpoints."""

    step: int
    number: int
    suffix: str
    again: int = 0
    """Above 0 for a further checkpoint of an attempt at the same step (a pass is done; after a rollback)."""

    def __str__(self) -> str:
        again = f"_{self.again:02d}" if self.again else ""  # "_" sorts behind "/" in listings of keys
        return f"{self.step:012d}-{self.attempt}{again}"

    @property
    def attempt(self) -> str:
        """The id of the attempt that wrote it."""
        return f"{self.number:04d}-{self.suffix}"

    @classmethod
    def parse(cls, name: str) -> "FolderName | None":
        """None for a name that is no checkpoint folder's."""
        match = _FOLDER.fullmatch(name)
        return cls(int(match[1]), int(match[2]), match[3], int(match[4] or 0)) if match else None


def utc_now() -> str:
    """The time of day as ISO 8601 in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@cache
def software() -> dict[str, str]:
    """Versions of what can change a result."""
    try:
        own = version("signs-trainer")
    except PackageNotFoundError:
        own = "source"
    return {"trainer": own, "torch": str(torch.__version__), "python": platform.python_version()}
