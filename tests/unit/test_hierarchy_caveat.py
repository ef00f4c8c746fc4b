"""Why the scores of a split are no headline: found in the rows, and told wherever the scores are."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.toy import toy_settings, train_toy
from tests.unit.telemetry_samples import pass_done, records_of, run_started
from trainer.checkpoint.files import FileStore
from trainer.cli.cluster_text import _metrics
from trainer.config.expressions import Trigger
from trainer.config.hierarchy import HierarchyData, HierarchySettings, MaskSettings
from trainer.config.settings import CommonSettings, ScheduleSettings
from trainer.engine.describe import remarks
from trainer.report import comparison
from trainer.report.overview import header
from trainer.report.view import RunView
from trainer.tasks.hierarchy import remarks as own
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.task import create
from trainer.tasks.page import Notice
from trainer.telemetry.reading import read_run
from trainer.telemetry.summary import summary

REASON = "the same people are on both sides"


def opened(record, train, val, test=()):
    parts = {name: np.array(rows, np.int64) for name, rows in (("train", train), ("val", val), ("test", test))}
    table = SimpleNamespace(record=None if record is None else np.array(record))
    return SimpleNamespace(table=table, parts=parts)


def data(by="row", **changes):
    return HierarchyData.model_validate({"split": {"by": by}} | changes)


def test_records_on_both_sides_are_counted():
    found = own.caveat(opened(["a", "a", "b", "c", "c", "d"], [0, 2, 3], [1, 4], [5]), data())
    assert found.startswith("2 of the 3 records that are evaluated are trained on, too (data.split.by: row)")


@pytest.mark.parametrize("by", ["row", "given", "record"])
def test_no_record_on_both_sides_is_fair_however_it_was_split(by):
    assert own.caveat(opened(["a", "a", "b"], [0, 1], [2]), data(by)) == ""


def test_without_records_nothing_is_known_and_a_split_by_row_is_told_so():
    without = opened(None, [0], [1])
    assert own.caveat(without, data()) == ""
    assert [text[:25] for text in own.remarks(without, data())] == ["data.group is not set: if"]
    assert own.remarks(without, data("given")) == []
    assert own.remarks(without, data(layout="t1")) == []
    assert own.remarks(opened(["a", "b"], [0], [1]), data()) == []


def test_masks_without_anything_to_mask_are_said():
    asked = MaskSettings(all="0.5 @ 0", final=True)
    [said] = own.without_blocks(BlockMap({}), asked)
    assert said.endswith("have no effect: mask.all, mask.final")
    assert own.without_blocks(BlockMap({"SITE": 2}), asked) == own.without_blocks(BlockMap({}), MaskSettings()) == []


def test_a_caveat_is_the_first_remark():
    job = SimpleNamespace(
        task=SimpleNamespace(caveat=REASON, remarks=["more"]),
        schedule=None,
        balance=None,
        best=SimpleNamespace(metric="val/loss"),
        early_stop=SimpleNamespace(is_on=False),
        settings=CommonSettings(schedule=ScheduleSettings(name="constant")),
        moments=SimpleNamespace(passes={"val": Trigger.parse("every 5 steps").resolve(10, 5)}),
        total_steps=10,
    )
    assert remarks(job) == [f"no headline: {REASON}", "more"]


def started(**changes):
    return records_of(run_started(**changes), pass_done(10, 0.25, is_best=True, metrics={"top1": 0.9875}))


def test_report_has_the_reason_in_place_of_the_key_metrics():
    proud, humble = (header(RunView(started(caveat=caveat))) for caveat in ("", REASON))
    labels = [[tile.label for tile in parts[-1].tiles] for parts in (proud, humble)]
    assert labels[0] == ["best val/loss", "val/top1", *labels[1]]
    assert labels[1][0] == "steps"
    assert Notice("warn", REASON, "No headline.") in humble
    assert not any(isinstance(part, Notice) and part.title == "No headline." for part in proud)


def test_status_tells_the_reason():
    assert list(_metrics(summary(started(caveat=REASON), now=0.0)))[-1] == f"  no headline: {REASON}"
    assert not any("headline" in line for line in _metrics(summary(started(), now=0.0)))


def test_a_comparison_tells_each_reason_once_and_whose_it_is():
    trials = [
        comparison.trial_of(started(caveat=caveat), "val/loss", setting, 0.1, seed)
        for setting, caveat in (("row", REASON), ("record", ""))
        for seed in (1, 2)
    ]
    assert comparison.caveats(trials) == [f"row: {REASON}"]
    assert comparison.caveats(trials[:2]) == [REASON]
    assert comparison.caveats(trials[2:]) == []
    assert comparison.record("k", "val/loss", "min", trials, None)["caveats"] == [f"row: {REASON}"]


def test_a_run_split_by_rows_says_so_at_its_start_and_where_its_results_are(tmp_path: Path):
    rows = [f"f{i % 3},c{i % 3 // 2},{i % 3}.5,{i * 0.1},r{i % 6}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["fine,coarse,x,y,who", *rows]))
    values = {
        "num_epochs": 1, "batch_size": 32, "data__path": str(tmp_path / "rows.csv"), "data__levels": ["fine", "coarse"],
        "data__features": ["x", "y"], "data__group": "who", "data__split__by": "row",
    }  # fmt: skip
    train_toy(toy_settings(tmp_path, HierarchySettings, **values), create)
    records = read_run(FileStore(tmp_path), "toy")
    told = [one["text"] for one in records if one["event"] == "Noted"]
    (start,) = (one for one in records if one["event"] == "RunStarted")
    assert start["caveat"].startswith("5 of the 5 records")
    assert told[0] == f"no headline: {start['caveat']}"
    assert json.loads((tmp_path / "toy/COMPLETE.json").read_text())["caveat"] == start["caveat"]
