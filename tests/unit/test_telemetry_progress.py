import io
import re
from typing import Any

import pytest
from rich.console import Console

from tests.unit.telemetry_samples import pass_done, run_started, step_done
from trainer.telemetry import bar, progress
from trainer.telemetry import results as progress_results
from trainer.telemetry.events import (
    ArtifactWritten,
    AttemptEnded,
    CheckpointFailed,
    EpochDone,
    Event,
    NonFinite,
    Noted,
    PassStarted,
    Resumed,
    Stopping,
    Warned,
)
from trainer.telemetry.progress import Progress
from trainer.telemetry.text import duration, number, rate, size


@pytest.fixture(autouse=True)
def draw_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar, "BAR_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)


def shown(*happened: Event, terminal: bool = False, width: int = 100) -> str:
    out = io.StringIO()
    listener = Progress(console=Console(file=out, force_terminal=terminal, width=width, legacy_windows=False))
    for event in happened:
        listener.on_event(event)
    listener.close()
    return out.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_a_step_line_has_the_known_columns() -> None:
    event = step_done(20, loss=2.30123, learning_rate=0.00012345, grad_norm=1.234, seconds_left=75.0)
    line = shown(run_started(), event).splitlines()[-1]
    assert line == (
        "step     20 | loss 2.3012 | lr 0.000123 | grad norm 1.23 | 640 samples/s | top1 0.5000 | 1:15 left"
    )


def test_passes_over_as_many_samples_share_the_number() -> None:
    line = shown(run_started(passes={"val": 96, "val_mask_all": 96, "test": 1000})).splitlines()[2]
    assert line.endswith("samples: train 640, val, val_mask_all 96 each, test 1,000")


def test_plain_lines_hold_no_escapes_and_only_ascii() -> None:
    epoch = EpochDone(epoch=1, step=10, loss=1.0, metrics={"top1": 0.4}, seconds=12.0, samples_per_second=53.3)
    ends = [pass_done(10, is_final=True), AttemptEnded(code=0, reason="complete", seconds=5)]
    text = shown(run_started(), step_done(10), epoch, pass_done(10, is_best=True), *ends)
    assert text.isascii()
    assert "\x1b" not in text


def test_epoch_and_pass_lines_stand_below_each_other() -> None:
    epoch = EpochDone(epoch=1, step=10, loss=1.0, metrics={"top1": 0.4}, seconds=12.0, samples_per_second=53.3)
    train, val = shown(run_started(), epoch, pass_done(10, 0.9, is_best=True)).splitlines()[-2:]
    assert train == "Epoch 1/10   train  loss 1.0000  top1 0.4000  (12 s, 53 samples/s)"
    assert val == "step 10      val    loss 0.9000  top1 0.5000  (1.0 s)  new best"


@pytest.mark.parametrize("width", [80, 100, 200])
def test_an_epoch_and_its_pass_are_one_line_each_on_any_terminal(width: int) -> None:
    metrics = {"top1": 0.5, "top5": 0.5, "macro_f1": 0.5}
    started = run_started(metrics=dict.fromkeys(["loss", *metrics], "max"))
    text = plain(shown(started, pass_done(10, 0.9, is_best=True, metrics=metrics), terminal=True, width=width))
    (line,) = (line for line in text.splitlines() if "new best" in line)
    assert len(line.rstrip()) <= width
    assert line.startswith("step 10")
    assert ("macro_f1" in line) == (width >= 100)


def test_step_lines_are_thinned_out_on_a_fast_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 3600.0)
    text = shown(run_started(), *(step_done(step) for step in range(20, 200, 20)))
    assert text.count("| loss") == 1


def test_a_loss_that_does_not_exist_is_a_dash() -> None:
    assert "| loss - |" in shown(run_started(), step_done(20, loss=None))


def test_the_bar_shows_epoch_loss_accuracy_speed_and_time_left() -> None:
    event = step_done(30, epoch=2, epoch_progress=0.5, loss=0.5, samples_per_second=12345.0, seconds_left=75.0)
    text = plain(shown(run_started(), event, terminal=True))
    last = text.rstrip("\n").split("\n")[-1].split("\r")[-1]
    assert last.startswith("epoch  3/10")
    assert " 30% loss 0.5000  top1 0.5000  12,345/s  1:15 left" in last
    assert "| loss" not in text


def test_a_wide_terminal_counts_steps() -> None:
    text = plain(shown(run_started(), step_done(30), terminal=True, width=140))
    assert "30/100" in text
    assert "640 samples/s" in text


def test_the_bar_stays_in_the_epoch_that_just_ended_and_names_a_running_pass() -> None:
    ended = step_done(10, epoch=1, epoch_progress=0.0)
    text = plain(shown(run_started(), ended, PassStarted(epoch=1, step=10, name="val", num_samples=9), terminal=True))
    assert "epoch  1/10" in text
    assert "epoch  2/10" not in text
    assert "pass val ..." in text


def test_the_bar_is_drawn_at_most_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar, "BAR_SECONDS", 3600.0)
    text = shown(run_started(), *(step_done(step, loss=step / 1000) for step in range(1, 90)), terminal=True)
    assert plain(text).count("loss 0.0010") >= 1
    assert "loss 0.0500" not in text


def test_lines_appear_above_the_bar() -> None:
    warned = Warned(step=20, name="slow_data", severity="warn", text="waiting for [data]")
    text = plain(shown(run_started(), step_done(20), warned, step_done(40), terminal=True))
    assert text.index("warning: waiting for [data]") < text.rindex("epoch  1/10")


