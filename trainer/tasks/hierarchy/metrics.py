"""Metrics of a pass: what every row came to is collected in a table, everything else is read off it.

A batch gives its rows of the pass's table `[n, columns]`, so that all batches and ranks together give every row,
whatever the batch size and the number of processes. Labels are known beforehand. Unless a name says otherwise an answer
is the best class of a level on its own; `decoded` ones follow `decode.rule`. K levels from fine to coarse, n rows of
the pass, -1 unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.hierarchy import HierarchyDecode
from trainer.data.dataset import Batch
from trainer.engine.task import Placed
from trainer.tasks.classification import confusion_matrix, macro_f1, reliability, sparse
from trainer.tasks.hierarchy.criteria import Criterion
from trainer.tasks.hierarchy.decode import decode
from trainer.tasks.hierarchy.loss import Targets, level_loss
from trainer.tasks.hierarchy.tree import Tree
from trainer.telemetry.events import Metrics

COLUMNS = ("loss", "answer", "decoded", "confidence", "rank")
"""Of each level: cost; best class; class after decoding; probability of the best class; classes above the label."""
TOPS = (1, 3, 5)
NUM_WORST = 20
PERCENTILES = (1, 5, 25, 50, 75, 90, 95, 99)
"""Of the classes' training frequencies: the edges of the bins of rarity."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def batch_rows(
    log_p: Sequence[Tensor],
    batch: Batch,
    tree: Tree,
    settings: HierarchyDecode,
    criteria: Sequence[tuple[Criterion, Tensor | None]],
    size: int,
) -> Placed:
    """The rows of a batch, each at its `batch["index"]` in the table float32 `[size, K * COLUMNS + blocks]`.

    The last columns are the validity of each block as the model saw it.
    """
    targets, decoded, columns = Targets(batch["labels"]), decode(log_p, tree, settings), []
    for level, (own, (criterion, weights)) in enumerate(zip(log_p, criteria, strict=True)):
        confidence, answer = own.max(1)
        label = targets.labels[:, level].clamp(min=0)
        above = (own > own.gather(1, label[:, None])).sum(1)
        columns += [
            level_loss(own, targets, level, criterion, weights),
            answer,
            decoded[:, level],
            confidence.exp(),
            above,
        ]
    stacked = torch.stack([column.float() for column in [*columns, *batch["valid"].unbind(1)]], dim=1)
    return Placed(stacked, batch["index"], size)


@dataclass(frozen=True)
class Known:
    """What is known of the rows of a pass before it runs."""

    labels: Ints
    """`[n, K]`"""
    names: Sequence[str]
    """Of the rows."""
    tree: Tree
    blocks: Sequence[str]
    frequencies: Sequence[Ints]
    """Training rows of each class, by level."""
    subsets: Mapping[str, Ints] = field(default_factory=dict)
    """Named sets of finest classes."""


@dataclass(frozen=True)
class LevelRows:
    """One level of a finished table."""

    label: Ints
    known: NDArray[np.bool_]
    loss: Floats
    answer: Ints
    decoded: Ints
    confidence: Floats
    rank: Floats


def read_table(table: Tensor, known: Known) -> tuple[list[LevelRows], Floats]:
    """The levels, and the validity of the blocks `[blocks, n]`, out of a table."""
    values = table[: len(known.labels)].double().cpu().numpy().T
    levels = []
    for level in range(known.labels.shape[1]):
        loss, answer, decoded, confidence, rank = values[level * len(COLUMNS) : (level + 1) * len(COLUMNS)]
        label = known.labels[:, level]
        whole = answer.round().astype(np.int64), decoded.round().astype(np.int64)
        levels.append(LevelRows(label, label >= 0, loss, *whole, confidence, rank))
    return levels, values[len(levels) * len(COLUMNS) :]


def summarize_table(table: Tensor, known: Known) -> tuple[Metrics, dict[str, Any]]:
    """Metrics and detail of a pass out of its table (float64)."""
    levels, valid = read_table(table, known)
    metrics: Metrics = {}
    detail: dict[str, Any] = {"levels": {}}
    for level, (name, rows) in enumerate(zip(known.tree.levels, levels, strict=True)):
        numbers, shown = of_level(rows, level, known)
        metrics |= {f"{name}/{metric}": value for metric, value in numbers.items()}
        detail["levels"][name] = shown
    losses = [value for name in known.tree.levels if (value := metrics[f"{name}/loss"]) is not None]
    metrics["loss"] = sum(losses) if losses else None
    metrics |= chains(levels)
    metrics["consistency"], detail["consistency"] = consistency(levels, known.tree)
    metrics |= {f"valid_{name}": mean(row) for name, row in zip(known.blocks, valid, strict=True)}
    finest = levels[0]
    for name, classes in known.subsets.items():
        metrics[f"subset_{name}"] = mean(right(finest)[finest.known & np.isin(finest.label, classes)])
    detail["worst"] = worst(levels, known)
    names = metric_names(known.tree, known.blocks, list(known.subsets))
    return {name: metrics[name] for name in names}, detail


