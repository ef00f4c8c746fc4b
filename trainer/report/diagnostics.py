"""The two files beside a report of any classifier: the diagnostics picture and the classification table.

    classification_csv(classification) -> bytes            classification_report.csv
    diagnostics_picture(classification, title) -> bytes    <stem>-Model_Diagnostics.jpg

Both need the confusion counts and the names alone, so they also serve a foreign model of `train(...)`. Every class
keeps its place: an absent one has support 0 and scores 0, and no chart shifts names.
"""

import csv
import io
from typing import Any

import numpy as np

from trainer.report.draw import COLORS, MUTED, plain, render
from trainer.tasks.classification import LOW_F1, Scores, confused_pairs, scores
from trainer.tasks.page import Class, Classification, Floats

CSV_HEAD = ("class", "word", "name", "native", "precision", "recall", "f1-score", "support")
PICTURE_INCHES = (20.0, 12.0)
PICTURE_DPI = 150
NUM_PAIRS = 20
MAX_SHARP_CLASSES = 150
"""Classes up to which a cell has several pixels; beyond, lone cells are grown so that they can be seen."""


def classification_csv(classification: Classification) -> bytes:
    """UTF-8 table: one row a class, then accuracy (in the F1 column), macro and weighted averages."""
    result = scores(classification.confusion)
    total = int(result.support_c.sum())
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for number, named in enumerate(classification.classes):
        numbers = [f"{values[number]:.6f}" for values in (result.precision_c, result.recall_c, result.f1_c)]
        support = int(result.support_c[number])
        writer.writerow([number, named.word, named.name, named.native, *numbers, support])
    writer.writerow(["accuracy", "", "", "", "", "", f"{result.accuracy:.6f}", total])
    for name, average in (("macro avg", result.macro), ("weighted avg", result.weighted)):
        writer.writerow([name, "", "", "", *(f"{value:.6f}" for value in average), total])
    return buffer.getvalue().encode()


def diagnostics_picture(classification: Classification, title: str) -> bytes:
    """JPEG of 20 x 12 inches: confusion as heat map, F1 by class, the most frequent confusions."""
    result = scores(classification.confusion)

    def paint(figure: Any) -> None:
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.55), height_ratios=(1.12, 1))
        figure.suptitle(plain(title, limit=140), fontsize=15, x=0.01, ha="left")
        _paint_heat(figure.add_subplot(grid[0, 0]), classification)
        _paint_f1(figure.add_subplot(grid[0, 1]), classification, result)
        _paint_pairs(figure.add_subplot(grid[1, :]), classification)

    return render(paint, size=PICTURE_INCHES, kind="jpg", dpi=PICTURE_DPI)


def _paint_heat(axes: Any, classification: Classification) -> None:
    from matplotlib.colors import PowerNorm

    confusion = classification.confusion
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    if len(confusion) > MAX_SHARP_CLASSES:
        share = _grown(share)
    # The root lifts rare confusions out of the white.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.4, 0, 1), interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlabel="predicted", ylabel="true")
    axes.set_title(f"Confusion matrix, {len(confusion)} classes", fontsize=13, loc="left")
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")


def _grown(share: Floats) -> Floats:
    """Each cell takes the largest value of its 3 x 3 neighbours."""
    padded = np.pad(share, 1)
    rows, columns = share.shape
    moved = [padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    grown: Floats = np.max(moved, axis=0)
    return grown


def _paint_f1(axes: Any, classification: Classification, result: Scores) -> None:
    word = np.array([named.word for named in classification.classes])
    present = result.support_c > 0
    low = present & (result.f1_c < LOW_F1)
    size = 46 if len(word) <= 100 else 22
    axes.axhline(LOW_F1, color=MUTED, linewidth=0.9, linestyle="--")
    axes.scatter(word[present & ~low], result.f1_c[present & ~low], s=size, color=COLORS[0], label=f"F1 ≥ {LOW_F1}")
    axes.scatter(word[low], result.f1_c[low], s=size, color="#d62728", marker="D", label=f"F1 < {LOW_F1}")
    if not present.all():
        axes.scatter(
            word[~present], result.f1_c[~present], s=size, facecolors="none", edgecolors=MUTED, label="no sample"
        )
    axes.set(ylim=(-0.05, 1.05), xlabel="word", ylabel="F1")
    axes.set_title(f"F1 by class, mean {result.macro[2]:.3f}, accuracy {result.accuracy:.3f}", fontsize=13, loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)


def _paint_pairs(axes: Any, classification: Classification) -> None:
    pairs = confused_pairs(classification.confusion, NUM_PAIRS)
    names = [f"{_name(classification.classes[t])}\n-> {_name(classification.classes[p])}" for t, p, _ in pairs]
    axes.set_title(f"The {len(pairs)} most frequent confusions, true -> predicted", fontsize=13, loc="left")
    axes.set_ylabel("clips")
    axes.grid(visible=False, axis="x")
    if not pairs:
        axes.text(0.5, 0.5, "no confusion", ha="center", va="center", transform=axes.transAxes, color=MUTED)
        axes.set(xticks=[], yticks=[])
        return
    bars = axes.bar(range(len(pairs)), [count for _, _, count in pairs], color=COLORS[1], width=0.7)
    axes.bar_label(bars, padding=2)
    axes.set_xticks(range(len(pairs)), labels=names, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
    axes.yaxis.get_major_locator().set_params(integer=True)


def _name(named: Class) -> str:
    return f"{named.word} {plain(named.name)}".strip()