def test_a_long_outage_is_told_of_less_and_less_and_the_next_one_at_once() -> None:
    seconds = [0.0, 5.0, 20.0, 31.0, 45.0, 61.0, 63.0, 130.0, 0.0, 9.0]
    failures = [
        CheckpointFailed(checkpoint="c", reason="down", will_retry=True, outage_seconds=s, age_seconds=s + 200)
        for s in seconds
    ]
    gave_up = CheckpointFailed(checkpoint="c", reason="down", will_retry=False, outage_seconds=10.0)
    lines = [line for line in shown(run_started(), *failures, gave_up).splitlines() if "warning" in line]
    ages = ["3:20", "3:51", "4:23", "5:30", "3:20"]
    ends = [*(f"will try again; the last durable one is {age} old" for age in ages), "gave up"]
    assert lines == [f"warning: checkpoint c: down; {end}" for end in ends]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Warned(name="x", severity="note", text="only so"), "note: only so"),
        (Noted(text="TensorBoard is off"), "note: TensorBoard is off"),
        (
            Resumed(step=40, epoch=4, checkpoint="c40", redone_steps=12),
            "goes on from c40 (step 40, epoch 5); 12 steps are done again",
        ),
        (
            CheckpointFailed(checkpoint="c", reason="full", will_retry=True),
            "warning: checkpoint c: full; will try again",
        ),
        (
            NonFinite(step=7, what="gradient norm nan in step 7", policy="skip", used=1, budget=3, sample_ids=[]),
            "warning: not finite: gradient norm nan in step 7; skip (1 of 3)",
        ),
        (Stopping(step=7, reason="SIGTERM", code=143), "stopping after step 7: SIGTERM"),
    ],
)
def test_messages_are_one_line_each(event: Event, line: str) -> None:
    assert shown(run_started(), event).splitlines()[-1] == line


def test_the_end_is_a_table_of_the_final_passes_the_paths_and_the_outcome() -> None:
    path = "checkpoints/" + "long-name/" * 12 + "index.html"
    text = shown(
        run_started(metrics={"loss": "min", "top5": "max", "top1": "max"}),
        step_done(100),
        pass_done(80, 0.3, is_final=True, metrics={"top5": None}),
        pass_done(80, 0.4, is_final=True, name="test", metrics={"top1_signer_02": 0.25}),
        ArtifactWritten(kind="report", path=path),
        AttemptEnded(code=0, reason="complete", seconds=134.0),
    )
    rows = [re.split(r"[|\s]+", line.strip("| ")) for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["pass", "samples", "loss", "top5", "top1", "top1_signer_02"]
    assert rows[2:] == [["val", "96", "0.3000", "-", "0.5000"], ["test", "96", "0.4000", "0.5000", "0.2500"]]
    assert "Results of the best weights" in text
    assert f"report  {path}\n" in text  # whole, to be copied
    assert text.splitlines()[-1] == "complete (step 100, 2:14)"


def results(width: int, num_metrics: int, num_passes: int, **changes: Any) -> list[str]:
    names = ["loss", *(f"level_{number}/balanced" for number in range(1, num_metrics))]
    passes = [f"val_mask_{number}_SITE_SEASON" for number in range(num_passes)]
    ends = [pass_done(10, 0.25, is_final=True, name=name, metrics=dict.fromkeys(names, 0.125)) for name in passes]
    started = run_started(metrics=dict.fromkeys(names, "max"), **changes)
    text = plain(shown(started, *ends, AttemptEnded(code=0, reason="", seconds=1), terminal=True, width=width))
    return [line.rstrip() for line in text[text.index("Results") :].splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_results_of_many_passes_and_metrics_fit_the_console_and_nothing_is_cut(width: int) -> None:
    lines = results(width, num_metrics=30, num_passes=7)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    heads = [line.split() for line in lines if line.strip().startswith("pass")]
    assert [name for head in heads for name in head[1:]] == [
        "samples", "loss", *(f"level_{number}/balanced" for number in range(1, progress_results.NUM_METRICS))
    ]  # fmt: skip
    assert len(heads) == {80: 6, 120: 3}[width]
    assert sum(line.strip().startswith("val_mask_6_SITE_SEASON") for line in lines) == len(heads)
    assert "metrics that only the report shows: 19" in lines


def test_results_that_are_no_headline_say_so_before_the_numbers() -> None:
    lines = results(80, 2, 1, caveat="the same [people] are on both sides " * 3)
    assert lines[1] == ("no headline: " + "the same [people] are on both sides " * 3).rstrip()
    assert not any("headline" in line for line in results(80, 2, 1))


def test_a_stopped_run_tells_its_best_and_why() -> None:
    lines = shown(
        run_started(),
        pass_done(40, 0.5, is_best=True),
        step_done(50),
        AttemptEnded(code=143, reason="SIGTERM", seconds=5),
    ).splitlines()
    assert lines[-2] == "best so far: step 40  loss 0.5000  top1 0.5000"
    assert lines[-1] == "ended with code 143: SIGTERM (step 50, 5.0 s)"


def test_a_file_written_after_the_end_is_still_shown() -> None:
    late = ArtifactWritten(kind="report", path="r.html")
    assert shown(run_started(), AttemptEnded(code=0, reason="", seconds=1), late).splitlines()[-1] == "report  r.html"


def test_numbers_as_text() -> None:
    assert [duration(value) for value in (None, 4.2, 59.9, 60, 3725)] == ["-", "4.2 s", "60 s", "1:00", "1:02:05"]
    assert [rate(value) for value in (None, 3.456, 12345.6)] == ["-", "3.46", "12,346"]
    assert [size(value) for value in (999, 12_345, 5.2e9, 2e13)] == ["999 B", "12.3 kB", "5.2 GB", "20.0 TB"]
    assert number(None) == "-"
