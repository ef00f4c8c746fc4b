"""Report pages of the task hierarchy out of the ledger of a real run with balance, mixing and masks."""

import pytest

from tests.toy import toy_settings, train_toy
from trainer.checkpoint.files import FileStore
from trainer.config.hierarchy import HierarchySettings
from trainer.report.draw import Pencil
from trainer.report.view import RunView
from trainer.tasks.hierarchy import pages
from trainer.tasks.hierarchy.task import create
from trainer.tasks.page import Picture, Table
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
        "Levels", "Balance of the levels", "Mixing and masking over the run", "Blocks", "Confusion: fine",
        "Confusion: mid", "Confusion: coarse", "How far off", "Rare classes", "F1 by class", "Calibration",
        "Consistency of the levels", "Worst rows", "Labels",
    ]  # fmt: skip
    assert sum(isinstance(part, Picture) for part in sections["Balance of the levels"]) == 3


def test_block_table_has_a_row_for_every_masked_pass(sections):
    table = [part for part in sections["Blocks"] if isinstance(part, Table)][1]
    assert [row[0] for row in table.rows] == ["(nothing)", "all", "SITE", "SEASON", "ELEV"]


def test_20_worst_rows_come_with_the_worst_first(sections):
    table = next(part for part in sections["Worst rows"] if isinstance(part, Table))
    losses = [row[-1] for row in table.rows]
    assert len(losses) == 20
    assert losses == sorted(losses, reverse=True)


def test_a_run_that_has_not_begun_has_no_pages():
    assert pages.pages(RunView([]).facts(), Pencil()).sections == []
