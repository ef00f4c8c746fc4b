"""Report sections that any classifier shares: confusion, F1 by class, confused pairs, calibration.

They read a pass's `detail`: `confusion` as `[true, predicted, count]` cells and, where there is one, `calibration` as
`[low, high, count, mean confidence, accuracy]` rows. Ten classes are shown whole, hundreds as a map with a zoom on
the classes that go wrong most. In pictures a class is its word id and Latin name; native names stand in the tables.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from trainer.tasks.classification import (
    LOW_F1,
    Scores,
    calibration_error,
    class_list,
    confused_classes,
    confused_pairs,
    from_cells,
    scores,
)
from trainer.tasks.page import (
    LABELLED_CLASSES,
    Beside,
    Cell,
    Class,
    Classification,
    Details,
    Draw,
    Pages,
    Part,
    Picture,
    RunFacts,
    Section,
    Share,
    Table,
    Text,
)

NUM_PAIRS = 20
NUM_ZOOMED = 24
NUM_WORST = 10


def pages(run: RunFacts, draw: Draw) -> Pages:
    """Pages of a task that has none of its own; empty where no pass counted classes."""
    name = main_pass(run)
    if name is None:
        return Pages([])
    classification = classification_of(run, name)
    return Pages(sections(name, classification, run.details[name]["detail"], draw), classification)


def main_pass(run: RunFacts) -> str | None:
    """The pass whose classes are shown: `test` if there is one, else that of the best metric, else any."""
    counted = [name for name, record in run.details.items() if record["detail"].get("confusion") is not None]
    preferred = ["test", run.best_metric.partition("/")[0], *counted]
    return next((name for name in preferred if name in counted), None)


def classification_of(run: RunFacts, name: str) -> Classification:
    """Counts and names of one pass, on an axis that has every class of the run; names that are missing are numbers."""
    detail = run.details[name]["detail"]
    named = class_list(run.info, detail)
    num_classes = max([len(named), *(1 + max(true, predicted) for true, predicted, _ in detail["confusion"])])
    unnamed = [Class(number + 1, "") for number in range(len(named), num_classes)]
    return Classification(from_cells(detail["confusion"], num_classes), named + unnamed)


def sections(name: str, classification: Classification, detail: dict[str, Any], draw: Draw) -> list[Section]:
    """Confusion, F1, pairs and calibration of the pass `name`."""
    if not classification.confusion.any():
        return [Section("Classes", [Text(f"The pass {name} had no samples.")])]
    return [Section("Confusion", _confusion(name, classification, draw)), *quality(classification, detail, draw)]


def quality(classification: Classification, detail: dict[str, Any], draw: Draw) -> list[Section]:
    """F1 and calibration of classes of which some have samples."""
    found = [Section("F1 by class", _per_class(classification, scores(classification.confusion), draw))]
    if detail.get("calibration"):
        found.append(Section("Calibration", _calibration(detail["calibration"], draw)))
    return found


def label(named: Class) -> str:
    """A class in a picture: its word id and, if there is one, its name in Latin script."""
    return f"{named.word} {named.name}" if named.name.isascii() and named.name != str(named.word) else str(named.word)


def _confusion(name: str, classification: Classification, draw: Draw) -> list[Part]:
    confusion, classes = classification.confusion, classification.classes
    samples, wrong = int(confusion.sum()), int(confusion.sum() - np.trace(confusion))
    parts: list[Part] = [Text(f"Pass {name}: {samples:,} samples, {wrong:,} of them wrong ({wrong / samples:.1%}).")]
    pairs = confused_pairs(confusion, NUM_PAIRS)
    if len(confusion) > LABELLED_CLASSES:
        labels = [str(named.word) for named in classes]
        caption = (
            "All classes. Away from the diagonal every dot is a confusion; bands point at classes that are mixed up."
        )
        parts.append(draw.matrix(confusion, labels, labels, alt="Confusion matrix of all classes", caption=caption))
        parts.append(_zoom(classification, draw))
    else:
        labels = [label(named) for named in classes]
        caption = "Counts; colour is the share of the true class."
        parts.append(draw.matrix(confusion, labels, labels, alt="Confusion matrix", caption=caption))
    if pairs:
        parts += [_pairs_picture(pairs, classes, draw), _pairs_table(pairs, classification)]
    return parts


def _zoom(classification: Classification, draw: Draw) -> Picture:
    """The classes of the most frequent mistakes, with all other answers in one last column."""
    confusion = classification.confusion
    chosen = confused_classes(confusion, NUM_ZOOMED)
    part = confusion[np.ix_(chosen, chosen)]
    others = confusion[chosen].sum(axis=1) - part.sum(axis=1)
    names = [label(classification.classes[c]) for c in chosen]
    return draw.matrix(
        np.column_stack([part, others]),
        names,
        [*names, "all others"],
        alt="Confusion matrix of the classes of the most frequent confusions",
        caption="The classes of the most frequent confusions.",
    )


def _pairs_picture(pairs: Sequence[tuple[int, int, int]], classes: Sequence[Class], draw: Draw) -> Picture:
    return draw.bars(
        [f"{label(classes[true])} -> {label(classes[predicted])}" for true, predicted, _ in pairs],
        [count for *_, count in pairs],
        texts=[str(count) for *_, count in pairs],
        colors=[draw.bad] * len(pairs),
        value_label="samples",
        alt="Most frequent confusions",
        caption="Most frequent confusions, true -> predicted.",
        wide=len(classes) > LABELLED_CLASSES,
    )


def _pairs_table(pairs: Sequence[tuple[int, int, int]], classification: Classification) -> Table:
    support = classification.confusion.sum(axis=1)
    rows = [
        [*_names(classification.classes, (true, predicted)), count, Share(count / int(support[true]))]
        for true, predicted, count in pairs
    ]
    columns = ("true", "name", "native", "predicted", "name", "native", "samples", "share of the class")
    return Table(columns, rows, "Most frequent confusions")


def _names(classes: Sequence[Class], chosen: Iterable[int]) -> list[str | int]:
    return [value for c in chosen for value in (classes[c].word, classes[c].name, classes[c].native)]


def _per_class(classification: Classification, result: Scores, draw: Draw) -> list[Part]:
    present = result.support_c > 0
    low = int(np.sum(present & (result.f1_c < LOW_F1)))
    absent = int(np.sum(~present))
    text = f"Mean F1 {result.f1_c[present].mean():.4f} of {int(present.sum())} classes; {low} of them below {LOW_F1}."
    if absent:
        text += f" {absent} without a sample count as 0 in the CSV table's macro average {result.macro[2]:.4f}."
    parts: list[Part] = [Text(text)]
    parts.append(
        _f1_scatter(classification, result, draw)
        if len(present) > LABELLED_CLASSES
        else _f1_bars(classification, result, draw)
    )
    if len(present) > LABELLED_CLASSES:
        parts.append(Beside(_f1_histogram(result, draw), _worst_table(classification, result)))
    return [*parts, Details("All classes", [_class_table(classification, result)])]


def _f1_bars(classification: Classification, result: Scores, draw: Draw) -> Picture:
    order = np.argsort(result.f1_c, kind="stable")
    return draw.bars(
        [label(classification.classes[c]) for c in order],
        [float(result.f1_c[c]) for c in order],
        texts=[f"{result.f1_c[c]:.2f}" if result.support_c[c] else "no sample" for c in order],
        colors=[draw.bad if result.f1_c[c] < LOW_F1 else draw.colors[0] for c in order],
        value_label="F1",
        limit=1.08,
        alt="F1 of each class, the worst first",
        caption=f"The worst first; below {LOW_F1} in the second colour.",
    )


def _f1_scatter(classification: Classification, result: Scores, draw: Draw) -> Picture:
    def paint(axes: Any) -> None:
        word = np.array([named.word for named in classification.classes])
        present = result.support_c > 0
        low = present & (result.f1_c < LOW_F1)
        axes.axhline(LOW_F1, color=draw.muted, linewidth=0.9, linestyle="--")
        high = present & ~low
        axes.plot(word[high], result.f1_c[high], "o", color=draw.colors[0], markersize=3.2, label=f"F1 ≥ {LOW_F1}")
        axes.plot(word[low], result.f1_c[low], "D", color=draw.bad, markersize=3.6, label=f"F1 < {LOW_F1}")
        if not present.all():
            absent = word[~present]
            axes.plot(
                absent, np.zeros(len(absent)), "o", mfc="none", color=draw.muted, markersize=3.6, label="no sample"
            )
        axes.set(xlabel="id of the class", ylabel="F1", ylim=(-0.05, 1.05), xlim=(word.min() - 2, word.max() + 2))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)

    return draw.paint(paint, alt="F1 of each class by its id", caption="F1 by class.", size=(12.0, 4.0), wide=True)


def _f1_histogram(result: Scores, draw: Draw) -> Picture:
    present = result.f1_c[result.support_c > 0]
    count, edges = np.histogram(present, bins=10, range=(0.0, 1.0))
    return draw.columns(
        [f"{edge:.1f}" for edge in edges[:-1]],
        [float(value) for value in count],
        texts=[str(value) if value else "" for value in count],
        x_label="F1 from",
        y_label="classes",
        alt="How many classes have which F1",
        caption="How many classes have which F1.",
    )


def _worst_table(classification: Classification, result: Scores) -> Table:
    """The classes with samples whose F1 is the lowest, the worst first."""
    present = np.flatnonzero(result.support_c)
    worst = present[np.argsort(result.f1_c[present], kind="stable")][:NUM_WORST]
    rows: list[list[Cell]] = [
        [*_names(classification.classes, [c]), Share(float(result.f1_c[c])), int(result.support_c[c])] for c in worst
    ]
    return _tidy(("id", "name", "native", "F1", "support"), rows, f"The {len(rows)} classes with the lowest F1.")


def _class_table(classification: Classification, result: Scores) -> Table:
    measures = (result.precision_c, result.recall_c, result.f1_c)
    rows: list[list[Cell]] = [
        [c.word, c.name, c.native, *(Share(float(values[i])) for values in measures), int(result.support_c[i])]
        for i, c in enumerate(classification.classes)
    ]
    marked = frozenset(np.flatnonzero((result.f1_c < LOW_F1) & (result.support_c > 0)).tolist())
    return _tidy(("id", "name", "native", "precision", "recall", "F1", "support"), rows, marked=marked)


def _tidy(heads: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "", **options: Any) -> Table:
    """A table without the column of native names where no class has one."""
    kept = [place for place, head in enumerate(heads) if head != "native" or any(row[place] for row in rows)]
    return Table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows], caption, **options)


def _calibration(bins: Sequence[Sequence[float]], draw: Draw) -> list[Part]:
    filled = [row for row in bins if row[2] > 0]
    error = calibration_error(bins)
    if error is None:
        return [Text("No sample, no calibration.")]
    confidence = sum(row[2] * row[3] for row in filled) / sum(row[2] for row in filled)
    accuracy = sum(row[2] * row[4] for row in filled) / sum(row[2] for row in filled)
    lean = "over-confident" if confidence > accuracy else "under-confident"
    text = f"Expected calibration error {error:.4f}: mean confidence {confidence:.3f}, accuracy {accuracy:.3f}, {lean}."
    return [Text(text), _reliability(filled, draw), _confidences(bins, draw)]


def _reliability(filled: Sequence[Sequence[float]], draw: Draw) -> Picture:
    def paint(axes: Any) -> None:
        low, high, _, confidence, accuracy = np.asarray(filled, dtype=np.float64).T
        axes.bar(low, accuracy, width=high - low, align="edge", color=draw.colors[0], alpha=0.85, edgecolor="white")
        axes.plot([0, 1], [0, 1], color=draw.muted, linestyle="--", label="perfect")
        axes.plot(
            confidence, accuracy, "o-", color=draw.bad, markersize=4, linewidth=1.1, label="accuracy at mean confidence"
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
        axes.legend(loc="upper left")

    return draw.paint(
        paint,
        alt="Reliability diagram",
        caption="Reliability: below the diagonal the model is too sure.",
        size=(6.0, 4.2),
    )


def _confidences(bins: Sequence[Sequence[float]], draw: Draw) -> Picture:
    def paint(axes: Any) -> None:
        low, high, count = np.asarray(bins, dtype=np.float64).T[:3]
        axes.bar(low, count, width=high - low, align="edge", color=draw.muted, edgecolor="white")
        axes.set(xlim=(0, 1), xlabel="confidence", ylabel="samples")

    caption = "How often which confidence is given."
    return draw.paint(paint, alt="Histogram of confidence", caption=caption, size=(6.0, 4.2))
