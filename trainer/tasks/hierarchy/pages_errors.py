"""Report sections of the errors of a pass: confusion of each level by the tree, how far off, and rare classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.tasks.classification import from_cells
from trainer.tasks.hierarchy.metrics import Ints
from trainer.tasks.hierarchy.tree import Tree
from trainer.tasks.page import (
    LABELLED_CLASSES,
    Beside,
    Cell,
    Details,
    Draw,
    Part,
    Picture,
    Section,
    Table,
    Text,
    told_apart,
)

KINDS = ("right", "sibling", "farther off")
NUM_PAIRS = 10
MAX_OPEN = 4
"""Levels whose confusion is not folded away."""
MAX_COUNTED = 4
"""Levels whose bars have room for their numbers."""
MAX_FAMILIES = 45
"""Classes of a level above that have room at the axes of a matrix whose own classes have none."""
DOT_AREA = 4.0
"""Square points of a cell of such a matrix at least, so that a lone one is seen."""
DOT_SPAN = 480.0
"""Points along a side of such a matrix."""


def sections(name: str, detail: dict[str, Any], tree: Tree, draw: Draw) -> list[Section]:
    """Confusion, distances and rarity of the pass `name`."""
    known = [level for level in tree.levels if detail["levels"][level]["known"]]
    confusions = {
        level: _confusion(name, detail["levels"][level], tree, tree.levels.index(level), draw) for level in known
    }
    found = [Section(f"Confusion: {level}", confusions[level]) for level in known[:MAX_OPEN]]
    if known[MAX_OPEN:]:
        folded = [Details(level, confusions[level]) for level in known[MAX_OPEN:]]
        found.append(Section("Confusion: coarser levels", folded))
    if known:
        distances = {level: detail["levels"][level]["distances"] for level in known}
        found.append(Section("How far off", _distances(distances, draw)))
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
    names = [draw.plain(tree.names[level][c]) for c in order]
    is_small = len(order) <= LABELLED_CLASSES
    side = 2.6 + 0.3 * max(len(order), 8) if is_small else 8.9

    true, predicted = np.nonzero(counts)
    kinds = kinds_of(tree, level, order[true], order[predicted])
    share = counts[true, predicted] / counts.sum(1)[true]
    families = _families(tree, level, is_small)

    def paint(axes: Any) -> None:
        colors = draw.colors[0], draw.colors[3], draw.bad
        strength = ((0.2 if is_small else 0.5) * (1 - share) + share)[:, None]
        shades = 1 - strength * (1 - np.array([_rgb(color) for color in colors])[kinds])
        if is_small:
            picture = np.ones((len(order), len(order), 3))
            picture[true, predicted] = shades
            axes.imshow(picture, aspect="equal", interpolation="nearest")
            for row, column, part in zip(true, predicted, share, strict=True):
                ink = "white" if part > 0.6 else "#1f2933"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink, fontsize=7.5)
            axes.set_xticks(range(len(order)), labels=names, rotation=55, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(order)), labels=names)
        else:
            axes.scatter(
                predicted, true, s=max(DOT_AREA, (DOT_SPAN / len(order)) ** 2), c=shades, marker="s", lw=0, zorder=3
            )
            axes.set(xlim=(-0.5, len(order) - 0.5), ylim=(len(order) - 0.5, -0.5), aspect="equal")
        if families is not None:
            _paint_families(axes, tree, families, tree.ancestors[level][order, families], draw, not is_small)
        words = KINDS if level + 1 < len(tree.levels) else ("right", "", "wrong")
        for word, color in zip(words, colors, strict=True):
            if word:
                axes.plot([], [], "s", color=color, label=word)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(visible=False)

    caption = "Colour is the share of the true class"
    caption += "." if families is None else f"; lines part classes of different {tree.levels[families]}."
    return draw.paint(
        paint,
        alt=f"Confusion of {tree.levels[level]} in the order of the tree",
        caption=caption,
        size=(min(side + 1.0, 11.0), min(side, 11.0)),
        wide=len(order) > 12,
        raster=not is_small,
    )


def _families(tree: Tree, level: int, is_small: bool) -> int | None:
    """The level above whose classes part the axes: the next one, of many classes the first that has few enough."""
    above = range(level + 1, len(tree.levels))
    return next((one for one in above if is_small or tree.num_classes[one] <= MAX_FAMILIES), None)


def _rgb(color: str) -> tuple[float, float, float]:
    """Parts of `#rrggbb` between 0 and 1."""
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def _paint_families(axes: Any, tree: Tree, level: int, families: Ints, draw: Draw, is_named: bool) -> None:
    """Lines between neighbours of different families, classes of `level`; with names, each in its family's middle."""
    starts = np.flatnonzero(np.r_[True, families[1:] != families[:-1]])
    for place in starts[1:] - 0.5:
        axes.axvline(place, color=draw.muted, linewidth=0.5, alpha=0.6)
        axes.axhline(place, color=draw.muted, linewidth=0.5, alpha=0.6)
    if is_named:
        middles = (starts + np.r_[starts[1:], len(families)] - 1) / 2
        names = [draw.plain(tree.names[level][c]) if c >= 0 else "-" for c in families[starts]]
        axes.set_xticks(middles, labels=names, rotation=55, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, labels=names)


