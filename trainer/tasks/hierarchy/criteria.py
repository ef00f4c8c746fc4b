"""What a row costs at a level, and how much its class counts.

A criterion takes log-probabilities `[b, c]` and labels `[b]` and gives a cost a row; what it says for an unknown
label (-1, looked up as class 0) is for the caller to leave out.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.hierarchy import HierarchyLoss
from trainer.errors import SettingsError
from trainer.tasks.hierarchy.tree import Tree

Criterion = Callable[[Tensor, Tensor], Tensor]
Floats = NDArray[np.float64]


def cross_entropy(log_p_bc: Tensor, label_b: Tensor) -> Tensor:
    """Minus the log-probability of the label."""
    return -log_p_bc.gather(1, label_b.clamp(min=0)[:, None])[:, 0]


def label_smoothing(epsilon: float) -> Criterion:
    """The label has 1 - epsilon, every other class epsilon / (C - 1)."""

    def cost(log_p_bc: Tensor, label_b: Tensor) -> Tensor:
        right = cross_entropy(log_p_bc, label_b)
        others = log_p_bc.shape[1] - 1
        if not others:
            return right
        return (1.0 - epsilon) * right + epsilon / others * (-log_p_bc.sum(1) - right)

    return cost


def soft_target(table: NDArray[np.float32]) -> Criterion:
    """Row `y` of `table` `[c, c]` is the target of a row with label `y`."""
    tables = {torch.device("cpu"): torch.from_numpy(table)}

    def cost(log_p_bc: Tensor, label_b: Tensor) -> Tensor:
        own = tables.setdefault(log_p_bc.device, tables[torch.device("cpu")].to(log_p_bc.device))
        return -(own[label_b.clamp(min=0)] * log_p_bc).sum(1)

    return cost


def build_criteria(settings: HierarchyLoss, tree: Tree) -> list[Criterion]:
    """The criterion of every level, fine to coarse."""
    return [_criterion(settings, tree, level) for level in range(len(tree.levels))]


def _criterion(settings: HierarchyLoss, tree: Tree, level: int) -> Criterion:
    kind = settings.criteria.get(tree.levels[level], settings.criterion)
    if kind == "label_smoothing":
        return label_smoothing(settings.label_smoothing)
    if kind == "tree_smoothing":
        return soft_target(tree.smoothed(level, settings.tree_alpha, settings.tree_beta))
    return cross_entropy


Formula = Literal["inverse", "capped", "exponential", "log"]
_CAP = 20.0


def computed_weights(kind: Formula, counts: NDArray[np.int64]) -> Floats:
    """Weights `[c]` from the training rows of each class, mean 1 over the classes that have any; 1 for the others."""
    present = counts > 0
    number, total = counts[present].astype(np.float64), float(counts.sum())
    if not len(number):
        return np.ones(len(counts))
    if kind == "inverse":
        raw = total / (number + 0.1)
    elif kind == "capped":
        raw = np.minimum(total / number, _CAP)
    elif kind == "log":
        raw = 1.0 / (1.0 + np.log10(9.0 * number / total + 1.0))
    else:  # 2^(N / n) overflows for rare classes; the factor 2^max goes out with the mean
        powers = total / number
        raw = np.exp2(powers - powers.max())
    weights = np.ones(len(counts))
    weights[present] = raw / raw.mean()
    return weights


def class_weights(settings: HierarchyLoss, tree: Tree, labels: NDArray[np.int64]) -> list[Tensor | None]:
    """Weights float32 `[c]` of every level, or None; `labels` int64 `[n, K]` of the training rows."""
    if settings.class_weights == "none":
        return [None] * len(tree.levels)
    if settings.class_weights == "explicit":
        return [_explicit(settings.weights.get(name, {}), tree, level) for level, name in enumerate(tree.levels)]
    kind, found = settings.class_weights, []
    for level, size in enumerate(tree.num_classes):
        own = labels[:, level]
        found.append(torch.from_numpy(computed_weights(kind, np.bincount(own[own >= 0], minlength=size))).float())
    return list(found)


def _explicit(given: Mapping[str, float], tree: Tree, level: int) -> Tensor | None:
    """Weights as they stand. Raises SettingsError for a class that there is not."""
    names = list(tree.names[level])
    unknown = [name for name in given if name not in names]
    if unknown:
        where, known = f"loss.weights.{tree.levels[level]}", ", ".join(names[:20])
        raise SettingsError(f"{where} names the class {unknown[0]!r}; there are: {known}{' ...' * (len(names) > 20)}")
    return torch.tensor([given.get(name, 1.0) for name in names]) if given else None
