"""Small label trees for tests."""

import numpy as np

from trainer.tasks.hierarchy.tree import Tree

UNKNOWN = -1


def tree(parents=((0, 0, 1, 1),), levels=("fine", "coarse")):
    """A tree out of the parents of each level but the coarsest."""
    sizes = [len(own) for own in parents] + [max(parents[-1]) + 1]
    ancestors = []
    for level, size in enumerate(sizes):
        table = np.full((size, len(levels)), UNKNOWN, np.int64)
        table[:, level] = np.arange(size)
        for above in range(level, len(levels) - 1):
            table[:, above + 1] = np.asarray(parents[above])[table[:, above]]
        ancestors.append(table)
    return Tree(
        levels, [[f"{name}{c}" for c in range(size)] for name, size in zip(levels, sizes, strict=True)], ancestors
    )


DEEP = tree(((0, 0, 0, 1, 1, 2, 3, 3), (0, 0, 1, 1)), ("fine", "mid", "coarse"))
