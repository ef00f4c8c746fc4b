"""A tree out of rows: known labels of any two levels of a row are evidence for one edge.

    rows [N, K] ─► (class, class above) of every two levels ─► one ancestor each, or a conflict ─► fill ─► again

Filling makes evidence of its own (fine knows its mid, the row knows its coarse: so mid knows it, too), therefore the
rows are read until nothing new comes out. That takes at most as many rounds as there are levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.tasks.hierarchy.tree import UNKNOWN, Labels, Tree

_NUM_NAMED = 3
"""Rows that a conflict names for each parent."""


@dataclass
class Builder:
    """Builds the tree of `labels` `[N, K]` (a copy is filled meanwhile)."""

    levels: Sequence[str]
    names: Sequence[Sequence[str]]
    labels: Labels
    where: Callable[[int], str]
    """Says where a row stands, for messages."""
    on_conflict: str = "error"
    num_resolved: int = field(default=0, init=False)
    """Rows that were overruled, with `on_conflict: majority`."""

    def build(self) -> Tree:
        """The tree. Raises DataError for a class with two parents, unless the majority decides."""
        given = self.labels
        while True:
            tree = self._read(self.labels)
            filled = tree.fill(self.labels)
            if (filled == self.labels).all():
                self.num_resolved = int(tree.contradictions(given).sum())
                return tree
            self.labels = filled

    def _read(self, labels: Labels) -> Tree:
        num_levels = len(self.levels)
        tables = []
        for level in range(num_levels):
            table = np.full((len(self.names[level]), num_levels), UNKNOWN, np.int64)
            table[:, level] = np.arange(len(table))
            for above in range(level + 1, num_levels):
                table[:, above] = self._above(labels, level, above)
            tables.append(table)
        return Tree(self.levels, self.names, _joined(tables))

    def _above(self, labels: Labels, level: int, above: int) -> Labels:
        """For each class of `level` the class of `above` that most of its rows name, or the only one."""
        known = np.flatnonzero((labels[:, level] != UNKNOWN) & (labels[:, above] != UNKNOWN))
        width = len(self.names[above])
        edges, counts = np.unique(labels[known, level] * width + labels[known, above], return_counts=True)
        lower, upper = edges // width, edges % width
        twice = np.flatnonzero(lower[1:] == lower[:-1])
        if len(twice) and self.on_conflict == "error":
            raise self._conflict(labels, level, above, int(lower[twice[0]]), upper[twice[0] : twice[0] + 2].tolist())
        result = np.full(len(self.names[level]), UNKNOWN, np.int64)
        often = np.lexsort((-upper, counts))  # the last one written stays: most rows, and of equals the first name
        result[lower[often]] = upper[often]
        return result

    def _conflict(self, labels: Labels, level: int, above: int, cls: int, parents: list[int]) -> DataError:
        rows: list[NDArray[np.int64]] = [
            np.flatnonzero((labels[:, level] == cls) & (labels[:, above] == parent)) for parent in parents
        ]
        said = [
            f"{self.names[above][parent]!r} in {', '.join(self.where(int(row)) for row in found[:_NUM_NAMED])}"
            for parent, found in zip(parents, rows, strict=True)
        ]
        return DataError(
            f"{self.levels[level]} {self.names[level][cls]!r} has two parents of level {self.levels[above]}: "
            f"{said[0]}; {said[1]}; mend the rows, or set data.on_conflict to majority"
        )


def _joined(tables: list[Labels]) -> list[Labels]:
    """What lies above a class is what lies above its nearest ancestor, where that knows it (a majority may differ)."""
    for level in range(len(tables) - 2, -1, -1):
        for above in range(level + 1, len(tables)):
            nearest = tables[level][:, above]
            rows = np.flatnonzero(nearest != UNKNOWN)
            known = tables[above][nearest[rows]]
            later = slice(above + 1, None)
            tables[level][rows, later] = np.where(
                known[:, later] != UNKNOWN, known[:, later], tables[level][rows, later]
            )
    return tables
