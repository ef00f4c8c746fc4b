"""What a data set in a store consists of: its files, cut into pieces, each with size and SHA-256.

    <url>/pieces/<sha256>     the bytes of a piece, up to 4 MiB
    <url>/DATASET.json        {"files": {"frames.bin": [{"sha256": ..., "size_bytes": ...}, ...], ...}, ...}

A data set exists when its index does. Pieces are named by what is in them, so two data sets never overwrite each
other's, and a push that was cut goes on with what is there.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from trainer.checkpoint.sealed import SealError, digest, sealed, unsealed
from trainer.telemetry.counting import Count

Result = TypeVar("Result")

INDEX = "DATASET.json"
FORMAT = 1
"""Raised when a reader of the old format would misread the new one."""
_WHAT = "the index of the data set"
_KEY = re.compile(r"pieces/[0-9a-f]{64}")
_NAME = re.compile(r"[^./\\\0][^/\\\0]*(/[^./\\\0][^/\\\0]*)*")
"""Relative and without hidden parts, so that no index can make a reader write outside of its folder."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a file; without digest it is only planned."""

    file: str
    offset: int
    size_bytes: int
    sha256: str = ""

    @property
    def key(self) -> str:
        """The object that holds it."""
        return f"pieces/{self.sha256}"

    def is_of(self, data: bytes) -> bool:
        """Whether these are its bytes."""
        return len(data) == self.size_bytes and hashlib.sha256(data).hexdigest() == self.sha256


@dataclass(frozen=True)
class DataIndex:
    """All pieces, file by file and in their order."""

    pieces: tuple[Piece, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file."""
        return {piece.file: piece.offset + piece.size_bytes for piece in self.pieces}

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(piece.size_bytes for piece in self.pieces)

    @property
    def digest(self) -> str:
        """SHA-256 of the index, 64 hex characters: the name of the data, wherever they were pushed to."""
        return digest(self._body())

    def to_bytes(self) -> bytes:
        """The one form in which this index is stored."""
        return sealed(self._body())

    @classmethod
    def from_bytes(cls, data: bytes) -> "DataIndex":
        """Read and check. Raises SealError."""
        body = unsealed(data, _WHAT, FORMAT)
        pieces: list[Piece] = []
        try:
            for file, records in body["files"].items():
                if not is_name(file):
                    raise SealError(f"{_WHAT} has a file of the name {file!r}")
                offset = 0
                for record in records:
                    pieces.append(Piece(file, offset, record["size_bytes"], record["sha256"]))
                    offset += record["size_bytes"]
        except (KeyError, TypeError, AttributeError) as error:
            raise SealError(f"{_WHAT} lacks a field: {error}") from error
        if not pieces:
            raise SealError(f"{_WHAT} names no files")
        return cls(tuple(pieces))

    def _body(self) -> dict[str, Any]:
        files: dict[str, list[dict[str, Any]]] = {}
        for piece in self.pieces:
            files.setdefault(piece.file, []).append({"size_bytes": piece.size_bytes, "sha256": piece.sha256})
        return {"format": FORMAT, "files": files}


def for_each(pieces: Sequence[Piece], do: Callable[[Piece], Result], parallel: int, count: Count) -> list[Result]:
    """What `do` gives for every piece, in order, so many at a time; the first error ends it."""
    total, done = sum(piece.size_bytes for piece in pieces), 0
    results: list[Result] = []
    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(do, piece) for piece in pieces]
        try:
            for piece, future in zip(pieces, futures, strict=True):
                results.append(future.result())
                done += piece.size_bytes
                count(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def is_name(name: str) -> bool:
    """Whether a data set may have a file of this name (a relative path with `/`)."""
    return _NAME.fullmatch(name) is not None


def is_ours(key: str) -> bool:
    """Whether an object belongs to a data set, by its name."""
    return key == INDEX or _KEY.fullmatch(key) is not None


def plan(sizes: Mapping[str, int], piece_bytes: int) -> tuple[Piece, ...]:
    """The pieces of files of these sizes, without digests; an empty file has an empty one."""
    return tuple(
        Piece(file, offset, min(piece_bytes, size_bytes - offset))
        for file, size_bytes in sorted(sizes.items())
        for offset in range(0, max(size_bytes, 1), piece_bytes)
    )
