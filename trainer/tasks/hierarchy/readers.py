"""Readers: CSV, Parquet, NPZ, a folder of images with a table `index.csv`, and what `trainer prepare` packed.

file ─► Columns (texts by name) ─► Source: table, class names, block map
"""

import csv
import glob
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import HierarchyData
from trainer.errors import DataError
from trainer.tasks.hierarchy.counts import Counts
from trainer.tasks.hierarchy.images import read_images
from trainer.tasks.hierarchy.packed import HEADER, open_packed_rows
from trainer.tasks.hierarchy.table import Columns, Features, Numbers, Source, Table, Texts
from trainer.tasks.hierarchy.tree import UNKNOWN

INDEX = "index.csv"
_SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".npz": "npz"}
_CHANNELS = (1, 3, 4)
"""Of grey images, colour images, and those with alpha."""
_MISSING_DATA = "trainer train --task hierarchy --config quick trains on a generated set"


def read(data: HierarchyData, path: Path, counts: Counts) -> Source:
    """The rows that the settings point to. Raises DataError for everything that is missing or not what they say."""
    layout, file = find_layout(data, path)
    source = _read_packed(data, file.parent) if layout == "packed" else _read_columns(data, layout, file, counts)
    return replace(source, tree=data.tree or source.tree)


def _read_packed(data: HierarchyData, folder: Path) -> Source:
    """Packed rows, if the settings mean the same columns."""
    packed = open_packed_rows(folder)
    packed.check_settings(data)
    source = packed.source()
    is_given = data.split.by == "given"
    return replace(source, table=source.table if is_given else replace(source.table, split=None))


def _read_columns(data: HierarchyData, layout: str, file: Path, counts: Counts) -> Source:
    if not data.levels:
        raise DataError(f"{file}: data.levels must name the columns of the labels, fine to coarse")
    if layout == "npz":
        columns, arrays = _read_npz(file, data.levels)
        features = _npz_features(file, data, arrays)
        columns.require(features)
        return _source(columns, data, features, counts)
    columns = _read_parquet(file) if layout == "parquet" else read_csv(file)
    if layout == "images":
        names = columns.column(data.image_column, "data.image_column")
        pixels, is_there = read_images(file.parent, names, data, counts, columns.where)
        return _source(columns, data, pixels, counts, is_there)
    if not data.features:
        if data.image_column in columns.columns:
            raise DataError(f"{file}: the column {data.image_column!r} names images: give the folder, {file.parent}")
        raise DataError(f"{file}: data.features must name the columns of the features, e.g. [x1, x2] or ['MFCC*']")
    values = columns.numbers(columns.matching(data.features, "data.features", data.levels), "data.features")
    columns.require(values)
    return _source(columns, data, values, counts)


def find_layout(data: HierarchyData, path: Path) -> tuple[str, Path]:
    """The layout and the file that is read. Raises DataError if there is none."""
    if not path.exists():
        raise DataError(f"data.path: {path} does not exist; {_MISSING_DATA}")
    file = path
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES)
        index = path / INDEX
        if data.layout == "packed" or (data.layout == "auto" and (path / HEADER).is_file()):
            return "packed", path / HEADER
        if data.layout == "images" or (data.layout == "auto" and index.is_file()):
            if not index.is_file():
                raise DataError(f"{path} has no {INDEX}, the table of its images")
            return "images", index
        if len(found) != 1:
            raise DataError(
                f"{path} must hold {INDEX} with images, or one file .csv, .parquet or .npz; got {len(found)}"
            )
        file = found[0]
    layout = _SUFFIXES.get(file.suffix, "") if data.layout == "auto" else data.layout
    if not layout:
        raise DataError(f"{file} is no .csv, .parquet or .npz; data.layout says what it is")
    return layout, file


