"""The rows of a data set in memory, and how texts become them.

What a reader gives are columns of texts (`Columns`); an empty text is an unknown label or a missing value. Class names
are sorted, so that a class has the same number in every run over the same rows.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Indices
from trainer.errors import DataError
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.tree import Labels

Texts = Sequence[str]
Numbers = NDArray[Any]
"""A column that came as numbers; it becomes texts where it is asked for."""
Features = NDArray[np.float32] | NDArray[np.uint8]
MISSING = ("", "nan", "NaN", "NA", "N/A", "<NA>", "null", "NULL", "None")
"""Texts of a cell that holds nothing, as spreadsheets, databases and pandas write it; spaces do not count."""


@dataclass(frozen=True)
class Table:
    """Rows; all arrays have N of them."""

    features: Features
    """`[N, D]`, or images `[N, channels, height, width]`, 0 .. 255 if whole numbers."""
    labels: Labels
    """`[N, K]`, fine to coarse; -1 unknown."""
    blocks: NDArray[np.float32]
    """`[N, width]`, zero where invalid."""
    valid: NDArray[np.bool_]
    """`[N, num_blocks]`"""
    where: NDArray[np.str_]
    """Name of the row for messages and for the split by row: `line 12`."""
    record: NDArray[np.str_] | None = None
    """The individual, session or site that the row belongs to."""
    split: NDArray[np.str_] | None = None
    """`train`, `val`, `test` where the source says it."""

    def __len__(self) -> int:
        return len(self.labels)

    def keep(self, rows: NDArray[np.bool_] | Indices) -> "Table":
        """Only these rows, in every column at once."""
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        kept: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
        return Table(**kept)

    @property
    def digest(self) -> str:
        """16 hex characters of SHA-256 over all columns."""
        sha256 = hashlib.sha256()
        for one in fields(self):
            column = getattr(self, one.name)
            if column is not None:
                sha256.update(f"{one.name} {column.dtype.str} {column.shape}".encode())
                sha256.update(
                    np.ascontiguousarray(column).data if column.dtype.kind != "U" else "\0".join(column).encode()
                )
        return sha256.hexdigest()[:16]


@dataclass(frozen=True)
class Source:
    """Rows as a reader found them, with the names that belong to them."""

    path: str
    table: Table
    names: list[list[str]]
    """Classes of each level, sorted."""
    blocks: BlockMap
    tree: str | None = None
    """A CSV table of the label tree, in place of the training rows."""


class Columns:
    """Columns of texts by name, with errors that say which is missing."""

    def __init__(self, path: str, columns: Mapping[str, Texts | Numbers], where: Callable[[int], str]) -> None:
        self.path, self.columns, self.where = path, columns, where
        self.num_rows = len(next(iter(columns.values()), ()))
        self.bad: dict[int, str] = {}
        """Rows that cannot be used, and why: a cell that should be a number is none."""

    def column(self, name: str, setting: str) -> Texts:
        """One column. Raises DataError naming the setting that asks for it and the nearest column."""
        if name not in self.columns:
            near = get_close_matches(name, self.columns, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(list(self.columns)[:20])}"
            raise DataError(f"{self.path} has no column {name!r} ({setting}); {hint}")
        found = self.columns[name]
        return list(map(str, found)) if isinstance(found, np.ndarray) else found

    def matching(self, patterns: Sequence[str], setting: str, levels: Sequence[str]) -> list[str]:
        """Names of columns by names or patterns, in the order of the file within a pattern.

        Raises DataError for a column of labels, which would tell the model the answer if it is written in numbers.
        """
        found: dict[str, None] = {}
        for pattern in patterns:
            names = [pattern] if pattern in self.columns else [n for n in self.columns if fnmatchcase(n, pattern)]
            if not names:
                self.column(pattern, setting)
            found |= dict.fromkeys(names)
        for name in found:
            if name in levels:
                raise DataError(f"{self.path}: {setting} takes in {name!r}, a label (data.levels); leave it out")
        return list(found)

    def numbers(self, names: Sequence[str], setting: str) -> NDArray[np.float32]:
        """Columns as numbers `[N, len(names)]`, NaN for empty cells; rows with other texts are `bad`."""
        result = np.empty((self.num_rows, len(names)), np.float32)
        for place, name in enumerate(names):
            texts = self.column(name, setting)
            cells = ["nan" if _is_missing(text) else text for text in texts]
            try:
                values = np.array(cells, np.float64)
            except ValueError:
                values = np.array([text if _is_number(text) else "inf" for text in cells], np.float64)
            with np.errstate(over="ignore"):
                result[:, place] = values
            for row in np.flatnonzero(np.isinf(result[:, place])).tolist():
                why = "which is too large" if _is_number(texts[row]) else "not a number"
                self.bad.setdefault(row, f"column {name!r} ({setting}) holds {texts[row]!r}, {why}")
        return result

    def require(self, features: Features) -> None:
        """Rows with a feature that is missing or not finite are `bad`."""
        finite = np.isfinite(features.reshape(len(features), -1)).all(1)
        for row in np.flatnonzero(~finite).tolist():
            self.bad.setdefault(row, "a feature is missing or not finite")

    def labels(self, level: str) -> tuple[Labels, list[str]]:
        """A column of labels as classes `[N]` and their sorted names. Raises DataError for an empty level."""
        texts = np.array(["" if _is_missing(text) else text for text in self.column(level, "data.levels")])
        names, numbers = np.unique(texts, return_inverse=True)
        has_unknown = len(names) > 0 and names[0] == ""
        if len(names) <= has_unknown:
            raise DataError(f"{self.path}: level {level!r} has no label in any row; leave it out of data.levels")
        return numbers.astype(np.int64) - has_unknown, names[int(has_unknown) :].tolist()

    def block_values(
        self, blocks: dict[str, list[str]], levels: Sequence[str]
    ) -> tuple[BlockMap, NDArray[np.float32], NDArray[np.bool_]]:
        """The block map, values (zero where invalid) and validity; one empty cell makes a block invalid in that row."""
        values, valid, widths = [np.zeros((self.num_rows, 0), np.float32)], [], {}
        for name, patterns in blocks.items():
            setting = f"data.blocks.{name}"
            part = self.numbers(self.matching(patterns, setting, levels), setting)
            valid.append(np.asarray(~np.isnan(part).any(1)))
            values.append(np.where(valid[-1][:, None], part, np.float32(0)))
            widths[name] = part.shape[1]
        flags = np.stack(valid, 1) if valid else np.zeros((self.num_rows, 0), bool)
        return BlockMap(widths), np.concatenate(values, 1), flags

    def texts(self, name: str | None, setting: str) -> NDArray[np.str_] | None:
        """A column as it stands; None without a name."""
        return None if name is None else np.array(self.column(name, setting))


def _is_missing(text: str) -> bool:
    return text.strip() in MISSING


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
