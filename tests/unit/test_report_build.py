"""A whole report from hand-made ledgers: of a good run, and of every odd one there can be."""

import base64
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from matplotlib.figure import Figure

from trainer.checkpoint.files import FileStore
from trainer.config.signs import SignsSettings
from trainer.errors import RunError
from trainer.report import diagnostics, draw
from trainer.report.build import build_report, write_report
from trainer.report.curves import MAX_PASSES, curve_sections
from trainer.report.draw import MAX_INSIDE, Pencil
from trainer.report.overview import results_section
from trainer.report.view import RunView, column
from trainer.tasks.page import Line
from trainer.telemetry import events

EPOCH_STEPS = 10
DETAIL = {
    "classes": [[1, "zero", "صفر"], [2, "o<n>e", "واحد"], [3, "two", "اثنان"]],
    "confusion": [[0, 0, 8], [0, 1, 2], [1, 1, 9], [1, 0, 1]],
    "per_signer": {"01": {"count": 12, "top1": 0.9}, "02": {"count": 8, "top1": 0.75}},
    "calibration": [[0.4, 0.6, 4, 0.5, 0.5], [0.8, 1.0, 16, 0.9, 0.95]],
    "worst": [["03/test/clip <7>", 0, 1, 4.2], ["03/test/clip 8", 1, 1, 1.1]],
    "by_length": [[10.0, 20.0, 10, 0.8], [20.0, 40.0, 10, 0.9]],
    "by_missing": [[0.0, 1e-9, 15, 0.9], [0.1, 0.25, 5, 0.6]],
}


class LedgerWriter:
    """Collects records as the ledger writes them."""

    def __init__(self):
        self.records = []
        self.attempt, self.wall = "1-aa", 1.8e9

    def add(self, event, seconds=0.0):
        self.wall += seconds
        stamps = {"event": type(event).__name__, "run": "run <1>", "attempt": self.attempt}
        record = stamps | {"wall": self.wall, "mono": self.wall - 1.8e9} | asdict(event)
        self.records.append(json.loads(json.dumps(record)))

    def start(self, step=0, attempt=None, task="signs"):
        self.attempt = attempt or self.attempt
        config = SignsSettings(num_epochs=3).model_dump(mode="json")
        config["optim"]["lr"] = 0.0625
        event = events.RunStarted(
            step=step, epoch=step // EPOCH_STEPS, run="run <1>", attempt=self.attempt, task=task, model="s_4_2",
            world_size=1, device="cpu", precision="fp32", seed=42, num_parameters=1234, num_samples=640,
            steps_per_epoch=EPOCH_STEPS, total_steps=30, num_epochs=3, batch_size=64, passes={"val": 20},
            metrics={"loss": "min", "top1": "max"}, best_metric="val/loss", config=config, config_digest="d",
            versions={"torch": "2.13"}, environment={"host": {"name": "here"}}, info={},
        )  # fmt: skip
        self.add(event, 1.0)

    def steps(self, first, last, loss=1.0):
        for step in range(first + 1, last + 1):
            event = events.StepDone(
                step=step, epoch=(step - 1) // EPOCH_STEPS, num_steps=1, seconds=0.9, loss=loss,
                metrics={"top1": None if loss is None else 0.5}, learning_rate=1e-3, grad_norm=loss,
                max_grad_norm=loss, clipped_share=0.0, loss_scale=None, skipped_steps=0, samples=64,
                samples_per_second=70.0, data_wait_seconds=0.1,
            )  # fmt: skip
            self.add(event, 1.0)

    def evaluate(self, step, loss, is_best=False, is_final=False, detail=None):
        event = events.PassDone(
            step=step, epoch=step // EPOCH_STEPS, name="val", num_samples=20, seconds=1.0,
            metrics={"loss": loss, "top1": 0.85}, is_best=is_best, is_final=is_final, detail=detail or {},
        )  # fmt: skip
        self.add(event, 1.0)

    def checkpoint(self, step):
        self.add(events.CheckpointTaken(step=step, stall_seconds=0.01, size_bytes=10_000))
        name = f"{step:012}-{self.attempt}"
        self.add(events.CheckpointPublished(step=step, checkpoint=name, size_bytes=10_000, seconds=0.2), 0.2)

    def end(self, step, code=0, reason="trained 3 epochs"):
        self.add(events.AttemptEnded(step=step, code=code, reason=reason, seconds=40.0))


def started():
    ledger = LedgerWriter()
    ledger.start()
    return ledger