def read_csv(file: Path) -> Columns:
    """A comma-separated table with a header. Raises DataError with the line of a row that is too short or too long."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8 (byte {error.start:,}); save it as CSV in UTF-8") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from None
    if not header or not rows:
        raise DataError(f"{file} holds no rows")
    if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), None)):
        raise DataError(f"{file} has {mark!r} between its columns; save it with commas")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{file} line {line} has {len(row)} cells, the header {len(header)}")
    lines = [line for line, _ in rows]
    columns = dict(zip(header, zip(*(row for _, row in rows), strict=True), strict=True))
    if len(columns) != len(header):
        raise DataError(f"{file} has two columns of one name")
    return Columns(str(file), columns, lambda row: f"line {lines[row]}")


def _read_parquet(file: Path) -> Columns:
    """A Parquet table by DuckDB, which needs no other library and is 2.5 times smaller than PyArrow."""
    try:
        duckdb = import_module("duckdb")
    except ImportError:
        raise DataError(f"{file} needs DuckDB: pip install 'signs-trainer[parquet]', or save it as CSV") from None
    try:
        table = duckdb.read_parquet(glob.escape(str(file)))
        names, rows = table.columns, table.fetchall()
    except duckdb.Error as error:
        raise DataError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    if not rows:
        raise DataError(f"{file} holds no rows")
    cells = (["" if value is None else str(value) for value in column] for column in zip(*rows, strict=True))
    columns = dict(zip(names, cells, strict=True))
    return Columns(str(file), columns, lambda row: f"row {row}")


def _read_npz(file: Path, levels: Sequence[str]) -> tuple[Columns, dict[str, Numbers]]:
    """One array for each column, with a row per row, or `[N, D]` for the columns `name.0`, `name.1`, ...

    Labels are texts, or numbers from 0 on with -1 for unknown.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: _decoded(content[name]) for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} cannot be read as NPZ: {error}") from None
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise DataError(f"{file} must hold arrays with the same number of rows; got {lengths or 'none'}")
    columns = {name: array for name, array in arrays.items() if array.ndim == 1}
    for name, array in arrays.items():
        if array.ndim == 2:
            columns |= {f"{name}.{place}": array[:, place] for place in range(array.shape[1])}
    texts = {name: _label_texts(f"{file}: level {name!r}", columns[name]) for name in levels if name in columns}
    return Columns(str(file), {**columns, **texts}, lambda row: f"row {row}"), arrays


def _label_texts(where: str, labels: Numbers) -> Texts:
    """Labels as texts, -1 and NaN as the empty one. Raises DataError for a number below -1."""
    if labels.dtype.kind not in "if":
        return list(map(str, labels))
    outside = np.flatnonzero(labels < UNKNOWN)
    if len(outside):
        raise DataError(f"{where} holds {labels[outside[0]]} in row {outside[0]}; labels begin at 0, -1 is unknown")
    return ["" if label == UNKNOWN else str(label) for label in labels]


def _decoded(array: NDArray[Any]) -> Numbers:
    """Bytes, as HDF5 and old files have them, are texts."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _npz_features(file: Path, data: HierarchyData, arrays: dict[str, Numbers]) -> Features:
    """The array `features` `[N, D]` or `[N, channels, height, width]`, or the one that the settings name."""
    if len(data.features) > 1:
        raise DataError(f"{file}: data.features names one array of an NPZ, not {len(data.features)}; join them there")
    name = data.features[0] if data.features else "features"
    if name not in arrays:
        raise DataError(f"{file} has no array {name!r} (data.features); there are: {', '.join(arrays)}")
    array = arrays[name]
    if array.ndim not in (2, 4) or array.dtype.kind not in "fiub":
        raise DataError(
            f"{file}: {name!r} must be numbers [N, D] or [N, channels, height, width], is {array.dtype} {array.shape}"
        )
    is_image = array.ndim == 4 and array.dtype == np.uint8
    if is_image and array.shape[3] in _CHANNELS and array.shape[1] not in _CHANNELS:
        raise DataError(f"{file}: {name!r} {array.shape} has its channels last; transpose(0, 3, 1, 2) puts them first")
    with np.errstate(over="ignore"):
        features: Features = array if is_image else array.astype(np.float32)
    return features


def _source(
    columns: Columns,
    data: HierarchyData,
    features: Features,
    counts: Counts,
    is_there: NDArray[np.bool_] | None = None,
) -> Source:
    """Labels, blocks and names next to the features; rows that cannot be used leave after the classes are known."""
    labels, names = zip(*(columns.labels(level) for level in data.levels), strict=True)
    blocks, values, valid = columns.block_values(data.blocks, data.levels)
    is_there = np.ones(columns.num_rows, bool) if is_there is None else is_there
    for row, reason in sorted(columns.bad.items()):
        if is_there[row]:
            counts.bad(f"{columns.path} {columns.where(row)}", reason)
            is_there[row] = False
    says: Callable[[int], str] = columns.where
    table = Table(
        features=features,
        labels=np.stack(labels, 1),
        blocks=values,
        valid=valid,
        where=np.array([says(row) for row in range(columns.num_rows)]),
        record=columns.texts(data.group, "data.group"),
        split=columns.texts("split" if data.split.by == "given" else None, "data.split.by: given"),
    )
    return Source(columns.path, table.keep(is_there), list(names), blocks)
