"""Report sections of the errors of a pass: confusion of each level by the tree, how far off, and rare classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.tasks.classification import from_cells
from trainer.tasks.hierarchy.metrics import Ints
from trainer.tasks.hierarchy.tree import Tree
from trainer.tasks.page import LABELLED_CLASSES, Beside, Cell, Draw, Part, Picture, Section, Table, Text

KINDS = ("right", "sibling", "farther off")
NUM_PAIRS = 10


def sections(name: str, detail: dict[str, Any], tree: Tree, draw: Draw) -> list[Section]:
    """Confusion, distances and rarity of the pass `name`."""
    found = []
    for level, level_name in enumerate(tree.levels):
        shown = detail["levels"][level_name]
        if shown["known"]:
            found.append(Section(f"Confusion: {level_name}", _confusion(name, shown, tree, level, draw)))
    known = [level for level in tree.levels if detail["levels"][level]["known"]]
    if known:
        pictures = [_distances(detail["levels"][level]["distances"], level, draw) for level in known]
        found.append(Section("How far off", pictures))
        found.append(Section("Rare classes", [_rarity(detail["levels"][level], level, draw) for level in known]))
    return found


def order_of(tree: Tree, level: int) -> Ints:
    """Classes of a level so that those below one class stand together, from the coarsest level down."""
    table = tree.ancestors[level]
    return np.lexsort([table[:, above] for above in range(level, len(tree.levels))])


def kinds_of(tree: Tree, level: int, true: Ints, predicted: Ints) -> Ints:
    """Places in `KINDS` of pairs of classes; without a level above, nobody has siblings."""
    kinds = np.where(true == predicted, 0, 2)
    if level + 1 < len(tree.levels):
        parents = tree.parents[level]
        is_sibling = (parents[true] == parents[predicted]) & (parents[true] >= 0) & (true != predicted)
        kinds[is_sibling] = 1
    return kinds


def _confusion(name: str, shown: dict[str, Any], tree: Tree, level: int, draw: Draw) -> list[Part]:
    cells = np.asarray(shown["confusion"], np.int64).reshape(-1, 3)
    kinds = kinds_of(tree, level, cells[:, 0], cells[:, 1])
    totals = np.bincount(kinds, weights=cells[:, 2], minlength=len(KINDS)).astype(int)
    text = f"Pass {name}: {totals.sum():,} known rows, {totals[0]:,} right"
    if level + 1 < len(tree.levels):
        text += f", {totals[1]:,} taken for a sibling, {totals[2]:,} farther off."
    else:
        text += f", {totals[2]:,} wrong."
    confusion = from_cells(shown["confusion"], tree.num_classes[level])
    return [Text(text), _matrix(confusion, tree, level, draw), *_pairs(cells, kinds, tree, level)]


def _matrix(confusion: Ints, tree: Tree, level: int, draw: Draw) -> Picture:
    """Cells in the order of the tree: blue right, orange taken for a sibling, vermilion farther off."""
    order = order_of(tree, level)
    counts = confusion[np.ix_(order, order)]
    names = [tree.names[level][c] for c in order]
    is_small = len(order) <= LABELLED_CLASSES
    side = 2.6 + 0.3 * max(len(order), 8) if is_small else 8.9

    def paint(axes: Any) -> None:
        true, predicted = np.nonzero(counts)
        kinds = kinds_of(tree, level, order[true], order[predicted])
        share = counts[true, predicted] / counts.sum(1)[true]
        colors = draw.colors[0], draw.colors[3], draw.bad
        picture = np.ones((len(order), len(order), 3))
        for kind, color in enumerate(colors):
            own = kinds == kind
            strength = (0.2 + 0.8 * share[own])[:, None]
            picture[true[own], predicted[own]] = 1 - strength * (1 - np.array(_rgb(color)))
        axes.imshow(picture, aspect="equal", interpolation="nearest")
        _paint_families(axes, tree, level, order, draw.muted)
        if is_small:
            for row, column, part in zip(true, predicted, share, strict=True):
                ink = "white" if part > 0.6 else "#1f2933"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=7.5)
            axes.set_xticks(range(len(order)), labels=names, rotation=55, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(order)), labels=names)
        words = KINDS if level + 1 < len(tree.levels) else ("right", "", "wrong")
        for word, color in zip(words, colors, strict=True):
            if word:
                axes.plot([], [], "s", color=color, label=word)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(visible=False)

    caption = "Colour is the share of the true class; lines part the classes by the level above."
    return draw.paint(
        paint,
        alt=f"Confusion of {tree.levels[level]} in the order of the tree",
        caption=caption,
        size=(min(side + 1.0, 11.0), min(side, 11.0)),
        wide=len(order) > 12,
        raster=not is_small,
    )


def _rgb(color: str) -> tuple[float, float, float]:
    """Parts of `#rrggbb` between 0 and 1."""
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def _paint_families(axes: Any, tree: Tree, level: int, order: Ints, color: str) -> None:
    """Lines between classes of different parents."""
    if level + 1 == len(tree.levels):
        return
    parents = tree.parents[level][order]
    for place in np.flatnonzero(parents[1:] != parents[:-1]) + 0.5:
        axes.axvline(place, color=color, linewidth=0.6)
        axes.axhline(place, color=color, linewidth=0.6)


def _pairs(cells: Ints, kinds: Ints, tree: Tree, level: int) -> list[Part]:
    """The most frequent mistakes, siblings and others apart."""
    tables = []
    for kind in (1, 2):
        own = cells[kinds == kind]
        own = own[np.argsort(-own[:, 2], kind="stable")][:NUM_PAIRS]
        rows: list[list[Cell]] = [[tree.names[level][t], tree.names[level][p], int(n)] for t, p, n in own.tolist()]
        if rows:
            caption = f"Taken for a {KINDS[kind]}" if kind == 1 else "Taken for another class, no sibling"
            tables.append(Table(("true", "predicted", "rows"), rows, f"{caption}: the most frequent."))
    return [Beside(*tables)] if len(tables) == 2 else list(tables)


def _distances(rows: Sequence[Sequence[float]], level: str, draw: Draw) -> Picture:
    """How many rows are how many steps of the tree off."""
    return draw.columns(
        [f"{distance:g}" for distance, _ in rows],
        [float(count) for _, count in rows],
        texts=[f"{int(count):,}" for _, count in rows],
        x_label=f"steps through the tree from the {level} to the answer",
        y_label="rows",
        alt=f"Distances of answers at {level}",
        caption=f"{level}: 0 is right, 2 a sibling; different trees count as if a root joined them.",
    )


def _rarity(shown: dict[str, Any], level: str, draw: Draw) -> Picture:
    """Accuracy over bins of the classes' frequency in training."""
    rows = shown["rarity"]
    labels = [f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}" for low, high, *_ in rows]
    return draw.columns(
        labels,
        [row[4] for row in rows],
        texts=[f"{int(row[3]):,}" for row in rows],
        x_label=f"training rows of the {level} class",
        y_label="top-1",
        limit=1.0,
        alt=f"Top-1 of {level} by frequency in training",
        caption=f"{level}: top-1 of rare and frequent classes; above each bar its rows.",
    )
