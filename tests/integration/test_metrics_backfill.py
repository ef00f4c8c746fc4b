"""`trainer metrics`: a ledger becomes blocks of a real Prometheus, which then knows every epoch exactly."""

import io
import json
import math
import signal
import sys
import time
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.s3.fixtures import fresh_bucket
from tests.toy import Attempt, Pace, toy_settings, train_toy
from tests.toy_terms import CLASSES, TermsTask, terms_settings
from tests.unit.telemetry_samples import pass_done, records_of, run_started, step_done
from trainer.checkpoint.stores import open_store
from trainer.cli import main
from trainer.telemetry import events
from trainer.telemetry.prometheus.auth import Users
from trainer.telemetry.prometheus.backfill import QUIET, event_of, replay
from trainer.telemetry.prometheus.catalogue import FAMILIES, Family
from trainer.telemetry.reading import effective, read_run, select

NUM_EPOCHS = 5


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The store of a run that was killed after step 15, with its ledger up to 14, and went on from step 12."""
    folder = tmp_path_factory.mktemp("killed")
    # No pass is the best one, so that none but the steps 4, 8, 12 ... has a checkpoint.
    pace, settings = Pace(), toy_settings(folder, num_epochs=NUM_EPOCHS, best={"metric": "val/loss", "mode": "max"})
    first = Attempt(settings.model_copy(update=pace.settings))
    pace.let(15)
    soon = time.monotonic() + 30
    while not (list(folder.glob("toy/checkpoints/*12-*/MANIFEST.json")) and any_of(folder, "PassDone", step=14)):
        assert time.monotonic() < soon, "no checkpoint of step 12, or no pass of step 14 in the ledger"
    first.send(signal.SIGKILL)
    assert first.wait() == [137]
    assert Attempt(settings).wait() == [0]
    return folder


def any_of(folder, event, **fields):
    return [one for one in select(ledger(folder), event) if fields.items() <= one.items()]


@pytest.fixture(scope="module")
def backfilled(killed, prometheus_for_module, promtool, tmp_path_factory):
    """A Prometheus that was started on the blocks of that run."""
    folder = tmp_path_factory.mktemp("blocks")
    command = ["metrics", "backfill", "toy", "--store", f"file://{killed}", "-o", str(folder / "toy.txt")]
    assert main([*command, "--label", "namespace=ml"]) == 0
    done = promtool("tsdb", "create-blocks-from", "openmetrics", folder / "toy.txt", folder / "data")
    assert done.returncode == 0, done.stderr
    return prometheus_for_module(blocks=folder / "data")


def ledger(folder):
    return read_run(open_store(f"file://{folder}"), "toy")


def end_of(records):
    return max(record["wall"] for record in records) + 60


def parsed(recording, **labels):
    """Samples by name, each with its labels, value and time.

    By the parser of the older format: the library's own for OpenMetrics loses all points of a histogram but the first.
    """
    found = {}
    for family in text_string_to_metric_families(b"".join(recording.text(labels)).decode()):
        for one in family.samples:
            found.setdefault(one.name, []).append(
                (one.labels, one.value, one.timestamp * 1000)
            )  # it reads milliseconds
    return found


def test_every_epoch_and_pass_is_in_prometheus_exactly(backfilled, killed):
    story = effective(ledger(killed))
    epochs, passes = select(story, "EpochDone"), [one for one in select(story, "PassDone") if not one["is_final"]]
    assert [record["epoch"] for record in epochs] == list(range(1, NUM_EPOCHS + 1))
    for record in epochs:
        at = record["wall"] + 0.002  # within the rounding to milliseconds and before anything else can have happened
        for name, value in (("epoch", record["epoch"]), ("step", record["step"]), ("epoch_loss", record["loss"])):
            [point] = backfilled.query(f'trainer_{name}{{run="toy",namespace="ml"}}', at)
            assert point.value == value, (name, record)
    [losses] = backfilled.samples("trainer_epoch_loss", end_of(story))
    assert list(dict.fromkeys(value for _, value in losses.points)) == [record["loss"] for record in epochs]
    [top1] = backfilled.samples('trainer_metric{pass="val",name="top1"}', end_of(story))
    assert {value for _, value in top1.points} == {record["metrics"]["top1"] for record in passes}


def test_what_was_done_again_counts_once_and_the_attempts_are_told_apart(backfilled, killed):
    records = ledger(killed)
    at = end_of(records)
    first, second = sorted({record["attempt"] for record in records})
    [steps] = backfilled.samples("trainer_step", at)
    last_of_first = max(record["step"] for record in records if record["attempt"] == first)
    assert select(records, "Resumed")[0]["step"] == 12 < 14 <= last_of_first, "two steps or three were done again"
    assert all(one <= other for (_, one), (_, other) in pairwise(steps.points))
    info = {labels["attempt"] for labels, _ in backfilled.samples("trainer_run_info", at)}
    assert info == {first, second}
    [attempts] = backfilled.samples("trainer_attempts", at)
    assert [value for _, value in attempts.points] == sorted(value for _, value in attempts.points)
    assert {value for _, value in attempts.points} == {1, 2}


def test_the_end_and_the_time_account_are_there(backfilled, killed):
    at = end_of(ledger(killed))
    [code] = backfilled.samples("trainer_exit_code", at)
    assert (code.points[0][1], code.points[-1][1]) == (-1, 0)
    [done] = backfilled.samples('trainer_phase{phase="done"}', at)
    assert [value for _, value in done.points[-1:]] == [1]
    spent = {
        labels["kind"]: points[-1][1] for labels, points in backfilled.samples("trainer_goodput_seconds_total", at)
    }
    assert spent.keys() == set(events.TIME_KINDS)
    assert spent["productive"] > 0


def test_the_text_is_the_same_from_any_store(killed, s3_server, s3_env, tmp_path):
    store = open_store(f"file://{killed}")
    with fresh_bucket(s3_server) as bucket:
        target = open_store(f"s3://{bucket}/runs")
        for entry in store.entries("toy/"):
            if "/ledger/" in entry.key or entry.key.endswith("run.json"):
                target.put(entry.key, [store.get(entry.key)])
        texts = []
        for number, url in enumerate((store.url, target.url)):
            file = tmp_path / f"{number}.txt"
            assert main(["metrics", "backfill", "toy", "--store", url, "--out", str(file)]) == 0
            texts.append(file.read_bytes())
    assert texts[0] == texts[1]
    assert texts[0].endswith(b"# EOF\n")
    assert texts[0].count(b"# EOF") == 1


def test_names_and_labels_are_those_of_the_catalogue(killed):
    catalogue = {series: one for one in FAMILIES for series in one.series}
    found = parsed(replay(ledger(killed), "toy"))
    assert not [name for name in found if "memory" in name], "that would be ours, not the run's"
    for name, samples in found.items():
        family: Family = catalogue[name]
        assert {label for labels, _, _ in samples for label in labels} - {"le"} == set(family.label_names), name


# Hand-made ledgers


def test_a_clock_that_steps_backwards_leaves_the_order_of_what_happened(promtool, tmp_path):
    first = records_of(
        run_started(),
        events.EpochDone(epoch=1, step=10, loss=3.0, metrics={}, seconds=1.0, samples_per_second=1.0),
        events.EpochDone(epoch=2, step=20, loss=2.0, metrics={}, seconds=1.0, samples_per_second=1.0),
        start=5000.0,
    )
    first[2]["wall"] -= 3600  # within an attempt
    second = records_of(
        run_started(attempt="2-bb"),
        events.Resumed(epoch=2, step=20, checkpoint="c", redone_steps=0),
        events.EpochDone(epoch=3, step=30, loss=1.0, metrics={}, seconds=1.0, samples_per_second=1.0),
        attempt="2-bb",
        start=4000.0,  # on a machine whose clock is late
    )
    recording = replay([*first, *second], "r")
    losses = [(value, at) for _, value, at in parsed(recording)["trainer_epoch_loss"]]
    assert list(dict.fromkeys(value for value, _ in losses)) == [3.0, 2.0, 1.0]
    assert [at for _, at in losses] == sorted({at for _, at in losses})
    (tmp_path / "r.txt").write_bytes(b"".join(recording.text()))
    done = promtool("tsdb", "create-blocks-from", "openmetrics", tmp_path / "r.txt", tmp_path / "data")
    assert done.returncode == 0, done.stderr


def test_what_does_not_change_is_there_every_so_often():
    records = records_of(run_started(), step_done(20), pass_done(20), start=1000.0, each=500.0)
    times = [at for _, _, at in parsed(replay(records, "r", every_seconds=60))["trainer_epochs_target"]]
    assert (times[0], times[-1]) == (1000.0, 2000.0)
    assert max(late - early for early, late in pairwise(times)) <= 60
    assert len(times) < 25


def test_a_value_that_was_not_finite_is_nan_and_unknown_events_are_passed_over():
    records = records_of(run_started(), step_done(20, loss=None, grad_norm=None), pass_done(20, loss=None))
    records += [{**records[-1], "event": "OfTheFuture"}, {**records[0], "event": "Event"}]
    records.append({name: records[1][name] for name in ("run", "attempt", "wall", "mono", "epoch", "step")})
    records[-1]["event"] = "StepDone"  # of a version that wrote less
    found = parsed(replay(records, "r"))
    assert math.isnan({labels["pass"]: value for labels, value, _ in found["trainer_loss"]}["train"])
    assert math.isnan({labels["pass"]: value for labels, value, _ in found["trainer_loss"]}["val"])
    assert event_of(records[-1]) is None


def test_quiet_events_are_those_that_come_often():
    assert {kind.__name__ for kind in QUIET} == {"StepDone", "Balanced", "TimeAccounted", "PassStarted"}


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "ünï", "a b"])
def test_labels_of_any_text_come_back_as_they_were(name):
    found = parsed(replay(records_of(run_started()), "r"), team=name)
    assert {labels["team"] for labels, _, _ in found["trainer_epoch"]} == {name}


# The commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--label", "run=x"], "--label run is a label of these metrics already"),
        (["--label", "namespace"], "--label 'namespace' must be NAME=VALUE"),
        (["--label", "a-b=c"], "--label 'a-b=c' must be NAME=VALUE"),
        (["-o", "missing/folder/file"], "--out missing/folder/file cannot be written"),
        (["--every", "500"], "--every"),
    ],
)
def test_what_cannot_be_written_is_one_line(killed, capsys, arguments, said):
    assert main(["metrics", "backfill", "toy", "--store", f"file://{killed}", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_run_that_is_not_there_or_has_no_ledger(killed, tmp_path, capsys):
    assert main(["metrics", "backfill", "tay", "--store", f"file://{killed}"]) == 2
    assert "did you mean 'toy'" in capsys.readouterr().err
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.json").write_bytes((killed / "toy" / "run.json").read_bytes())
    assert main(["metrics", "backfill", "new", "--store", f"file://{tmp_path}"]) == 2
    assert "has no ledger yet" in capsys.readouterr().err


def test_json_says_what_was_written_and_standard_output_takes_the_text(killed, capfdbinary, tmp_path):
    command = ["metrics", "backfill", "toy", "--store", f"file://{killed}", "--json"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    told = json.loads(capfdbinary.readouterr().out)
    written = (tmp_path / "out").read_bytes()
    assert told["samples"] == sum(not line.startswith(b"#") for line in written.splitlines())
    assert main(command) == 0
    assert capfdbinary.readouterr().out == written


def test_the_list_is_the_catalogue(capsys):
    assert main(["metrics", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["kind"], tuple(row["labels"])) for row in rows] == [
        (one.full_name, one.kind, one.label_names) for one in FAMILIES
    ]
    assert main(["metrics", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FAMILIES) + 1


def test_a_password_becomes_a_line_that_lets_its_user_in(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    assert main(["metrics", "password", "prometheus"]) == 0
    (tmp_path / "users").write_text(capsys.readouterr().out)
    assert Users(str(tmp_path / "users")).may("Basic cHJvbWV0aGV1czpzZWNyZXQ=")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert main(["metrics", "password", "prometheus"]) == 2
    assert "the password is empty" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret"))
    assert main(["metrics", "password", "a:b"]) == 2


def test_the_terms_of_a_loss_are_there_with_their_weights(tmp_path):
    train_toy(terms_settings(tmp_path, num_epochs=2), TermsTask)
    records = read_run(open_store(f"file://{tmp_path}"), "terms")
    last = select(records, "StepDone")[-1]
    found = parsed(replay(records, "terms"))
    for family, values in (("loss", last["terms"]), ("weight", last["weights"]), ("grad_norm", last["norms"])):
        shown = {labels["term"]: value for labels, value, _ in found[f"trainer_term_{family}"]}  # the last one stays
        assert shown == pytest.approx(values)
        assert set(shown) == set(CLASSES)
    assert {labels["name"] for labels, _, _ in found["trainer_metric"]} > {"weighted_loss", "fine/top1"}
