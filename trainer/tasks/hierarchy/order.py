"""The order `pairs`: two rows of a group next to each other, every row exactly once an epoch.

    shuffled  a1 x b1 a2 y b2 a3 z       (x, y, z have no group; a3 is left over)
    paired    a1 a2 | x y | b1 b2 | a3 z

Everything goes in twos, each at the place of its first row, so that a batch or micro-batch of even length never cuts a
pair. An epoch's order is held whole: 8 bytes a row.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from trainer.config.expressions import Course
from trainer.data.dataset import Indices
from trainer.data.order import epoch_order
from trainer.tasks.hierarchy.tree import UNKNOWN, Labels


@dataclass(frozen=True, eq=False)
class PairPlan:
    """Global batches over pairs of the groups that a level's classes make."""

    labels: Labels
    """Of the training rows `[N, K]`."""
    batch_size: int
    seed: int
    level: Course
    """The group level (0 the finest) over the run; an epoch takes that of its first step."""

    def num_steps(self, epoch: int) -> int:  # noqa: ARG002 - every epoch is alike
        """Steps of an epoch: every row once."""
        return -(-len(self.labels) // self.batch_size)

    def batch(self, epoch: int, step: int) -> Indices:
        """Rows of the global batch `step` of the epoch."""
        return _epoch(self, epoch)[step * self.batch_size : (step + 1) * self.batch_size]


@lru_cache(maxsize=4)
def _epoch(plan: PairPlan, epoch: int) -> Indices:
    """The order of an epoch, read-only because it is shared."""
    size = len(plan.labels)
    rows = epoch_order(size, plan.seed, epoch).slice(0, size)
    level = int(plan.level.at(epoch * plan.num_steps(epoch)))
    order = rows[paired(plan.labels[rows, level])]
    order.flags.writeable = False
    return order


def paired(groups: Labels) -> Indices:
    """The order of places in which rows with these groups (-1: none) stand in pairs."""
    places = np.arange(len(groups))
    has_mate, place = _twos(groups, places[groups != UNKNOWN], places.copy())
    alone = np.flatnonzero(~has_mate)
    place[alone] = np.repeat(alone[::2], 2)[: len(alone)]
    return np.lexsort((places, place))


def _twos(groups: Labels, members: Indices, place: Indices) -> tuple[np.ndarray, Indices]:
    """Which rows have a mate, and the place of each: that of the first of its pair."""
    by_group = members[np.argsort(groups[members], kind="stable")]
    ordered = groups[by_group]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ordered)), 0)) if len(ordered) else ordered
    second = np.flatnonzero((np.arange(len(ordered)) - first) % 2 == 1)
    has_mate = np.zeros(len(groups), bool)
    has_mate[by_group[second]] = has_mate[by_group[second - 1]] = True
    place[by_group[second]] = by_group[second - 1]
    return has_mate, place