def of_level(rows: LevelRows, level: int, known: Known) -> tuple[Metrics, dict[str, Any]]:
    """What one level came to, over the rows known there, and what is drawn of it."""
    own = rows.known
    size = known.tree.num_classes[level]
    confusion = confusion_matrix(rows.label[own], rows.answer[own], size)
    bins, error = reliability(rows.confidence[own], right(rows)[own].astype(np.float64))
    steps = distances(known.tree, level, rows.label[own], rows.answer[own])
    support = confusion.sum(1)
    recall = np.diag(confusion)[support > 0] / support[support > 0]
    metrics: Metrics = {"loss": mean(rows.loss[own])}
    metrics |= {f"top{top}": mean(rows.rank[own] < top) for top in tops(known.tree, level)}
    metrics["top1"] = mean(right(rows)[own])  # where two classes are equal, the answer counts
    metrics |= {
        "decoded": mean((rows.decoded == rows.label)[own]),
        "balanced": mean(recall),
        "macro_f1": macro_f1(confusion),
        "distance": mean(steps),
        "error_distance": mean(steps[steps > 0]),
        "ece": error,
    }
    possible = 2 * np.arange(len(known.tree.levels) - level + 1)
    detail = {
        "known": int(own.sum()),
        "confusion": sparse(confusion),
        "calibration": bins,
        "distances": [[float(value), int((steps == value).sum())] for value in possible],
        "rarity": by_rarity(rows, known.frequencies[level]),
    }
    return metrics, detail


def right(rows: LevelRows) -> NDArray[np.bool_]:
    """Rows whose best class is the label."""
    found: NDArray[np.bool_] = rows.answer == rows.label
    return found


def chains(levels: Sequence[LevelRows]) -> Metrics:
    """Shares of rows that are right at every level: of those known at all, and of those known at any (there only)."""
    known = np.stack([rows.known for rows in levels])
    found: Metrics = {}
    for prefix, answers in (("", [rows.answer for rows in levels]), ("decoded_", [rows.decoded for rows in levels])):
        fits = np.stack(answers) == np.stack([rows.label for rows in levels])
        found[f"{prefix}chain"] = mean(np.all(fits, axis=0)[np.all(known, axis=0)])
        found[f"{prefix}known_chain"] = mean(np.all(fits | ~known, axis=0)[np.any(known, axis=0)])
    return found


def consistency(levels: Sequence[LevelRows], tree: Tree) -> tuple[float | None, dict[str, float | None]]:
    """Share of answers whose parent is the answer one level up: of all pairs of levels, and of each."""
    fits = {
        f"{tree.levels[level]} in {tree.levels[level + 1]}": tree.parents[level][levels[level].answer]
        == levels[level + 1].answer
        for level in range(len(levels) - 1)
    }
    if not fits:
        return None, {}
    return mean(np.concatenate(list(fits.values()))), {name: mean(values) for name, values in fits.items()}


def by_rarity(rows: LevelRows, frequencies: Ints) -> list[list[float]]:
    """`[lowest, highest frequency, classes, rows, top1]` over bins of the classes' training frequency."""
    edges = np.unique(np.percentile(frequencies, PERCENTILES))
    which = np.searchsorted(edges, frequencies, side="left")
    table = []
    for number in np.unique(which):
        classes = np.flatnonzero(which == number)
        inside = rows.known & np.isin(rows.label, classes)
        if inside.any():
            low, high = frequencies[classes].min(), frequencies[classes].max()
            share = float(right(rows)[inside].mean())
            table.append([float(low), float(high), float(len(classes)), float(inside.sum()), share])
    return table


def worst(levels: Sequence[LevelRows], known: Known) -> list[dict[str, Any]]:
    """The rows with the greatest loss over their known levels: name, loss, labels and answers, fine to coarse."""
    total = np.sum([np.where(rows.known, rows.loss, 0.0) for rows in levels], axis=0)
    chosen = np.argsort(-total, kind="stable")[:NUM_WORST].tolist()
    return [
        {
            "name": known.names[row],
            "loss": float(total[row]),
            "labels": known.labels[row].tolist(),
            "answers": [int(rows.decoded[row]) for rows in levels],
        }
        for row in chosen
    ]


def mean(values: NDArray[Any]) -> float | None:
    """The mean, or None of nothing."""
    return float(values.mean()) if len(values) else None


def distances(tree: Tree, level: int, one: Ints, other: Ints) -> Floats:
    """Steps through the tree between classes of a level, by pairs; different trees meet at a root above them all."""
    found = tree.pair_distances(level, one, other).astype(np.float64)
    return np.where(np.isfinite(found), found, 2.0 * (len(tree.levels) - level))


def metric_names(tree: Tree, blocks: Sequence[str], subsets: Sequence[str]) -> dict[str, str]:
    """The closed set of metrics with the better direction of each, the telling ones first."""
    names = {"loss": "min"} | {f"{level}/top1": "max" for level in tree.levels}
    names |= dict.fromkeys(("chain", "known_chain", "decoded_chain", "decoded_known_chain", "consistency"), "max")
    for level, name in enumerate(tree.levels):
        higher = [f"top{top}" for top in tops(tree, level)[1:]]
        names |= {f"{name}/{metric}": "max" for metric in ("balanced", "macro_f1", "decoded", *higher)}
        names |= {f"{name}/{metric}": "min" for metric in ("loss", "distance", "error_distance", "ece")}
    names |= {f"subset_{name}": "max" for name in subsets}
    return names | {f"valid_{name}": "max" for name in blocks}


def tops(tree: Tree, level: int) -> list[int]:
    """1, 3, 5, as far as a level has more classes."""
    return [top for top in TOPS if top == 1 or top < tree.num_classes[level]]
