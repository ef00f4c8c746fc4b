"""Confusion matrices on matplotlib axes, for few classes (cells with counts) and for hundreds (dots)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RASTER_DPI = 140
DOT_PIXELS = 4.2
"""Side of the smallest dot: at 500 classes a class is 1.5 to 2 pixels wide, and a lone pixel is not seen."""
MAX_TICKS = 12


def paint_cells(axes: Any, counts: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Cells coloured by share of their row, each with its count."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = float(np.clip(220 / len(rows), 6.0, 9.5))
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if share[row, column] > 0.55 else "#1f2933"
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=size)
    axes.set_xticks(range(len(columns)), labels=columns, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.tick_params(labelsize=min(size + 0.5, 8.5), length=0)
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(visible=False)
    axes.set_xticks(np.arange(len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows)) - 0.5, minor=True)
    axes.grid(visible=True, which="minor", color="#eef1f4", linewidth=0.7)
    axes.tick_params(which="minor", length=0)
    _colorbar(axes, image, "share of the true class")


def paint_dots(axes: Any, counts: NDArray[np.int64], labels: Sequence[str]) -> None:
    """One dot a cell: confusions by the logarithm of their count, the diagonal by recall; `labels` name some ticks."""
    from matplotlib.colors import LogNorm

    num_classes = len(counts)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    count = wrong[true, predicted]
    order = np.argsort(count, kind="stable")  # the frequent ones on top
    scale = LogNorm(1, max(int(count.max(initial=1)), 10))
    area = _dot_area() * (1 + np.log2(count[order]))
    confusions = axes.scatter(
        predicted[order] + 1,
        true[order] + 1,
        s=area,
        c=count[order],
        cmap=_strong("Oranges"),
        norm=scale,
        marker="s",
        lw=0,
    )
    _paint_diagonal(axes, counts)
    axes.set(xlim=(0, num_classes + 1), ylim=(num_classes + 1, 0), xlabel="predicted class", ylabel="true class")
    axes.set_aspect("equal")
    ticks = _ticks(num_classes)
    axes.set_xticks(ticks, labels=[labels[tick - 1] for tick in ticks])
    axes.set_yticks(ticks, labels=[labels[tick - 1] for tick in ticks])
    bar = _colorbar(axes, confusions, "confusions (log scale)")
    powers = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
    bar.set_ticks([value for value in powers if value <= scale.vmax])
    bar.ax.yaxis.set_major_formatter("{x:.0f}")
    bar.ax.minorticks_off()


def _paint_diagonal(axes: Any, counts: NDArray[np.int64]) -> None:
    support = counts.sum(axis=1)
    present = np.flatnonzero(support)
    recall = np.diag(counts)[present] / support[present]
    diagonal = axes.scatter(
        present + 1,
        present + 1,
        s=_dot_area() * 1.6,
        c=recall,
        cmap=_strong("Blues"),
        vmin=0,
        vmax=1,
        marker="s",
        lw=0,
    )
    _colorbar(axes, diagonal, "recall (diagonal)")


def _dot_area() -> float:
    """Area of the smallest dot in square points."""
    return float((DOT_PIXELS * 72 / RASTER_DPI) ** 2)


def _strong(name: str) -> Any:
    """A sequential colour map without its palest part, which vanishes on white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(0.35, 1.0, 128)))


def _ticks(num_classes: int) -> list[int]:
    """Round positions from 1, about `MAX_TICKS` of them, with the first one."""
    step = next(s for s in (5, 10, 20, 25, 50, 100, 200, 500, 1000, 10**9) if num_classes / s <= MAX_TICKS)
    return [1, *range(step, num_classes + 1, step)]


def _colorbar(axes: Any, image: Any, label: str) -> Any:
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.62, aspect=28, pad=0.015)
    bar.set_label(label, fontsize=8.5)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    return bar
