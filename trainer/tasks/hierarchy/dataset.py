"""Rows as batches: changed, mixed and masked as settings and curves say, in this order.

    features ─► augment ─► mix with partners of the global batch ─► mask blocks ─► batch      (training)
    features ──────────────────────────────────────────────────────────────────► batch      (evaluation)

    batch   features [B, ...]   labels [B, K], -1 unknown   blocks [B, width]   valid [B, num_blocks]   index [B]
            with mixing also partner_labels [B, K] and lam [B]: the share of the own labels, 1 where unmixed

Masks come after mixing: a partner would bring back what was masked before. What depends on the step is a function of
(epoch, row), because the plan takes every row once an epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config.expressions import Course
from trainer.config.hierarchy import MixSettings
from trainer.data.dataset import Batch, Indices
from trainer.data.keys import derive, uniform
from trainer.data.plan import Plan, steps_of_samples
from trainer.tasks.hierarchy.augment import Augment
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.masks import Combinations
from trainer.tasks.hierarchy.mixing import Blend, blended, chosen_blocks, cut, draw, mixed_labels
from trainer.tasks.hierarchy.table import Table
from trainer.tasks.hierarchy.tree import UNKNOWN, Labels

Floats = NDArray[np.float32]
Blends = list[tuple[Indices, Blend]]
"""Places in a batch that belong to each mixed global batch, and how that is mixed."""


class HierarchyRows:
    """Rows of one part as they are; `index` is the position in the part."""

    def __init__(self, table: Table, blocks: BlockMap) -> None:
        self.table, self.blocks = table, blocks
        self.labels = table.labels

    def __len__(self) -> int:
        return len(self.table)

    def take(self, indices: Indices, epoch: int) -> Batch:  # noqa: ARG002 - evaluation rows never change
        """These rows, unchanged."""
        table = self.table
        return _batch(
            indices, self.features(indices), self.labels[indices], table.blocks[indices], table.valid[indices]
        )

    def features(self, indices: Indices) -> Floats:
        """Features of these rows; images as 0 .. 1, in training and evaluation alike."""
        return self.table.features[indices].astype(np.float32) * np.float32(1 / self.divisor)

    @property
    def divisor(self) -> float:
        """What features are divided by before the model sees them: 255 for the bytes of images."""
        return 255.0 if self.table.features.dtype == np.uint8 else 1.0

    @property
    def names(self) -> list[str]:
        """What to call the rows."""
        return [str(name) for name in self.table.where]

    @cached_property
    def statistics(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the features `[D]`, of images per channel `[channels, 1, 1]`."""
        features = self.table.features
        axes, shape = ((0, 2, 3), (-1, 1, 1)) if features.ndim == 4 else ((0,), (-1,))
        mean = np.asarray(features.mean(axis=axes, dtype=np.float64)) / self.divisor
        deviation = np.asarray(features.std(axis=axes, dtype=np.float64)) / self.divisor
        return mean.reshape(shape).astype(np.float32), _not_zero(deviation).reshape(shape)

    @cached_property
    def block_statistics(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the blocks' columns `[width]` over rows in which the block is valid."""
        valid = self.table.valid[:, self.blocks.owner]
        count = np.maximum(valid.sum(0), 1)
        mean = self.table.blocks.sum(0, dtype=np.float64) / count
        spread = np.sqrt((np.where(valid, self.table.blocks - mean, 0.0) ** 2).sum(0) / count)
        return mean.astype(np.float32), _not_zero(spread)


@dataclass(frozen=True)
class Curves:
    """Probabilities and the group level (0 the finest) over the run; None is off."""

    level: Course
    mix: Course | None = None
    mask_all: Course | None = None
    mask_partial: Course | None = None

    @property
    def by_name(self) -> Mapping[str, Course]:
        """Those that are on and have a value to show, for the ledger and the plan."""
        level = self.level if len(self.level.knots) > 1 else None
        pairs = {"mix": self.mix, "mix_level": level, "mask_all": self.mask_all, "mask_partial": self.mask_partial}
        return {name: course for name, course in pairs.items() if course is not None}


class TrainingRows(HierarchyRows):
    """Rows of the training part, changed by (seed, epoch, row)."""

    def __init__(
        self,
        table: Table,
        blocks: BlockMap,
        *,
        plan: Plan,
        seed: int,
        curves: Curves,
        mix: MixSettings,
        combinations: Combinations | None,
        augment: Augment,
    ) -> None:
        """`plan` is the run's own: it says which rows meet in a global batch."""
        super().__init__(table, blocks)
        self.plan, self.seed, self.curves, self.mix = plan, seed, curves, mix
        self.combinations, self.augment = combinations, augment
        self._blend = lru_cache(maxsize=256)(self._draw_blend)

    def take(self, indices: Indices, epoch: int) -> Batch:
        """These rows as the epoch changes them."""
        table, features = self.table, self._augmented(indices, epoch)
        labels, blocks, valid = self.labels[indices], table.blocks[indices], table.valid[indices]
        mixed: dict[str, NDArray[np.generic]] = {}
        if self.curves.mix is not None:
            blends = self._blends(indices, epoch)
            partner, kept = _partners(indices, blends)
            is_mixed = partner != indices
            features = self._mix_features(features, partner, is_mixed, blends, epoch)
            labels, others = mixed_labels(labels, self.labels[partner], is_mixed)
            mixed = {"partner_labels": others, "lam": kept}
            blocks, valid = self._mix_blocks(blocks, valid, indices, partner, epoch)
        if self.combinations is not None:
            lost = self.lost(indices, epoch)
            valid = valid & ~lost
            blocks = np.where(lost[:, self.blocks.owner], np.float32(0), blocks)
        return _batch(indices, features, labels, blocks, valid, mixed)

    def known(self, indices: Indices, epoch: int) -> NDArray[np.int64]:
        """Rows with a target at each level `[K]`, after mixing: what each level's loss is divided by."""
        labels = self.labels[indices]
        if self.curves.mix is not None:
            partner, _ = self.partners(indices, epoch)
            labels, _ = mixed_labels(labels, self.labels[partner], partner != indices)
        return np.asarray((labels != UNKNOWN).sum(0), np.int64)

    def partners(self, indices: Indices, epoch: int) -> tuple[Indices, Floats]:
        """Partner of each row (itself where unmixed) and the share it keeps (1 there)."""
        return _partners(indices, self._blends(indices, epoch))

    def lost(self, indices: Indices, epoch: int) -> NDArray[np.bool_]:
        """Blocks `[B, num_blocks]` that training takes from each row."""
        assert self.combinations is not None
        p_all, p_partial = (
            self._at(course, indices, epoch) for course in (self.curves.mask_all, self.curves.mask_partial)
        )
        return self.combinations.lost(indices, derive(self.seed, "mask", epoch), p_all, p_partial)

    def _at(self, course: Course | None, indices: Indices, epoch: int) -> NDArray[np.float64]:
        """A curve's value at the step of each row; 0 without a curve."""
        if course is None:
            return np.zeros(len(indices))
        steps, places = np.unique(self._steps(indices, epoch), return_inverse=True)
        first = epoch * self.plan.num_steps(0)
        values = np.array([course.at(first + step) for step in steps.tolist()])
        return values[places]

    def _steps(self, indices: Indices, epoch: int) -> Indices:
        """The step within the epoch of each row."""
        return steps_of_samples(self.plan, len(self), epoch)[indices]  # type: ignore[arg-type]  # plans are hashable

    def _blends(self, indices: Indices, epoch: int) -> Blends:
        steps = self._steps(indices, epoch)
        pairs = [(np.flatnonzero(steps == step), self._blend(epoch, step)) for step in np.unique(steps).tolist()]
        return [(rows, blend) for rows, blend in pairs if blend is not None]

    def _draw_blend(self, epoch: int, step: int) -> Blend | None:
        assert self.curves.mix is not None
        rows = self.plan.batch(epoch, step)
        number = epoch * self.plan.num_steps(0) + step
        groups: Labels = self.labels[rows, int(self.curves.level.at(number))]
        blend = draw(number, rows, groups, self.curves.mix.at(number), self.mix.alpha, self.seed)
        if blend is None or not self.mix.cutmix:
            return blend
        return cut(blend, number, (self.table.features.shape[2], self.table.features.shape[3]), self.seed)

    def _augmented(self, rows: Indices, epoch: int) -> Floats:
        return self.augment(self.features(rows), rows, epoch)

    def _mix_features(
        self, features: Floats, partner: Indices, is_mixed: NDArray[np.bool_], blends: Blends, epoch: int
    ) -> Floats:
        if not is_mixed.any():
            return features
        others = self._augmented(partner[is_mixed], epoch)
        result = features.copy()
        from_mixed = np.cumsum(is_mixed) - 1
        for rows, blend in blends:
            own = rows[is_mixed[rows]]
            result[own] = blended(features[own], others[from_mixed[own]], blend)
        return result

    def _mix_blocks(
        self, blocks: Floats, valid: NDArray[np.bool_], indices: Indices, partner: Indices, epoch: int
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Whole blocks of the row or of its partner; never a blend of both."""
        coin = uniform(derive(self.seed, "coin", epoch), indices, 1)[:, 0] < 0.5
        takes = chosen_blocks(valid, self.table.valid[partner], coin)
        return (
            np.where(takes[:, self.blocks.owner], self.table.blocks[partner], blocks),
            np.where(takes, self.table.valid[partner], valid),
        )


def _partners(indices: Indices, blends: Blends) -> tuple[Indices, Floats]:
    partner, kept = indices.copy(), np.ones(len(indices), np.float32)
    for rows, blend in blends:
        by_row = np.argsort(blend.rows)
        place = by_row[np.searchsorted(blend.rows, indices[rows], sorter=by_row)]
        partner[rows] = blend.partner[place]
        kept[rows] = np.where(partner[rows] == indices[rows], np.float32(1), np.float32(blend.kept))
    return partner, kept


def _batch(
    indices: Indices,
    features: Floats,
    labels: Labels,
    blocks: Floats,
    valid: NDArray[np.bool_],
    mixed: Mapping[str, NDArray[np.generic]] | None = None,
) -> Batch:
    columns = {"features": features, "labels": labels, "blocks": blocks, "valid": valid, **(mixed or {})}
    columns["index"] = indices.copy()  # a plan's indices are shared, and read-only
    return {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}


def _not_zero(deviation: NDArray[np.float64]) -> Floats:
    return np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
