"""Report pages of the task hierarchy out of the ledger of a real run with balance, mixing and masks."""

import numpy as np
import pytest

from tests.toy import toy_settings, train_toy
from trainer.checkpoint.files import FileStore
from trainer.config.hierarchy import HierarchySettings
from trainer.report.draw import Pencil
from trainer.report.view import RunView
from trainer.tasks.hierarchy import pages, pages_errors, pages_run
from trainer.tasks.hierarchy.task import create
from trainer.tasks.hierarchy.tree import UNKNOWN, Tree
from trainer.tasks.page import Details, Picture, Table
from trainer.telemetry.reading import read_run

VALUES = {
    "num_epochs": 2, "batch_size": 64, "data__layout": "t1", "mix__probability": "0.5 @ 0", "mask__all": "0.3 @ 0",
    "mask__passes": ["all", "each"], "balance__kind": "gradnorm", "balance__every": "every 5 steps",
}  # fmt: skip


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_toy(toy_settings(folder, HierarchySettings, **VALUES), create)
    view = RunView(read_run(FileStore(folder), "toy"))
    found = pages.pages(view.facts(), Pencil())
    assert found.classification.confusion.sum() > 0
    return {section.title: list(section.parts) for section in found.sections}


def test_there_is_a_section_for_everything(sections):
    assert list(sections) == [
        "Levels", "Balance of the levels", "Mixing, masks and passes", "Blocks", "Confusion: fine",
        "Confusion: mid", "Confusion: coarse", "How far off", "Rare classes", "F1 by class", "Calibration",
        "Consistency of the levels", "Worst rows", "Labels",
    ]  # fmt: skip
    assert sum(isinstance(part, Picture) for part in sections["Balance of the levels"]) == 3


def test_block_table_has_a_row_for_every_masked_pass(sections):
    table = [part for part in sections["Blocks"] if isinstance(part, Table)][1]
    assert [row[0] for row in table.rows] == ["(nothing)", "all of them", "SITE", "SEASON", "ELEV"]


def test_20_worst_rows_come_with_the_worst_first(sections):
    table = next(part for part in sections["Worst rows"] if isinstance(part, Table))
    losses = [row[-1] for row in table.rows]
    assert len(losses) == 20
    assert losses == sorted(losses, reverse=True)


def test_a_run_that_has_not_begun_has_no_pages():
    assert pages.pages(RunView([]).facts(), Pencil()).sections == []


class Undrawn(Pencil):
    """Keeps what is said of a picture and its texts on the axes, and draws nothing."""

    def paint(self, paint, *, alt, caption="", size=(6.0, 3.6), wide=False, raster=False):
        return Picture(b"", "svg", alt, caption, wide)


class Axes:
    """Takes every call of a picture and remembers those that have `label` or `labels`."""

    def __init__(self):
        self.labels = []

    def __getattr__(self, name):
        def call(*args, **options):
            self.labels += [options["label"]] if "label" in options else list(options.get("labels") or [])
            return self

        return call


def detail_of(sizes, names=str):
    """A tree of `sizes` classes, fine to coarse, each class below its share of the next level, and a pass over it."""
    levels = [f"level{number}" for number in range(len(sizes))]
    ancestors = [np.full((size, len(sizes)), UNKNOWN) for size in sizes]
    for level, table in enumerate(ancestors):
        table[:, level] = np.arange(sizes[level])
        for above in range(level + 1, len(sizes)):
            table[:, above] = table[:, above - 1] * sizes[above] // sizes[above - 1]
    tree = Tree(levels, [[names(c) for c in range(size)] for size in sizes], ancestors)
    shown = {}
    for level, size in zip(levels, sizes, strict=True):
        confusion = [[c, c, 9] for c in range(size)] + [[0, min(1, size - 1), 2], [0, size - 1, 1]]
        distances = [[0.0, 9 * size]] + [[2.0 * step, 1] for step in range(1, len(sizes) - levels.index(level) + 1)]
        rarity = [[1.0, 5.0, 2.0, 9.0, 0.5]]
        shown[level] = {"known": 9 * size + 3, "confusion": confusion, "distances": distances, "rarity": rarity}
    return tree, {"levels": shown}