def _pairs(cells: Ints, kinds: Ints, tree: Tree, level: int) -> list[Part]:
    """The most frequent mistakes, siblings and others apart."""
    tables = []
    for kind in (1, 2):
        own = cells[kinds == kind]
        own = own[np.argsort(-own[:, 2], kind="stable")][:NUM_PAIRS]
        rows: list[list[Cell]] = [[tree.names[level][t], tree.names[level][p], int(n)] for t, p, n in own.tolist()]
        if rows:
            other = "another class, no sibling" if level + 1 < len(tree.levels) else "another class"
            caption = f"Taken for {'a sibling' if kind == 1 else other}"
            tables.append(Table(("true", "predicted", "rows"), rows, f"{caption}: the most frequent."))
    return [Beside(*tables)] if len(tables) == 2 else list(tables)


def _distances(levels: dict[str, Sequence[Sequence[float]]], draw: Draw) -> list[Part]:
    """How many rows are how many steps of the tree off, level by level; `levels` has `[distance, rows]` pairs."""
    farthest = max(int(rows[-1][0]) for rows in levels.values())
    table: list[list[Cell]] = []
    for level, rows in levels.items():
        counts = {int(distance): int(count) for distance, count in rows}
        total, wrong = sum(counts.values()), sum(count for distance, count in counts.items() if distance)
        mean = sum(distance * count for distance, count in counts.items()) / total
        far = [counts.get(distance) for distance in range(2, farthest + 1, 2)]
        table.append([level, counts[0], *far, mean, mean * total / wrong if wrong else None])
    heads = ("level", "right", *(f"{distance} off" for distance in range(2, farthest + 1, 2)))
    caption = "Rows by the steps through the tree from the label to the answer; 2 lead to a sibling."
    parts: list[Part] = [
        Text(
            "Trees count as if a root joined them: the greatest distance of a level leads to another one.", muted=True
        ),
        Table((*heads, "mean steps", "of errors"), table, caption),
    ]
    if farthest > 2 and any(row[0] and row[1] for rows in levels.values() for row in rows):
        parts.append(_distance_picture(levels, farthest, draw))
    return parts


def _distance_picture(levels: dict[str, Sequence[Sequence[float]]], farthest: int, draw: Draw) -> Picture:
    """Bars of the errors only, which the right answers would dwarf."""
    width = 0.8 / len(levels)

    def paint(axes: Any) -> None:
        for number, (level, rows) in enumerate(levels.items()):
            wrong = [(distance / 2 - 1, count) for distance, count in rows if distance]
            total = sum(count for _, count in rows)
            at = [place + width * (number - (len(levels) - 1) / 2) for place, _ in wrong]
            color, is_striped = told_apart(number, draw.colors)
            style = {"color": color, "hatch": "///" if is_striped else None, "edgecolor": "white"}
            bars = axes.bar(at, [100 * count / total for _, count in wrong], 0.9 * width, label=level, **style)
            if len(levels) <= MAX_COUNTED:
                texts = [f"{int(count):,}" for _, count in wrong]
                axes.bar_label(bars, labels=texts, padding=2, fontsize=8, color="#3e4c59")
        axes.set_xticks(range(farthest // 2), labels=[str(distance) for distance in range(2, farthest + 1, 2)])
        axes.set(xlabel="steps from the label to the answer", ylabel="% of the level's known rows")
        axes.set_xlim(-0.5, farthest // 2 - 0.5)
        axes.margins(y=0.12)
        axes.grid(visible=False, axis="x")
        axes.legend(ncols=1 if len(levels) < 5 else 2)

    caption = "Wrong answers by their distance; above each bar its rows."
    is_wide = len(levels) > MAX_COUNTED
    size = (12.0, 3.9) if is_wide else (6.0, 3.7)
    return draw.paint(paint, alt="Distances of wrong answers", caption=caption, size=size, wide=is_wide)


def _rarity(shown: dict[str, Any], level: str, draw: Draw) -> Picture:
    """Accuracy over bins of the classes' frequency in training."""
    rows = shown["rarity"]
    labels = [f"{low:,.0f}" if low == high else f"{low:,.0f}–{high:,.0f}" for low, high, *_ in rows]
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
