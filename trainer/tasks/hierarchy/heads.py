"""Heads: one linear layer a level, and what makes the levels' scores fit each other.

`flat`: every level is a softmax of its own. `sibling`: log P(child) = log P(parent) + log softmax over siblings, so
the children of a class always sum to it. b rows, d width, c classes of a level, s siblings at most.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.errors import DataError
from trainer.tasks.hierarchy.tree import Tree

Kind = Literal["flat", "sibling"]


class FlatHeads(nn.Module):
    """Logits of every level, fine to coarse."""

    def __init__(self, width: int, num_classes: list[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Linear(width, number) for number in num_classes)

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """`[b, d]` to `[b, c]` of each level, float32."""
        return tuple(head(hidden).float() for head in self.levels)


class SiblingHeads(FlatHeads):
    """Log-probabilities of every level, each child's share of its parent's."""

    def __init__(self, width: int, tree: Tree) -> None:
        """Raises DataError for a class without a parent: it would have no probability."""
        super().__init__(width, list(tree.num_classes))
        for level, parents in enumerate(tree.parents):
            lost = np.flatnonzero(parents < 0)
            if len(lost):
                raise DataError(
                    f"the class {tree.names[level][lost[0]]} of {tree.levels[level]} has no parent, which "
                    "model.heads: sibling needs; give data.tree, or use flat heads"
                )
            table, place = siblings(parents)
            self.register_buffer(f"table_{level}", torch.from_numpy(table), persistent=False)
            self.register_buffer(f"place_{level}", torch.from_numpy(place), persistent=False)
            self.register_buffer(f"parent_{level}", torch.from_numpy(parents), persistent=False)

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """`[b, d]` to log-probabilities `[b, c]` of each level, float32."""
        logits = super().forward(hidden)
        known = [logits[-1].log_softmax(1)]
        for level in range(len(logits) - 2, -1, -1):
            table, place, parent = (self.get_buffer(f"{name}_{level}") for name in ("table", "place", "parent"))
            known.insert(0, known[0][:, parent] + among_siblings(logits[level], table, place))
        return tuple(known)


def siblings(parents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Classes in rows of siblings: `table` `[number of families, s]`, -1 for none, and each class's `place` in it."""
    families, family, sizes = np.unique(parents, return_inverse=True, return_counts=True)
    order = np.argsort(family, kind="stable")
    rank = np.empty(len(parents), np.int64)
    rank[order] = np.arange(len(parents)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    table = np.full((len(families), int(sizes.max())), -1, np.int64)
    table[family, rank] = np.arange(len(parents))
    return table, family * table.shape[1] + rank


def among_siblings(logits: Tensor, table: Tensor, place: Tensor) -> Tensor:
    """Log of the softmax of `[b, c]` within each family; by gathering only, whose gradient is the same every time."""
    spread = logits[:, table.clamp(min=0)]
    shares = spread.masked_fill(table < 0, -torch.inf).log_softmax(2)
    own: Tensor = shares.flatten(1)[:, place]
    return own


def build_heads(kind: Kind, width: int, tree: Tree) -> FlatHeads:
    """The heads of `model.heads`."""
    return SiblingHeads(width, tree) if kind == "sibling" else FlatHeads(width, list(tree.num_classes))


def log_probabilities(kind: Kind, logits: tuple[Tensor, ...]) -> list[Tensor]:
    """Of every class of every level, float32; sibling heads give them as they are."""
    return [one.float() if kind == "sibling" else one.float().log_softmax(1) for one in logits]