def good(task="signs"):
    ledger = LedgerWriter()
    ledger.start(task=task)
    for epoch in (1, 2, 3):
        ledger.steps(10 * (epoch - 1), 10 * epoch, loss=1.0 / epoch)
        ledger.evaluate(10 * epoch, 1.2 / epoch, is_best=True, detail=DETAIL)
        ledger.checkpoint(10 * epoch)
    ledger.evaluate(30, 0.4, is_final=True, detail=DETAIL)
    ledger.end(30)
    return ledger


def page_of(ledger, **options):
    return build_report(ledger.records, task="signs", **options)["index.html"].decode()


@pytest.fixture
def undrawn(monkeypatch):
    """For tests of texts: pictures take most of the time of a report."""
    for module in (draw, diagnostics):
        monkeypatch.setattr(module, "render", lambda *args, **options: b"")


@pytest.fixture(scope="module")
def good_files():
    return build_report(good().records, task="signs")


def test_page_is_self_contained_and_escaped(good_files):
    text = good_files["index.html"].decode()
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    assert "run &lt;1&gt;" in text
    assert "o&lt;n&gt;e" in text
    assert "clip &lt;7&gt;" in text
    assert "<n>" not in text


def test_no_picture_is_empty(good_files):
    text = good_files["index.html"].decode()
    pictures = re.findall(r"data:image/(svg\+xml|png);base64,([^\"]+)", text)
    assert len(pictures) >= 10
    for kind, data in pictures:
        assert len(base64.b64decode(data)) > 2_000
        assert kind == "png" or b"</svg>" in base64.b64decode(data)


def test_same_input_gives_the_same_bytes():
    curve = Line("a", np.arange(3.0), np.array([1.0, np.nan, 2.0]), "#000000")
    first, second = (Pencil().lines([curve], alt="a", x_label="x", y_label="y") for _ in range(2))
    assert first == second


def test_page_tells_results_names_and_settings(good_files):
    text = good_files["index.html"].decode()
    assert "Complete." in text
    assert '<td dir="auto">صفر</td>' in text
    assert "<code>optim.lr</code></td><td><code>0.0625</code></td><td><code>0.001</code>" in text
    assert "2 of" in re.search(r"(\d+ of) \d+ settings differ", text)[0]
    for title in ("Results", "Curves", "Confusion", "Calibration", "Signers", "Worst clips", "Time", "Attempts"):
        assert f">{title}</h2>" in text


def test_files_beside_the_page_have_all_classes(good_files):
    assert set(good_files) == {"index.html", "run <1>-Model_Diagnostics.jpg", "classification_report.csv"}
    lines = good_files["classification_report.csv"].decode().splitlines()
    assert lines[3].startswith("2,3,two,اثنان,0.000000")
    assert lines[3].endswith(",0")


def test_foreign_task_with_counts_gets_the_pages_of_a_classifier(undrawn):
    files = build_report(good(task="plain").records, task="plain")
    assert "classification_report.csv" in files
    text = files["index.html"].decode()
    assert ">Confusion</h2>" in text
    assert ">Signers</h2>" not in text


def test_empty_ledger_makes_a_page():
    files = build_report([], task="signs")
    assert set(files) == {"index.html"}
    assert "no record yet" in files["index.html"].decode()


def test_run_without_a_step_or_pass_makes_a_page():
    assert "No log point and no pass" in page_of(started())


def test_records_before_the_first_start_make_a_page():
    ledger = LedgerWriter()
    ledger.add(events.Noted(text="looking for data"))
    ledger.end(0, code=3, reason="data folder is missing")
    text = page_of(ledger)
    assert "Failed." in text
    assert "data folder is missing (exit 3)" in text


def test_living_run_is_told_from_a_silent_one(undrawn):
    ledger = started()
    ledger.steps(0, 5)
    assert "Running." in page_of(ledger, now=ledger.wall + 10)
    assert "Silent." in page_of(ledger, now=ledger.wall + 10_000)
    assert "Unfinished." in page_of(ledger)


def test_report_written_before_the_last_word_says_complete():
    ledger = good()
    ledger.records.pop()
    assert RunView(ledger.records, ledger.wall).outcome.word == "complete"


def test_diverged_run_leaves_gaps_and_names_the_samples():
    ledger = started()
    ledger.steps(0, 12)
    ledger.steps(12, 20, loss=None)
    ledger.add(events.NonFinite(step=20, what="loss", policy="stop", used=1, budget=1, sample_ids=[7, 123456]))
    ledger.evaluate(20, None)
    ledger.end(20, code=4, reason="diverged")
    text = page_of(ledger)
    assert "Failed." in text
    assert "7, 123456" in text


