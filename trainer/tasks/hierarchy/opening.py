"""The door to the data: rows, label tree, block map and parts, with everything counted that was done to them.

    reader or toy ─► no label? out ─► parts ─► tree of the training rows ─► fill ─► contradictions, filters ─► Opened

The table is filtered once and positions are taken afterwards, so there is one index space. A class that only rows left
out know is still a class, and `report` names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config.hierarchy import TOY_LEVELS, TOYS, HierarchyData, HierarchySettings
from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSamples
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.counts import Counts
from trainer.tasks.hierarchy.readers import read, read_csv
from trainer.tasks.hierarchy.split import Parts, parts_of, split
from trainer.tasks.hierarchy.table import Source, Table
from trainer.tasks.hierarchy.toys import toy
from trainer.tasks.hierarchy.tree import UNKNOWN, Labels, Tree
from trainer.tasks.hierarchy.tree_build import Builder
from trainer.tasks.remote import is_url, local_path


@dataclass(frozen=True)
class Opened:
    """The data of a run."""

    path: str
    table: Table
    """Labels are filled."""
    tree: Tree
    blocks: BlockMap
    parts: Parts
    report: dict[str, Any]
    """Counts of rows by what happened to them, unknown labels before and after filling, classes without a row."""


def open_rows(settings: HierarchySettings) -> Opened:
    """Read, check, split, fill. Raises DataError; fetches first if `data.path` is a URL."""
    data = settings.data
    counts = Counts(BadSamples(data.bad_samples, data.bad_budget))
    source = _read(settings, counts)
    counts.add("read", len(source.table) + counts.rows["missing_image"] + counts.bad_rows.num_skipped)
    if not len(source.table):
        missing, bad = counts.rows["missing_image"], counts.bad_rows.num_skipped
        raise DataError(f"{source.path}: no row is left: {missing:,} name an image that is not there, {bad:,} are bad")
    source = _onto_tree(source, source.tree, data.levels) if source.tree else source
    table = _without(source.table, (source.table.labels == UNKNOWN).all(1), "no_label", counts)
    if not len(table):
        raise DataError(f"{source.path}: no row has a label at any of the levels {', '.join(settings.levels)}")
    chosen = data.split.model_copy(update={"by": "given"}) if data.layout in TOYS else data.split
    side = split(table, chosen, source.path)
    train = parts_of(side)["train"]
    tree = _tree(source, table.labels[train], table.where[train], data, counts)
    before = table.labels
    table, kept = _settle(table, tree, data, counts, source.path)
    parts = parts_of(side[kept])
    _check_parts(parts, table, source, settings.levels)
    report = _report(counts, settings.levels, before[kept], table, source)
    return Opened(source.path, table, tree, source.blocks, parts, report)


def _read(settings: HierarchySettings, counts: Counts) -> Source:
    data = settings.data
    if data.layout in TOYS:
        return toy(data.layout, data.toy_seed)
    if data.path is None:
        raise DataError(
            "data.path is not set: give a table (--data FILE), or train on a generated set: "
            "trainer train --task hierarchy --config quick"
        )
    return read(data, local_path(data.path, settings) if is_url(data.path) else Path(data.path), counts)


def _onto_tree(source: Source, tree: str, levels: Sequence[str]) -> Source:
    """The same rows with the classes of the given tree. Raises DataError for a label outside of its level."""
    if not Path(tree).is_file():
        raise DataError(f"data.tree: {tree} does not exist; it is a CSV table with the columns {', '.join(levels)}")
    given = read_csv(Path(tree))
    names, columns = [given.labels(level)[1] for level in levels], []
    for level, (old, new) in enumerate(zip(source.names, names, strict=True)):
        outside = sorted(set(old) - set(new))
        if outside:
            row = int(np.flatnonzero(source.table.labels[:, level] == old.index(outside[0]))[0])
            raise DataError(
                f"{source.path} {source.table.where[row]}: label {outside[0]!r} is no class of level "
                f"{levels[level]!r} in {tree}; mend the row, or add the class there"
            )
        place = {text: number for number, text in enumerate(new)}
        table = np.array([*(place[text] for text in old), UNKNOWN], np.int64)
        columns.append(table[source.table.labels[:, level]])
    return replace(source, names=names, table=replace(source.table, labels=np.stack(columns, 1)))


def _tree(source: Source, labels: Labels, where: NDArray[np.str_], data: HierarchyData, counts: Counts) -> Tree:
    """The tree of the given table, or of the training rows."""
    levels, path = data.levels or TOY_LEVELS, source.path
    said: Sequence[str] = where.tolist()
    if source.tree:
        given, path = read_csv(Path(source.tree)), source.tree
        labels = np.stack([given.labels(level)[0] for level in levels], 1)
        said = [given.where(row) for row in range(given.num_rows)]
    builder = Builder(levels, source.names, labels, lambda row: said[row], data.on_conflict)
    try:
        tree = builder.build()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    counts.add("overruled", builder.num_resolved if source.tree else 0)
    return tree


def _settle(
    table: Table, tree: Tree, data: HierarchyData, counts: Counts, path: str
) -> tuple[Table, NDArray[np.bool_]]:
    """Fill, and leave out what contradicts the tree or what the settings do not want; which rows are kept."""
    wrong = tree.contradictions(table.labels)
    labels = table.labels
    if data.on_conflict == "majority":
        labels = np.where(wrong[:, None], _from_finest(labels, tree), labels)
        counts.add("overruled", int(wrong.sum()))
        wrong = np.zeros_like(wrong)
    for row in np.flatnonzero(wrong).tolist():
        counts.bad(f"{path} {table.where[row]}", _contradiction(tree, labels[row]))
    filled = tree.fill(labels) if data.fill else labels
    counts.add("filled", int((filled != labels)[~wrong].any(1).sum()))
    table = replace(table, labels=filled)
    for reason, out in (("partial", (filled == UNKNOWN).any(1)), ("gaps", _has_gap(filled))):
        if data.drop_partial if reason == "partial" else data.drop_gaps:
            counts.add(reason, int((out & ~wrong).sum()))
            wrong = wrong | out
    return table.keep(~wrong), ~wrong


def _from_finest(labels: Labels, tree: Tree) -> Labels:
    """Labels as the finer ones of each row say, where the tree knows what is above them."""
    told = labels.copy()
    for level, ancestors in enumerate(tree.ancestors[:-1]):
        known = np.flatnonzero(told[:, level] != UNKNOWN)
        above = ancestors[told[known, level], level + 1 :]
        told[known, level + 1 :] = np.where(above == UNKNOWN, told[known, level + 1 :], above)
    return told


def _contradiction(tree: Tree, labels: Labels) -> str:
    """What is wrong with a row, in words."""
    named = [
        f"{level} {tree.names[place][cls]!r}"
        for place, (level, cls) in enumerate(zip(tree.levels, labels.tolist(), strict=True))
        if cls != UNKNOWN
    ]
    return f"its labels contradict the label tree: {', '.join(named)}"


def _has_gap(labels: Labels) -> NDArray[np.bool_]:
    """Rows where a coarser label is missing under a known finer one."""
    known = labels != UNKNOWN
    gap: NDArray[np.bool_] = (~known & (np.cumsum(known, 1) > 0)).any(1)
    return gap


def _without(table: Table, out: NDArray[np.bool_], reason: str, counts: Counts) -> Table:
    counts.add(reason, int(out.sum()))
    return table.keep(~out) if out.any() else table


def _check_parts(parts: Parts, table: Table, source: Source, levels: Sequence[str]) -> None:
    """Raises DataError for an empty part or a level that no training row knows."""
    for name in ("train", "val"):
        if not len(parts[name]):
            raise DataError(f"{source.path}: no row is left for {name}; change data.split or the filters")
    for level, known in zip(levels, (table.labels[parts["train"]] != UNKNOWN).any(0), strict=True):
        if not known:
            raise DataError(f"{source.path}: no training row has a label of level {level!r}")


def _report(counts: Counts, levels: Sequence[str], before: Labels, table: Table, source: Source) -> dict[str, Any]:
    def unknown(labels: Labels) -> dict[str, int]:
        return dict(zip(levels, (labels == UNKNOWN).sum(0).tolist(), strict=True))

    return {
        "rows": {**counts.rows, "bad": counts.bad_rows.num_skipped, "used": len(table)},
        "bad": counts.bad_rows.lines,
        "unknown_before": unknown(before),
        "unknown_after": unknown(table.labels),
        "classes_without_rows": {
            level: [name for cls, name in enumerate(names) if not (table.labels[:, place] == cls).any()]
            for place, (level, names) in enumerate(zip(levels, source.names, strict=True))
        },
    }
