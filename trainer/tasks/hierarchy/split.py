"""Which rows train, validate and test: by keyed hash of names, so the same file gives the same split everywhere.

`record` keeps all rows of a record on one side. `row` does not, and where one individual sits on both sides the scores
tell how well it is recognised, not its class (98-99 % on anuran calls, where records held out give 74 %).
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import HierarchySplit
from trainer.data.dataset import Indices
from trainer.data.keys import derive
from trainer.errors import DataError
from trainer.tasks.hierarchy.table import Table
from trainer.tasks.hierarchy.tree import UNKNOWN

Parts = dict[str, Indices]
PARTS = ("train", "val", "test")
Side = NDArray[np.int64]
"""The part of each row or record, as a place in `PARTS`."""


def split(table: Table, settings: HierarchySplit, path: str) -> Side:
    """The side of each row. Raises DataError if nothing trains or validates, or there is one record only."""
    side = _given(table, path) if settings.by == "given" else _by_name(table, settings, path)
    parts = parts_of(side)
    for name in ("train", "val"):
        if not len(parts[name]):
            raise DataError(f"{path}: the split leaves no row for {name}; change data.split")
    return side


def parts_of(side: Side) -> Parts:
    """Sorted rows of each part."""
    return {name: np.flatnonzero(side == place).astype(np.int64) for place, name in enumerate(PARTS)}


def _given(table: Table, path: str) -> Side:
    assert table.split is not None, "the reader asks for the column"
    unknown = sorted(set(table.split.tolist()) - set(PARTS))
    if unknown:
        raise DataError(f"{path}: column 'split' holds {unknown[0]!r}; it may say {', '.join(PARTS)}")
    return np.array([PARTS.index(text) for text in table.split.tolist()], np.int64)


def _by_name(table: Table, settings: HierarchySplit, path: str) -> Side:
    """The side of each row, by the hash of its own name or as its record's."""
    if settings.by == "row":
        draws = np.array([derive(settings.seed, "split", name) * 2.0**-64 for name in table.where.tolist()])
        ends = np.cumsum([settings.val_share, settings.test_share])
        return np.where(draws < ends[0], 1, np.where(draws < ends[1], 2, 0)).astype(np.int64)
    if table.record is None:
        raise DataError(f"{path}: data.split.by is {settings.by}, which needs data.group, the column of the record")
    names, record = np.unique(table.record, return_inverse=True)
    if len(names) < 2:
        only = str(names[0])
        raise DataError(f"{path}: all rows are of one record ({only!r}); data.group must tell at least two apart")
    if settings.by == "fixed":
        return _fixed(table, names, record, settings)[record]
    return _hashed(names, settings)[record]


def _hashed(names: NDArray[np.str_], settings: HierarchySplit) -> Side:
    """The first records of the hashed order validate, the next test; a share above 0 takes at least one."""
    order = np.argsort([derive(settings.seed, "split", name) for name in names.tolist()])
    shares = (settings.val_share, settings.test_share)
    num_val, num_test = (max(1, round(share * len(names))) if share else 0 for share in shares)
    side = np.zeros(len(names), np.int64)
    side[order[:num_val]] = 1
    side[order[num_val : num_val + num_test]] = 2
    return side


def _fixed(table: Table, names: NDArray[np.str_], record: Indices, settings: HierarchySplit) -> Side:
    """Of the sorted records of every finest class the last max(1, n // 3) test; a record is of the class of most rows.

    Numbers are sorted as numbers. A class with a single record has none to train on. Without a `val_share` the test
    rows are what validates.
    """
    fine = table.labels[:, 0]
    known = fine != UNKNOWN
    counts = np.zeros((len(names), int(fine.max(initial=0)) + 1), np.int64)
    np.add.at(counts, (record[known], fine[known]), 1)
    label = np.where(counts.any(1), counts.argmax(1), UNKNOWN)
    order = sorted(range(len(names)), key=lambda place: _natural(str(names[place])))
    side = np.zeros(len(names), np.int64)
    for cls in np.unique(label[label != UNKNOWN]).tolist():
        own = [place for place in order if label[place] == cls]
        side[own[-max(1, len(own) // 3) :]] = 2
    if not settings.val_share:
        return np.where(side == 2, 1, 0)
    free = np.flatnonzero(side == 0)
    side[held_out(names[free], label[free], settings.val_share, settings.seed, free)] = 1
    return side


def held_out(names: NDArray[np.str_], label: Indices, share: float, seed: int, places: Indices) -> Indices:
    """The `places` of the records that validate: the first of the hashed order, but never the last of a class.

    `label` is the finest class of each record, -1 unknown. A share above 0 takes at least one record if any can go.
    """
    wanted = max(1, round(share * len(names)))
    left = Counter(label.tolist())
    chosen: list[int] = []
    for record in np.argsort([derive(seed, "split", name) for name in names.tolist()]).tolist():
        cls = int(label[record])
        if len(chosen) < wanted and (cls == UNKNOWN or left[cls] > 1):
            left[cls] -= 1
            chosen.append(record)
    return places[chosen]


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers before texts, by their value."""
    try:
        return 0, float(name), ""
    except ValueError:
        return 1, 0.0, name