def test_redone_steps_are_those_of_the_later_attempt(undrawn):
    ledger = started()
    ledger.steps(0, 15, loss=1.0)
    ledger.wall += 50
    ledger.start(step=10, attempt="2-bb")
    ledger.add(events.Resumed(step=10, checkpoint="000000000010-1-aa", redone_steps=5))
    ledger.steps(10, 20, loss=0.25)
    view = RunView(ledger.records)
    assert [record["step"] for record in view.steps] == list(range(1, 21))
    assert column(view.steps, "loss").tolist() == [1.0] * 10 + [0.25] * 10
    first, second = view.attempts
    assert (first.killed, first.first_step, first.last_step) == (True, 0, 15)
    assert (second.killed, second.first_step, second.last_step) == (False, 10, 20)
    accounts = dict(view.attempt_accounts)
    assert accounts["2-bb"]["redone"] > 0
    assert sum(accounts["2-bb"].values()) + sum(accounts["1-aa"].values()) == pytest.approx(sum(view.account.values()))
    assert "killed: no end is recorded" in page_of(ledger)


def test_rejected_failed_and_retired_checkpoints_are_told(undrawn):
    ledger = started()
    ledger.add(events.CheckpointRejected(checkpoint="c-0", reason="sha256 differs"))
    ledger.steps(0, 10)
    ledger.checkpoint(10)
    ledger.add(events.CheckpointFailed(step=10, checkpoint="c-1", reason="disk full", will_retry=True))
    ledger.add(events.CheckpointRetired(step=10, checkpoints=["000000000010-1-aa"]))
    text = page_of(ledger)
    assert "c-0 was rejected and stepped over:" in text
    assert "disk full (it is tried again)" in text
    assert ">retired</td>" in text


def test_best_detail_is_shown_while_the_run_goes_on():
    ledger = started()
    ledger.steps(0, 10)
    ledger.evaluate(10, 1.0, is_best=True, detail=DETAIL)
    ledger.steps(10, 20)
    ledger.evaluate(20, 1.5)
    facts = RunView(ledger.records).facts()
    assert facts.details["val"]["step"] == 10
    assert RunView(ledger.records).results()["val"]["step"] == 10


def test_report_is_written_into_the_store_or_a_folder(tmp_path):
    store = FileStore(tmp_path / "store")
    lines = "".join(json.dumps(record) + "\n" for record in started().records)
    store.put("run/ledger/1-aa/000001.jsonl", [lines.encode()])
    assert write_report(store, "run") == ["run/report/index.html"]
    assert store.get("run/report/index.html").startswith(b"<!doctype html>")
    assert write_report(store, "run", tmp_path / "there") == [str(tmp_path / "there" / "index.html")]
    assert (tmp_path / "there" / "index.html").stat().st_size > 1_000


def test_unknown_run_is_an_error_of_one_line(tmp_path):
    with pytest.raises(RunError, match="there is no run 'nope'"):
        write_report(FileStore(tmp_path), "nope")


def test_results_of_many_passes_are_rows_and_their_curves_are_told_apart(monkeypatch):
    ledger = started()
    ledger.steps(0, 10)
    for number in range(MAX_PASSES + 3):
        event = events.PassDone(
            step=10, epoch=1, name=f"pass{number}", num_samples=20 + number, seconds=1.0,
            metrics={"loss": 0.5, "top1": 0.25}, is_best=False, is_final=False, detail={},
        )  # fmt: skip
        ledger.add(event)
    view = RunView(ledger.records)
    (table,) = results_section(view).parts
    assert table.columns == ("pass", "samples", "of", "loss", "top1")
    assert list(table.rows[2]) == ["pass2", 22, "step 10", 0.5, 0.25]
    assert len(table.rows) == MAX_PASSES + 3
    drawn = []
    monkeypatch.setattr(Pencil, "lines", lambda self, lines, **options: drawn.append((list(lines), options)))
    curve_sections(view, Pencil())
    lines, options = drawn[0]
    assert len({(line.color, line.dashed) for line in lines}) == len(lines) == 1 + MAX_PASSES
    assert f"Of {MAX_PASSES + 3} passes these curves show the first {MAX_PASSES}." in options["caption"]


def test_a_long_legend_stands_below_the_picture_and_a_short_one_inside():
    x = np.arange(3.0)
    short, long = (
        [Line(f"line{number}", x, x, Pencil().colors[0]) for number in range(count)]
        for count in (MAX_INSIDE, MAX_INSIDE + 1)
    )
    seen = []
    for lines in (short, long):
        figure = Figure(figsize=(6.0, 3.7), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            draw._paint_line(axes, line)
        draw._add_legend(axes, has_marks=False)
        seen.append((axes.get_legend() is not None, len(figure.legends)))
    assert seen == [(True, 0), (False, 1)]