@pytest.mark.parametrize("sizes", [[3], [60, 8, 2], [2, 1], [4, 3, 3, 2, 2, 2, 2]])
def test_every_shape_of_tree_has_its_errors_drawn(sizes):
    tree, detail = detail_of(sizes, lambda c: f"a very long $name$ of class {c}")
    found = {section.title: section.parts for section in pages_errors.sections("val", detail, tree, Pencil())}
    shown = [title for title in found if title.startswith("Confusion: level")]
    folded = [part for part in found.get("Confusion: coarser levels", ()) if isinstance(part, Details)]
    assert len(shown) + len(folded) == len(sizes)
    assert len(shown) <= pages_errors.MAX_OPEN
    table = next(part for part in found["How far off"] if isinstance(part, Table))
    assert [row[0] for row in table.rows] == tree.levels
    assert len(table.columns) == 4 + len(sizes)
    assert any(isinstance(part, Picture) for part in found["How far off"]) == (len(sizes) > 1)


def test_what_parts_a_matrix_of_many_classes_is_a_level_that_can_be_named():
    tree, _ = detail_of([500, 100, 40, 3])
    assert pages_errors._families(tree, 0, is_small=False) == 2
    assert pages_errors._families(tree, 2, is_small=True) == 3
    assert pages_errors._families(tree, 3, is_small=True) is None


def test_mean_steps_of_the_table_are_those_of_the_rows():
    rows = [[0.0, 6.0], [2.0, 3.0], [4.0, 1.0]]
    table = pages_errors._distances({"fine": rows}, Undrawn())[1]
    assert table.rows == [["fine", 6, 3, 1, 1.0, 2.5]]


def test_marks_stand_in_a_row_for_each_pass_below_the_curves(monkeypatch):
    steps = [{"step": step, "curves": {"mix": 0.5}} for step in (10, 20)]
    passes = [{"name": name, "step": 10, "is_final": False} for name in ("val", "val_mask_all")]
    passes.append({"name": "test", "step": 20, "is_final": True})
    axes = Axes()
    monkeypatch.setattr(Undrawn, "paint", lambda self, paint, **options: paint(axes))
    pages_run._schedule(steps, passes, Undrawn())
    assert axes.labels == ["mix", "0", "0.25", "0.5", "0.75", "1", "val", "val_mask_all"]


def test_groups_of_mixing_that_change_are_told_and_not_drawn_as_a_probability(monkeypatch):
    steps = [{"step": step, "curves": {"mix": 0.5, "mix_level": level}} for step, level in ((5, 1), (10, 1), (15, 0))]
    axes = Axes()
    monkeypatch.setattr(Undrawn, "paint", lambda self, paint, **options: paint(axes))
    pages_run._schedule(steps, [], Undrawn())
    assert "mix_level" not in axes.labels
    (text,) = pages_run._groups(steps, detail_of([4, 2])[0])
    assert text.text == "Rows were mixed with rows of the same level1 (seen at step 5), then level0 (seen at step 15)."
    assert pages_run._groups(steps[:1], detail_of([4, 2])[0]) != []
    assert pages_run._groups([{"step": 1}], detail_of([4, 2])[0]) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("val_mask_all", "all of them"),
        ("val_mask_SITE_ELEV", "SITE + ELEV"),
        ("val_mask_sea_level", "sea_level"),
        ("val_mask_SITE_sea_level", "SITE + sea_level"),
        ("val_mask_gone", "gone"),
    ],
)
def test_a_masked_pass_is_read_as_its_blocks(name, shown):
    assert pages_run._without(name, ["SITE", "sea", "ELEV", "sea_level"]) == shown


def test_more_levels_than_colours_are_told_apart():
    records = [
        {"event": "StepDone", "step": step, "terms": {f"level{number}": 1.0 for number in range(10)}} for step in (1, 2)
    ]
    drawn = []
    pencil = Pencil()
    pencil.lines = lambda lines, **options: drawn.extend(lines)
    pages_run._levels(records, [], detail_of(range(12, 2, -1))[0], pencil)
    assert len({(line.color, line.dashed) for line in drawn}) == 10
