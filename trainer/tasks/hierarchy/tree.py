"""The label tree: for every class its ancestors, and what follows from them.

    levels     fine ── mid ── coarse          0 is the finest
    ancestors  [C_l, K]: column m is the class at level m above it; -1 where unknown and for finer levels

A class may lack the ancestor of a level and still know one above it, if the rows said so. Trees of a forest have no
common ancestor; the distance between them is infinite.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
UNKNOWN = -1
FILE = "tree.json"
"""Beside the weights."""
_CHUNK = 1024
"""Rows of a distance matrix worked out at a time: comparisons stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Tree:
    """Classes of all levels and how they hang together."""

    levels: Sequence[str]
    names: Sequence[Sequence[str]]
    """Of the classes of each level, sorted; a class is its place here."""
    ancestors: Sequence[Labels]
    """Of each level `[C_l, K]`; the own level's column is the class itself."""

    @property
    def num_classes(self) -> list[int]:
        """Of each level."""
        return [len(names) for names in self.names]

    @property
    def parents(self) -> list[Labels]:
        """Of each level but the coarsest `[C_l]`: the class at the next coarser one, -1 where unknown."""
        return [table[:, level + 1] for level, table in enumerate(self.ancestors[:-1])]

    def parent(self, level: int, cls: int) -> tuple[int, int] | None:
        """Level and class of the nearest known ancestor; None for a root."""
        above = self.ancestors[level][cls]
        known = np.flatnonzero(above[level + 1 :] != UNKNOWN)
        return (level + 1 + int(known[0]), int(above[level + 1 + known[0]])) if len(known) else None

    def children(self, level: int, cls: int) -> list[tuple[int, int]]:
        """Level and class of everything whose nearest known ancestor this is, finest last."""
        below = [(lower, one) for lower in range(level - 1, -1, -1) for one in self.descendants(level, cls, lower)]
        return [(lower, one) for lower, one in below if self.parent(lower, one) == (level, cls)]

    def descendants(self, level: int, cls: int, at: int) -> list[int]:
        """Classes of the finer level `at` below this one."""
        return np.flatnonzero(self.ancestors[at][:, level] == cls).tolist()

    @cached_property
    def roots(self) -> list[tuple[int, int]]:
        """Level and class of everything without a known ancestor, coarsest first."""
        pairs = ((level, cls) for level in range(len(self.levels) - 1, -1, -1) for cls in range(self._size(level)))
        return [pair for pair in pairs if self.parent(*pair) is None]

    @cached_property
    def leaves(self) -> list[tuple[int, int]]:
        """Level and class of everything without a descendant, finest first."""
        return [
            (level, cls)
            for level in range(len(self.levels))
            for cls in range(self._size(level))
            if not any(self.descendants(level, cls, lower) for lower in range(level))
        ]

    def _size(self, level: int) -> int:
        return len(self.names[level])

    def distance(self, one: tuple[int, int], other: tuple[int, int]) -> float:
        """Edges between two (level, class) by way of their nearest common ancestor."""
        (level, cls), (level_b, cls_b) = one, other
        both = self.ancestors[level][cls], self.ancestors[level_b][cls_b]
        common = np.flatnonzero((both[0] == both[1]) & (both[0] != UNKNOWN))
        return float(2 * common[0] - level - level_b) if len(common) else float("inf")

    def pair_distances(self, level: int, left: Labels, right: Labels) -> NDArray[np.float32]:
        """Distances of pairs of classes of one level; infinite between trees."""
        table = self.ancestors[level]
        result = np.full(len(left), np.inf, np.float32)
        for above in range(len(self.levels) - 1, level - 1, -1):
            same = (table[left, above] == table[right, above]) & (table[left, above] != UNKNOWN)
            result[same] = 2 * (above - level)
        return result

    def distances(self, level: int) -> NDArray[np.float32]:
        """Distances of all classes of a level `[C, C]`, by comparison of whole columns of ancestors."""
        columns = self.ancestors[level].astype(np.int32)
        result = np.full((len(columns), len(columns)), np.inf, np.float32)
        for start in range(0, len(columns), _CHUNK):
            part = slice(start, start + _CHUNK)
            for above in range(len(self.levels) - 1, level - 1, -1):
                own = np.where(columns[part, above] == UNKNOWN, -2, columns[part, above])
                result[part][own[:, None] == columns[None, :, above]] = 2 * (above - level)
        return result

    def smoothed(self, level: int, alpha: float, beta: float) -> NDArray[np.float32]:
        """Targets `[C, C]`: 1 - alpha on the diagonal, alpha spread over the others by exp(-beta * distance).

        A class that reaches no other one spreads it evenly; a level of one class keeps it.
        """
        far = self.distances(level).astype(np.float64)
        size = len(far)
        if size == 1:
            return np.ones((1, 1), np.float32)
        near = np.zeros_like(far)
        np.exp(-beta * far, out=near, where=np.isfinite(far))
        np.fill_diagonal(near, 0.0)
        sums = near.sum(1, keepdims=True)
        even = (1.0 - np.eye(size)) / (size - 1)
        shares = np.divide(near, sums, out=even, where=np.broadcast_to(sums > 0, near.shape))
        targets: NDArray[np.float64] = (1.0 - alpha) * np.eye(size) + alpha * shares
        return targets.astype(np.float32)

    def fill(self, labels: Labels) -> Labels:
        """A copy of the labels `[N, K]` in which the finest known label fills every missing coarser one."""
        filled = labels.copy()
        for level in range(1, len(self.levels)):
            for lower in range(level):
                gaps = np.flatnonzero((filled[:, level] == UNKNOWN) & (filled[:, lower] != UNKNOWN))
                filled[gaps, level] = self.ancestors[lower][filled[gaps, lower], level]
        return filled

    def contradictions(self, labels: Labels) -> NDArray[np.bool_]:
        """Rows `[N]` with a coarse label that is not the one above a finer label of theirs."""
        wrong = np.zeros(len(labels), bool)
        for lower in range(len(self.levels)):
            known = labels[:, lower] != UNKNOWN
            above = np.where(known[:, None], self.ancestors[lower][labels[:, lower]], UNKNOWN)
            coarser = slice(lower + 1, None)
            clash = (above != labels) & (above != UNKNOWN) & (labels != UNKNOWN)
            wrong |= clash[:, coarser].any(1)
        return wrong

    @cached_property
    def digest(self) -> str:
        """16 hex characters of SHA-256 over the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Levels, classes, and the ancestors of each class by place."""
        tables = [table.tolist() for table in self.ancestors]
        return {"levels": list(self.levels), "classes": [list(names) for names in self.names], "ancestors": tables}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Tree":
        """What `to_json` gave."""
        shape = (-1, len(content["levels"]))
        tables = [np.asarray(table, np.int64).reshape(shape) for table in content["ancestors"]]
        return cls(content["levels"], content["classes"], tables)
