"""Numbers of a classification, from its confusion counts alone.

Counts are `confusion[true, predicted]` over a fixed axis of all C classes: a class that never occurs keeps its place
with support 0 and scores 0 (zero division is 0). c stands for classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import SettingsError
from trainer.tasks.page import Class, Floats

Counts = NDArray[np.int64]
LOW_F1 = 0.5
"""A class below this needs a look."""
NUM_BINS = 15
"""Of the reliability diagram (Guo et al. 2017)."""


@dataclass(frozen=True)
class Scores:
    """Precision, recall and F1 per class `[C]` and averaged, as scikit-learn defines them."""

    precision_c: Floats
    recall_c: Floats
    f1_c: Floats
    support_c: Counts
    accuracy: float
    macro: tuple[float, float, float]
    """Plain mean of precision, recall, F1 over all C classes."""
    weighted: tuple[float, float, float]
    """Mean weighted by support."""


def scores(confusion: Counts) -> Scores:
    """Precision, recall, F1, support of each class, accuracy, macro and weighted averages."""
    total = int(confusion.sum())
    if total == 0:
        zero = np.zeros(len(confusion))
        return Scores(zero, zero, zero, confusion.sum(axis=1), 0.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    precision_c, recall_c, f1_c, _ = _sklearn_scores(confusion, None)
    macro, weighted = (_sklearn_scores(confusion, average)[:3] for average in ("macro", "weighted"))
    accuracy = float(np.trace(confusion)) / total
    return Scores(precision_c, recall_c, f1_c, confusion.sum(axis=1), accuracy, macro, weighted)


def confusion_matrix(label: Counts, prediction: Counts, num_classes: int) -> Counts:
    """Counts `[true, predicted]` over all classes."""
    flat = np.bincount(label * num_classes + prediction, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def sparse(confusion: Counts) -> list[list[int]]:
    """`[true, predicted, count]` of every cell that is not empty."""
    cells = np.argwhere(confusion)
    rows: list[list[int]] = np.column_stack([cells, confusion[cells[:, 0], cells[:, 1]]]).tolist()
    return rows


def from_cells(cells: Sequence[Sequence[int]], num_classes: int) -> Counts:
    """The dense counts of a sparse list of `[true, predicted, count]`."""
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    if len(cells):
        true, predicted, count = np.asarray(cells, dtype=np.int64).T
        np.add.at(confusion, (true, predicted), count)
    return confusion


def confused_pairs(confusion: Counts, limit: int) -> list[tuple[int, int, int]]:
    """The most frequent mistakes as (true, predicted, count), the most frequent first, ties in class order."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    count = wrong[true, predicted]
    order = np.argsort(-count, kind="stable")[:limit]
    return [(int(true[i]), int(predicted[i]), int(count[i])) for i in order]


def confused_classes(confusion: Counts, limit: int) -> list[int]:
    """The classes of the most frequent mistakes, as truth or as answer, in class order; at most `limit`."""
    chosen: dict[int, None] = {}
    for true, predicted, _ in confused_pairs(confusion, limit):
        chosen.update({true: None, predicted: None})
    return sorted(list(chosen)[:limit])


def macro_f1(confusion: Counts) -> float | None:
    """Mean F1 over the classes that occur; a class that is never predicted has F1 0."""
    support, predicted, right = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    present = support > 0
    if not present.any():
        return None
    scores = 2.0 * right / np.maximum(support + predicted, 1)
    return float(scores[present].mean())


def reliability(confidence: Floats, right: Floats) -> tuple[list[list[float]], float | None]:
    """Bins `[low, high, count, mean confidence, accuracy]` (empty ones left out) and the expected calibration error."""
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    table, error = [], 0.0
    for number in range(NUM_BINS):
        inside = bins == number
        count = int(inside.sum())
        if count:
            mean, accuracy = float(confidence[inside].mean()), float(right[inside].mean())
            table.append([number / NUM_BINS, (number + 1) / NUM_BINS, count, mean, accuracy])
            error += count * abs(mean - accuracy)
    return table, error / len(right) if len(right) else None


def calibration_error(bins: Sequence[Sequence[float]]) -> float | None:
    """Expected calibration error of rows `[low, high, count, mean confidence, accuracy]`; None without samples.

    ECE = sum over bins of count / total * |accuracy - confidence| (Guo et al. 2017, arXiv 1706.04599).
    """
    filled = [row for row in bins if row[2] > 0]
    total = sum(row[2] for row in filled)
    return sum(row[2] / total * abs(row[4] - row[3]) for row in filled) if total else None


def class_list(info: dict[str, Any], detail: dict[str, Any]) -> list[Class]:
    """The classes of a pass: `[word, name, native]` rows in its detail, else the run's `info["classes"]`."""
    rows = detail.get("classes") or [(c["word"], c["name"], c["native"]) for c in info.get("classes", [])]
    return [Class(int(word), str(name), str(native)) for word, name, native in rows]


def _sklearn_scores(confusion: Counts, average: str | None) -> Any:
    """scikit-learn's scores with each cell of the counts as one weighted sample."""
    try:
        from sklearn.metrics import precision_recall_fscore_support  # type: ignore[import-untyped]
    except ImportError as error:
        raise SettingsError("a report needs scikit-learn: pip install 'signs-trainer[report]'") from error
    true, predicted = np.nonzero(confusion)
    return precision_recall_fscore_support(
        true,
        predicted,
        labels=np.arange(len(confusion)),
        sample_weight=confusion[true, predicted],
        average=average,
        zero_division=0,
    )
