"""Reads the Auslan PowerGlove files: `signs/<signer><session>/<sign><repetition>.sign`, a folder or a tar, in place.

A row has 15 comma fields, of which 8 are measured: x, y, z, roll, thumb, fore, index, ring (columns 0-3 and 6-9; pitch
and yaw are never measured, little repeats ring). Calibration recordings are no signs and are ignored; the empty file of
the public set is left out and counted.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSample
from trainer.tasks.signs.packed import ClassInfo
from trainer.tasks.signs.readers.source import Recording, Source, listing_key
from trainer.tasks.signs.schema import Schema

COLUMNS = (0, 1, 2, 3, 6, 7, 8, 9)
_NUM_FIELDS = 15
_SESSION = re.compile(r"(?P<signer>\D+)(?P<number>\d+)")
_SIGN = re.compile(r"(?P<sign>.+?)(?P<repetition>\d+)\.sign")
_TARS = (".tar", ".tar.gz", ".tgz")
_DEFAULT_TAR = "signs.tar.gz"


@dataclass(frozen=True)
class _File:
    name: str
    signer: str
    session: str
    sign: str


def is_here(path: Path) -> bool:
    """Is `path` a tar, or does it hold `signs.tar.gz` or folders with .sign files?"""
    if path.is_file():
        return path.name.endswith(_TARS)
    return (path / _DEFAULT_TAR).is_file() or any(path.glob("*/*.sign")) or any(path.glob("signs/*/*.sign"))


def open_source(path: Path, schema: Schema) -> Source:
    """The recordings by sign, signer and session. Raises DataError if there is none or the tar is damaged."""
    del schema  # the layout has one
    if path.is_dir() and (path / _DEFAULT_TAR).is_file():
        path = path / _DEFAULT_TAR
    files = [file for file in map(_parse, _names(path)) if file is not None]
    if not files:
        raise DataError(f"{path} has no <signer><session>/<sign><repetition>.sign files")
    signs = sorted({file.sign for file in files})
    word_of = {sign: word for word, sign in enumerate(signs, start=1)}
    return Source(
        layout="auslan",
        path=str(path),
        schema=Schema.preset("powerglove"),
        classes=[ClassInfo(word, sign) for sign, word in word_of.items()],
        signers=sorted({file.signer for file in files}),
        stream=lambda: _stream(path, files, word_of),
        key=listing_key(path.parent, [path]) if path.is_file() else listing_key(path, path.rglob("*.sign")),
        num_recordings=len(files),
    )


def _parse(name: str) -> _File | None:
    """What a file's path says; None for calibrations and anything else."""
    parts = PurePosixPath(name).parts[-2:]
    if len(parts) < 2 or parts[1].startswith("cal-"):
        return None
    session, sign = _SESSION.fullmatch(parts[0]), _SIGN.fullmatch(parts[1])
    return _File(name, session["signer"], parts[0], sign["sign"]) if session and sign else None


def _names(path: Path) -> list[str]:
    if path.is_dir():
        return sorted(file.relative_to(path).as_posix() for file in path.rglob("*.sign"))
    with _open_tar(path) as tar:
        try:
            return sorted(member.name for member in tar if member.isfile())
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{path} is damaged ({error})") from None


def _open_tar(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be opened as a tar file ({error})") from None


def _stream(path: Path, files: list[_File], word_of: dict[str, int]) -> Iterator[Recording | BadSample]:
    order = sorted(files, key=lambda file: (word_of[file.sign], file.session, file.name))
    texts = _texts_of_folder(path, order) if path.is_dir() else _texts_of_tar(path, order)
    for file, text in texts:
        where = f"{path}: {file.name}"
        if not text.strip():
            yield BadSample(where, "is empty", tolerated=True)
            continue
        try:
            frames = _frames(text)
        except ValueError as error:
            yield BadSample(where, str(error))
            continue
        yield Recording(frames, word_of[file.sign], file.signer, file.session, _clip_name(file), "", where)


def _clip_name(file: _File) -> str:
    """`adam1/alive0`: the same whether it came from the tar, the folder `signs` or the one above."""
    return f"{file.session}/{PurePosixPath(file.name).stem}"


def _frames(text: bytes) -> NDArray[np.float32]:
    """`[n, 1, 8]` of one file's rows. Raises ValueError naming the first row that has other than 15 fields."""
    rows = [line.split(b",") for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != _NUM_FIELDS:
            raise ValueError(f"has {len(row)} fields in row {number}, expected {_NUM_FIELDS}")
    try:
        values = np.array([[float(row[column]) for column in COLUMNS] for row in rows], np.float32)
    except ValueError as error:
        raise ValueError(f"has a field that is no number ({error})") from None
    return values[:, None, :]


def _texts_of_folder(path: Path, files: list[_File]) -> Iterator[tuple[_File, bytes]]:
    for file in files:
        yield file, (path / file.name).read_bytes()


def _texts_of_tar(path: Path, files: list[_File]) -> Iterator[tuple[_File, bytes]]:
    """All texts (27 MB) in one walk over the tar: a seek in a compressed one starts from its beginning."""
    wanted = {file.name: file for file in files}
    texts: dict[str, bytes] = {}
    with _open_tar(path) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name in wanted else None
            if content is not None:
                texts[member.name] = content.read()
    for file in files:
        yield file, texts[file.name]
