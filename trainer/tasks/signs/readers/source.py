"""What a reader gives: a `Source`, whose `stream` yields recordings one by one, so that memory stays constant.

A sample that cannot be used is yielded too, as a `BadSample` with its place and the reason; the packer decides by
policy whether that ends the work. What cannot be read at all (a missing folder, a refused pickle) raises DataError.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSample
from trainer.tasks.signs.packed import ClassInfo
from trainer.tasks.signs.schema import Schema


@dataclass(frozen=True)
class Recording:
    """One recording as it comes from a source."""

    frames: NDArray[np.float32]
    """`[n, K, F]`"""
    word: int
    """Word id, from 1."""
    signer: str
    session: str
    name: str
    split: str = ""
    """`train`, `val`, `test`, or empty where the source says nothing."""
    where: str = ""
    """File and entry, for messages."""


@dataclass(frozen=True)
class Source:
    """A data set in some layout, ready to be streamed."""

    layout: str
    path: str
    schema: Schema
    classes: list[ClassInfo]
    signers: list[str]
    stream: Callable[[], Iterator[Recording | BadSample]]
    key: str
    """Digest of what the source is made of (files with size and time, or generator settings)."""
    num_recordings: int | None = None
    """Known beforehand for some layouts; for progress only."""
    options: dict[str, object] = field(default_factory=dict)
    """Facts for the packed header, for example the settings of the generator."""


def listing_key(root: Path, files: Iterable[Path], *extra: object) -> str:
    """Digest of files by relative name, size and time of change, and of `extra`."""
    rows = []
    for file in sorted(files):
        status = file.stat()
        rows.append([file.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps([str(root), rows, list(extra)], default=str).encode()).hexdigest()[:16]


def karsl_session(signer: str, clip: str) -> str:
    """`01/10_11_16` from `01_01_0001_(10_11_16_16_20_30)_c`: the day of a recording tells its session."""
    _, opened, rest = clip.partition("(")
    stamp = rest.partition(")")[0].split("_")
    return f"{signer}/{'_'.join(stamp[:3])}" if opened and len(stamp) >= 3 else signer


def karsl_classes(root: Path, words: Sequence[int]) -> list[ClassInfo]:
    """Classes for word ids, named by `KARSL-502_Labels.json` if it lies in `root` or beside it.

    The first 31 names of the file are numbers and become text. English names repeat, so nothing is keyed by them.
    Raises DataError for a damaged file or a word that it does not have.
    """
    found = [folder / LABELS for folder in (root, root.parent) if (folder / LABELS).is_file()]
    if not found:
        return [ClassInfo(word, f"{word:04d}") for word in words]
    try:
        content = json.loads(found[0].read_text(encoding="utf-8"))
        english, arabic = list(content["EN_WORDS"]), list(content["AR_WORDS"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{found[0]} is no label file with EN_WORDS and AR_WORDS: {error}") from None
    limit = min(len(english), len(arabic))
    outside = [word for word in words if not 1 <= word <= limit]
    if outside:
        raise DataError(f"{root} has word {outside[0]}, but {found[0]} names words 1 to {limit} only")
    return [ClassInfo(word, str(english[word - 1]), str(arabic[word - 1])) for word in words]


LABELS = "KARSL-502_Labels.json"
