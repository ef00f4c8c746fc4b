"""The loss of every level as a sum over the rows whose label is known there.

With mixed rows a label is known where both rows know it, and costs lam of the one and 1 - lam of the other. A level
without a known row adds exactly 0 and gives its head exactly zero gradient, because what is left out is replaced by
a constant and not multiplied. b rows, k levels, c classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.dataset import Batch
from trainer.tasks.hierarchy.criteria import Criterion


@dataclass(frozen=True)
class Targets:
    """What a batch's rows should be answered with."""

    labels: Tensor
    """int64 `[b, k]`, -1 unknown."""
    partners: Tensor | None = None
    """Labels of the row that each is mixed with."""
    lam: Tensor | None = None
    """`[b]`: the share that is the row's own; 1 where it is not mixed."""

    @classmethod
    def of(cls, batch: Batch) -> "Targets":
        """The targets in a batch."""
        return cls(batch["labels"], batch.get("partner_labels"), batch.get("lam"))

    def known(self, level: int) -> Tensor:
        """Bool `[b]`: both labels are known at the level."""
        known = self.labels[:, level] >= 0
        return known if self.partners is None else known & (self.partners[:, level] >= 0)

    def blend(self, own: Tensor, partner: Tensor) -> Tensor:
        """The share of the one and the rest of the other."""
        assert self.lam is not None, "rows that are mixed have a share"
        return self.lam * own + (1.0 - self.lam) * partner


def level_loss(
    log_p_bc: Tensor, targets: Targets, level: int, criterion: Criterion, weights_c: Tensor | None = None
) -> Tensor:
    """Cost of each row `[b]` at a level, times the weight of its class; 0 where the label is unknown."""

    def cost(label_b: Tensor) -> Tensor:
        each = criterion(log_p_bc, label_b)
        return each if weights_c is None else each * weights_c.to(each.device)[label_b.clamp(min=0)]

    each = cost(targets.labels[:, level])
    if targets.partners is not None:
        each = targets.blend(each, cost(targets.partners[:, level]))
    return torch.where(targets.known(level), each, torch.zeros_like(each))


def level_sums(
    log_p: Sequence[Tensor], targets: Targets, criteria: Sequence[Criterion], weights: Sequence[Tensor | None]
) -> list[Tensor]:
    """The sum of each level's costs over the batch, fine to coarse."""
    pairs = enumerate(zip(log_p, criteria, weights, strict=True))
    return [level_loss(own, targets, level, criterion, weight).sum() for level, (own, criterion, weight) in pairs]


def right_sums(log_p: Sequence[Tensor], targets: Targets) -> list[Tensor]:
    """How many known rows the best class of each level answers right; of mixed rows the shares of both labels."""
    found = []
    for level, own in enumerate(log_p):
        answer = own.detach().argmax(1)
        right = (answer == targets.labels[:, level]).float()
        if targets.partners is not None:
            right = targets.blend(right, (answer == targets.partners[:, level]).float())
        found.append((right * targets.known(level)).sum())
    return found
