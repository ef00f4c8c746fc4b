"""Metrics of a pass: what every recording came to is collected as one row, everything else is read off the rows.

A batch gives its rows of the pass's table `[size, COLUMNS]`, so that all batches and ranks together give each
recording's row, whatever the batch size and the number of processes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainer.data.dataset import Batch
from trainer.engine.task import Placed
from trainer.tasks.classification import confusion_matrix, macro_f1, reliability, sparse
from trainer.telemetry.events import Metrics

COLUMNS = ("loss", "top1", "top5", "prediction", "confidence", "missing")
"""Cross-entropy; right (0 or 1); among the first five; predicted class; its probability; share of hands missing."""
NUM_WORST = 20
NUM_GROUPS = 6
"""Bars of accuracy by length."""
_TOP = 5

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def batch_rows(logits: Tensor, batch: Batch, hands: tuple[int, ...], size: int) -> Placed:
    """The rows of a batch in the table float32 `[size, COLUMNS]`; `batch["index"]` says where each belongs."""
    logits, label = logits.float(), batch["label"]
    probabilities = logits.softmax(1)
    confidence, prediction = probabilities.max(1)
    best = logits.topk(min(_TOP, logits.shape[1]), 1).indices
    columns = torch.stack(
        [
            functional.cross_entropy(logits, label, reduction="none"),
            (prediction == label).float(),
            (best == label[:, None]).any(1).float(),
            prediction.float(),
            confidence,
            missing_share(batch["present"], hands),
        ],
        dim=1,
    )
    return Placed(columns, batch["index"], size)


def missing_share(present: Tensor, hands: tuple[int, ...]) -> Tensor:
    """Share `[b]` of hands not found, over the frames that hold anything."""
    frames = present.any(2)
    lost = (~present[:, :, list(hands)]).float().mean(2) * frames
    return lost.sum(1) / frames.sum(1).clamp(min=1)


@dataclass(frozen=True)
class Known:
    """What is known of the recordings of a pass, by position: `[n]` columns, and the names of classes and signers."""

    label: Ints
    signer: Ints
    length: Ints
    names: list[str]
    signers: list[str]
    classes: list[list[Any]]
    """`[word, name, native]` of every class; the axis of every table, absent classes included."""


def summarize_table(table: Tensor, known: Known) -> tuple[Metrics, dict[str, Any]]:
    """Metrics and detail of a pass out of its table (float64)."""
    size = len(known.label)
    rows = dict(zip(COLUMNS, table[:size].double().cpu().numpy().T, strict=True))
    prediction = rows["prediction"].round().astype(np.int64)
    confusion = confusion_matrix(known.label, prediction, len(known.classes))
    calibration, error = reliability(rows["confidence"], rows["top1"])
    metrics: Metrics = {name: _mean(rows[name]) for name in ("loss", "top1", "top5")}
    metrics["macro_f1"] = macro_f1(confusion)
    metrics["top_prediction_share"] = float(confusion.sum(0).max() / size) if size else None
    metrics["ece"] = error
    per_signer = by_signer(rows["top1"], known)
    metrics.update({f"top1_signer_{name}": per_signer.get(name, {}).get("top1") for name in known.signers})
    detail = {
        "classes": known.classes,
        "confusion": sparse(confusion),
        "per_signer": per_signer,
        "calibration": calibration,
        "ece": error,
        "worst": worst(rows["loss"], prediction, known),
        "by_length": by_range(known.length.astype(np.float64), rows["top1"]),
        "by_missing": by_range(rows["missing"], rows["top1"], np.array([0.0, 1e-9, 0.05, 0.1, 0.25, 0.5, 1.0])),
    }
    return metrics, detail


def metric_names(signers: list[str]) -> dict[str, str]:
    """The closed set of metrics with the better direction of each."""
    names = {"loss": "min", "top1": "max", "top5": "max", "macro_f1": "max", "ece": "min"}
    names["top_prediction_share"] = "min"
    return names | {f"top1_signer_{name}": "max" for name in signers}


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def by_signer(right: Floats, known: Known) -> dict[str, dict[str, float]]:
    """Recordings and top-1 of every signer that the pass holds."""
    found = {}
    for number, name in enumerate(known.signers):
        own = right[known.signer == number]
        if len(own):
            found[name] = {"count": len(own), "top1": float(own.mean())}
    return found


def worst(loss: Floats, prediction: Ints, known: Known) -> list[list[Any]]:
    """`[recording, true, predicted, loss]` of the recordings with the greatest loss."""
    order = np.argsort(-loss, kind="stable")[:NUM_WORST].tolist()
    return [[known.names[i], int(known.label[i]), int(prediction[i]), float(loss[i])] for i in order]


def by_range(values: Floats, right: Floats, edges: Floats | None = None) -> list[list[float]]:
    """`[low, high, count, top1]` over ranges of `values`: given edges, else about equal numbers of recordings."""
    if not len(values):
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, NUM_GROUPS + 1))) if edges is None else edges
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    table = []
    for number in range(max(len(edges) - 1, 1)):
        inside = right[which == number]
        if len(inside):
            low, high = float(edges[number]), float(edges[min(number + 1, len(edges) - 1)])
            table.append([low, high, len(inside), float(inside.mean())])
    return table
