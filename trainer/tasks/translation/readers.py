"""Lines of corpus files as pairs of sentences, one by one; gzip is read as it is.

A line that cannot be used is yielded too, as a `BadSample` with file and line. What cannot be read at all (a damaged
archive, sides of different length) raises DataError.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSample
from trainer.tasks.translation.layout import Layout

_BOM = "\ufeff"
_LINE_BREAK = re.compile(r"\s*[\r\n]\s*")


class Line(NamedTuple):
    """One pair of sentences, blanks around them removed; a side may be empty."""

    source: str
    target: str
    number: int
    """In its file, from 1."""


def read_pairs(layout: Layout, files: tuple[Path, ...], keys: tuple[str, str]) -> Iterator[Line | BadSample]:
    """Every line of one entry of `layout.Files`; `keys` are those of JSON lines and of a header."""
    if layout == "text":
        yield from _parallel(*files)
    elif layout == "tsv":
        yield from _columns(files[0], keys)
    else:
        yield from _objects(files[0], *keys)


def _parallel(source: Path, target: Path) -> Iterator[Line | BadSample]:
    """Line n of one file belongs to line n of the other."""
    number = 0
    for number, pair in enumerate(zip_longest(_lines(source), _lines(target)), 1):
        if None in pair:
            shorter, longer = (target, source) if pair[1] is None else (source, target)
            raise DataError(
                f"{longer} has {_count(longer):,} lines, {shorter} {number - 1:,}: line n of one belongs to line n of "
                "the other"
            )
        texts = [_text(line or b"", path, number) for line, path in zip(pair, (source, target), strict=True)]
        bad = next((text for text in texts if isinstance(text, BadSample)), None)
        yield bad or Line(str(texts[0]), str(texts[1]), number)
    if number == 0:
        raise DataError(f"{source} is empty")


def _columns(path: Path, keys: tuple[str, str]) -> Iterator[Line | BadSample]:
    """Source, tab, target; further columns are not read, nor a first line that names the two."""
    for number, text in _texts(path):
        if isinstance(text, BadSample):
            yield text
            continue
        columns = text.split("\t")
        if number == 1 and tuple(column.strip() for column in columns[:2]) == keys:
            continue
        if len(columns) < 2 and text.strip():
            yield BadSample(f"{path}:{number}", "has no tab between source and target")
        else:
            yield Line(columns[0].strip(), columns[1].strip() if len(columns) > 1 else "", number)


def _objects(path: Path, source: str, target: str) -> Iterator[Line | BadSample]:
    """A JSON object with both keys, texts both."""
    for number, text in _texts(path):
        if isinstance(text, BadSample):
            yield text
            continue
        try:
            record = json.loads(text)
            sides = record[source], record[target]
        except ValueError as error:
            yield BadSample(f"{path}:{number}", f"is no JSON ({error})")
        except (KeyError, TypeError):
            yield BadSample(f"{path}:{number}", f"is no object with {source!r} and {target!r}")
        else:
            if all(isinstance(side, str) for side in sides):
                source_text, target_text = (_LINE_BREAK.sub(" ", side).strip() for side in sides)
                yield Line(source_text, target_text, number)
            else:
                yield BadSample(f"{path}:{number}", f"has a {source!r} or {target!r} that is no text")


def _texts(path: Path) -> Iterator[tuple[int, str | BadSample]]:
    """Numbered lines of a file that is not empty."""
    number = 0
    for number, line in enumerate(_lines(path), 1):
        yield number, _text(line, path, number)
    if number == 0:
        raise DataError(f"{path} is empty")


def _text(line: bytes, path: Path, number: int) -> str | BadSample:
    """A line without its end, blanks around it, and a byte order mark."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        reason = f"is no valid UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1})"
        return BadSample(f"{path}:{number}", reason)
    return text.removeprefix(_BOM).strip(" \r\n") if "\t" in text else text.removeprefix(_BOM).strip()


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, with their ends; only a line feed ends one."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read, it is damaged or not what its name says ({error})") from error


def _count(path: Path) -> int:
    return sum(1 for _ in _lines(path))
