"""Reads the open layout: `index.csv` (path,label,signer and optional split, session, name) and a file per recording.

A recording is a `.npy`, `.npz` (one array) or `.csv` of shape (frames, features), or (frames, keypoints, features).
Labels are word ids from 1 if all are whole numbers, else names in alphabetical order.
"""

import csv
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSample
from trainer.tasks.signs.packed import ClassInfo
from trainer.tasks.signs.readers.source import Recording, Source, listing_key
from trainer.tasks.signs.schema import Schema

INDEX = "index.csv"
_NEEDED = ("path", "label", "signer")


def is_here(path: Path) -> bool:
    """Does `path` hold an `index.csv` with the columns path, label, signer?"""
    if not (path / INDEX).is_file():
        return False
    with (path / INDEX).open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return set(_NEEDED) <= set(next(csv.reader(file), []))


def open_source(path: Path, schema: Schema) -> Source:
    """The recordings in the order of the index, in the settings' schema. Raises DataError for an empty index."""
    rows = _rows(path / INDEX)
    labels = sorted({row["label"] for row in rows})
    if all(label.isdecimal() and int(label) >= 1 for label in labels):
        words = {label: int(label) for label in sorted(labels, key=int)}
        names = {word: f"{word:04d}" for word in words.values()}
    else:
        words = {label: word for word, label in enumerate(labels, start=1)}
        names = {word: label for label, word in words.items()}
    files = [path / row["path"] for row in rows if (path / row["path"]).is_file()]
    return Source(
        layout="open",
        path=str(path),
        schema=schema,
        classes=[ClassInfo(word, name) for word, name in sorted(names.items())],
        signers=sorted({row["signer"] for row in rows}),
        stream=lambda: _stream(path, rows, words, schema),
        key=listing_key(path, [path / INDEX, *files]),
        num_recordings=len(rows),
    )


def _rows(file: Path) -> list[dict[str, str]]:
    """The index's rows, stripped. Raises DataError naming a line without path, label or signer."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        try:
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in csv.DictReader(stream)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read ({error})") from None
    if not rows:
        raise DataError(f"{file} lists no recording")
    for number, row in enumerate(rows, start=2):
        empty = [column for column in _NEEDED if not row.get(column)]
        if empty:
            raise DataError(f"{file}, line {number}: {empty[0]} is empty")
    return rows


def _stream(
    root: Path, rows: list[dict[str, str]], words: dict[str, int], schema: Schema
) -> Iterator[Recording | BadSample]:
    for number, row in enumerate(rows, start=2):
        file = root / row["path"]
        where = f"{file} ({INDEX} line {number})"
        if not file.resolve().is_relative_to(root.resolve()):
            yield BadSample(where, "lies outside of the data folder")
            continue
        try:
            frames = _shaped(_load(file), schema)
        except FileNotFoundError:
            yield BadSample(where, "is missing")
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            if "pickle" in str(error) or "Object arrays" in str(error):
                raise DataError(f"{where}: holds pickled objects, refused: they could run any code") from None
            yield BadSample(where, f"cannot be read ({error})")
        else:
            signer, name = row["signer"], row.get("name") or row["path"]
            session = row.get("session") or signer
            yield Recording(frames, words[row["label"]], signer, session, name, row.get("split", ""), where)


def _load(file: Path) -> NDArray[np.float64]:
    match file.suffix:
        case ".npy":
            return np.asarray(np.load(file, allow_pickle=False))
        case ".npz":
            with np.load(file, allow_pickle=False) as archive:
                if len(archive.files) != 1:
                    raise ValueError(f"it holds {len(archive.files)} arrays, expected one")
                return np.asarray(archive[archive.files[0]])
        case ".csv":
            return np.asarray(_table(file), np.float64)
        case _:
            raise ValueError(f"unknown file type {file.suffix!r}; there are .npy, .npz, .csv")


def _table(file: Path) -> list[list[float]]:
    """A CSV's rows as numbers; a first row of names is left out."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(stream) if row]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    return [[float(value) for value in row] for row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shaped(values: NDArray[np.float64], schema: Schema) -> NDArray[np.float32]:
    """`[n, K, F]` from a flat or an unflattened recording. Raises ValueError for another width."""
    if values.dtype.kind not in "fiu":
        raise ValueError(f"values of type {values.dtype}")
    if values.ndim == 2 and values.shape[1] == schema.width:
        values = values.reshape(len(values), schema.num_keypoints, schema.num_features)
    if values.shape[1:] != (schema.num_keypoints, schema.num_features):
        wanted = f"[frames, {schema.width}] or [frames, {schema.num_keypoints}, {schema.num_features}]"
        raise ValueError(f"shape {list(values.shape)}, expected {wanted} as data.dataset_schema says")
    return values.astype(np.float32)
