"""What goes wrong in a run, and how it ends."""

import json
import math
import os
import signal
import subprocess
import threading

import pytest
import torch
from safetensors.torch import load_file

from tests.toy import Attempt, ToyTask, toy_settings, train_toy
from trainer.checkpoint.publish import Publisher
from trainer.engine.evaluate import run_pass
from trainer.engine.step import Mailbox
from trainer.engine.task import Loss
from trainer.errors import InfrastructureError, RunError, SettingsError, Stopped, SupersededError


def events(folder, *names):
    """Ledger records of these events, in order."""
    lines = [
        line
        for segment in sorted((folder / "toy" / "ledger").glob("*/*.jsonl"))
        for line in segment.read_text().splitlines()
    ]
    return [record for record in map(json.loads, lines) if record["event"] in names]


def newest(folder):
    """State of the newest checkpoint."""
    whole = [path.parent for path in (folder / "toy" / "checkpoints").glob("*/MANIFEST.json")]
    latest = max(whole, key=lambda path: path.name)
    return json.loads((latest / "state.json").read_text())


def assert_no_weight_is_spoilt(folder):
    for file in (folder / "toy").glob("checkpoints/*/model.safetensors"):
        assert all(torch.isfinite(value).all() for value in load_file(file).values())


def test_stop_policy_ends_with_4_and_publishes_nothing_spoilt(tmp_path):
    with pytest.raises(RunError, match="was not finite"):
        train_toy(toy_settings(tmp_path, poison_sample=5))
    (bad,) = events(tmp_path, "NonFinite")
    assert 5 in bad["sample_ids"]
    assert events(tmp_path, "AttemptEnded")[-1]["code"] == 4
    assert_no_weight_is_spoilt(tmp_path)


def test_skip_policy_leaves_the_update_out_within_its_budget(tmp_path):
    train_toy(toy_settings(tmp_path, poison_sample=5, nonfinite__policy="skip"))
    cursor = newest(tmp_path)["cursor"]
    assert (cursor["step"], cursor["updates"]) == (21, 18)
    assert sum(record["skipped_steps"] for record in events(tmp_path, "StepDone")) == 3


def test_skips_beyond_the_budget_end_the_run(tmp_path):
    with pytest.raises(RunError):
        train_toy(toy_settings(tmp_path, poison_sample=5, nonfinite__policy="skip", nonfinite__budget=2))
    assert [record["policy"] for record in events(tmp_path, "NonFinite")] == ["skip", "skip", "stop"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_rollback_returns_to_the_last_checkpoint_and_leaves_the_bad_step_out(world_size, tmp_path):
    values = {"poison_sample": 5, "nonfinite__policy": "rollback", "checkpoint__every": "every 2 steps and end"}
    assert Attempt(toy_settings(tmp_path, **values), world_size).wait() == [0] * world_size
    cursor = newest(tmp_path)["cursor"]
    assert len(cursor["left_out"]) == 3
    assert (cursor["step"], cursor["updates"]) == (21, 18)
    assert len(events(tmp_path, "Resumed")) == 3


@pytest.fixture
def as_on_cuda(monkeypatch):
    """A gradient is applied before anybody has looked at it, and its norm is read one step later."""
    monkeypatch.setattr("trainer.engine.fit.Mailbox", lambda is_late: Mailbox(is_late=True))
    monkeypatch.setattr("trainer.engine.step.reads_at_once", lambda job: False)


@pytest.mark.parametrize("place", [2, 6])  # in the middle of an epoch; its last step, whose verdict is waited for
def test_a_late_verdict_rolls_back_once_and_leaves_nothing_of_the_bad_steps(place, as_on_cuda, tmp_path):
    plan = ToyTask(toy_settings(tmp_path)).plan()
    poison = int(plan.batch(0, place)[0])
    values = {"poison_sample": poison, "nonfinite__policy": "rollback", "telemetry__log_every": "every 4 steps"}
    values |= {"num_epochs": 1, "checkpoint__every": "every 2 steps and end", "telemetry__sample_ids": True}
    train_toy(toy_settings(tmp_path, **values))
    assert newest(tmp_path)["cursor"]["left_out"] == [place]
    assert max(len(record["sample_ids"] or []) for record in events(tmp_path, "StepDone")) <= 4
    assert [record["used"] for record in events(tmp_path, "NonFinite")] == [1]
    (epoch,) = events(tmp_path, "EpochDone")
    assert math.isfinite(epoch["loss"])
    assert_no_weight_is_spoilt(tmp_path)


def test_a_rollback_runs_the_pass_that_its_checkpoint_owes_before_it_trains_on(tmp_path, monkeypatch):
    """Without a new best in the pass after step 14, the newest checkpoint is the one that was taken before it."""
    loss, evaluate = ToyTask.loss, ToyTask.evaluate

    def breaks_once(self, model, batch):
        found = loss(self, model, batch)
        return Loss({"loss": found.terms["loss"] * math.nan}) if self.calls == 16 else found

    def never_better(self, model, batch):
        sums = evaluate(self, model, batch)
        return sums | {"loss": sums["count"]}

    monkeypatch.setattr(ToyTask, "loss", breaks_once)
    monkeypatch.setattr(ToyTask, "evaluate", never_better)
    train_toy(toy_settings(tmp_path, nonfinite__policy="rollback", checkpoint__every="every 7 steps and end"))
    assert newest(tmp_path)["cursor"]["left_out"] == [15]
    passes = [record["step"] for record in events(tmp_path, "PassDone") if not record["is_final"]]
    assert passes == [7, 14, 14, 21]


def test_a_stop_waits_for_the_verdict_of_the_last_step(as_on_cuda, tmp_path, monkeypatch):
    """Told to stop in the very step that breaks the weights: these must not be what the next attempt goes on from."""
    loss = ToyTask.loss

    def told_to_stop(self, model, batch):
        if (batch["index"] == self.settings.poison_sample).any():
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, model, batch)

    monkeypatch.setattr(ToyTask, "loss", told_to_stop)
    poison = int(ToyTask(toy_settings(tmp_path)).plan().batch(0, 2)[0])
    with pytest.raises(RunError, match="was not finite"):
        train_toy(toy_settings(tmp_path, poison_sample=poison, telemetry__log_every="every 50 steps"))
    assert_no_weight_is_spoilt(tmp_path)


def test_early_stop_completes_the_run_before_its_length(tmp_path):
    rule = {"patience": "3 passes", "min_delta": 0.5}
    settings = toy_settings(tmp_path, num_epochs=50, optim__lr=1e-9, early_stop=rule)
    finished = train_toy(settings)
    assert finished.results["val"]["loss"] > 0
    assert newest(tmp_path)["cursor"]["epoch"] == 4
    assert "early stop" in events(tmp_path, "Noted")[-1]["text"]
    assert train_toy(settings).results == {}


def test_a_deadline_publishes_and_ends_with_143(tmp_path):
    with pytest.raises(Stopped, match="deadline"):
        train_toy(toy_settings(tmp_path, num_epochs=10_000, run__deadline_seconds=0.5))
    assert newest(tmp_path)["cursor"]["step"] == events(tmp_path, "AttemptEnded")[-1]["step"] > 0


def test_a_deadline_waits_for_a_slow_store(tmp_path, monkeypatch):
    """Nobody is going to kill the process: the newest state is worth the wait for the checkpoint under way."""
    publish = Publisher._publish

    def slowly(self, content):
        threading.Event().wait(0.7)
        publish(self, content)

    monkeypatch.setattr(Publisher, "_publish", slowly)
    with pytest.raises(Stopped, match="deadline"):
        train_toy(toy_settings(tmp_path, num_epochs=10_000, run__deadline_seconds=0.5))
    assert newest(tmp_path)["cursor"]["step"] == events(tmp_path, "AttemptEnded")[-1]["step"] > 0


def test_a_stop_in_a_pass_leaves_it_owed(tmp_path, monkeypatch):
    evaluate = ToyTask.evaluate

    def stop_here(self, model, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, model, batch)

    monkeypatch.setattr(ToyTask, "evaluate", stop_here)
    with pytest.raises(Stopped):
        train_toy(toy_settings(tmp_path))
    assert newest(tmp_path)["cursor"]["owed"] == ["val"]
    monkeypatch.setattr(ToyTask, "evaluate", evaluate)
    train_toy(toy_settings(tmp_path))
    passes = [record["step"] for record in events(tmp_path, "PassDone") if not record["is_final"]]
    assert passes == [7, 14, 21]


def test_other_settings_are_refused_with_their_difference(tmp_path):
    train_toy(toy_settings(tmp_path, num_epochs=1))
    with pytest.raises(RunError, match=r"optim\.lr: 0\.01 -> 0\.02"):
        train_toy(toy_settings(tmp_path, num_epochs=2, optim__lr=0.02))
    train_toy(toy_settings(tmp_path, num_epochs=2, optim__lr=0.02, run__resume_with_changes=True))


def test_a_pass_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"passes\.test is set, but the task has only: val"):
        train_toy(toy_settings(tmp_path, passes={"test": "every 1 epochs"}))


def test_precision_bf16_trains_like_fp32(tmp_path):
    losses = {}
    for amp in ("fp32", "bf16"):
        train_toy(toy_settings(tmp_path / amp, precision__amp=amp, dropout=0.0, num_epochs=8))
        losses[amp] = events(tmp_path / amp, "EpochDone")[-1]["loss"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_fp16_scaler_skips_do_not_advance_the_schedule(tmp_path):
    train_toy(toy_settings(tmp_path, precision={"amp": "fp16", "init_scale": 2.0**40}, num_epochs=4))
    cursor = newest(tmp_path)["cursor"]
    skipped = sum(record["skipped_steps"] for record in events(tmp_path, "StepDone"))
    assert skipped > 0
    assert cursor["updates"] == cursor["step"] - skipped
    assert newest(tmp_path)["scaler"]["scale"] < 2.0**40


def test_the_average_of_the_weights_is_evaluated_and_survives_a_resume(tmp_path):
    values = {"ema": {"enabled": True, "decay": 0.9}, "accumulation": 2}
    assert Attempt(toy_settings(tmp_path / "calm", **values)).wait() == [0]
    assert Attempt(toy_settings(tmp_path / "killed", **values), crash_at="after_update:12").wait() == [137]
    assert Attempt(toy_settings(tmp_path / "killed", **values)).wait() == [0]
    ends = [events(tmp_path / name, "PassDone")[-1]["metrics"] for name in ("calm", "killed")]
    assert ends[0] == ends[1]
    assert math.isfinite(ends[0]["loss"])


def test_more_processes_than_samples_still_train(tmp_path):
    assert Attempt(toy_settings(tmp_path, num_samples=3, batch_size=3), 4).wait() == [0] * 4


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small file system: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_ends_with_170_and_loses_nothing(small_disk):
    settings = {"num_epochs": 20, "checkpoint__milestones": "every 1 steps", "checkpoint__every": "every 2 steps"}
    with pytest.raises(InfrastructureError, match=r"No space left on device; free space there"):
        train_toy(toy_settings(small_disk, **settings))
    reached = newest(small_disk)["cursor"]["step"]
    assert reached > 2
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    train_toy(toy_settings(small_disk, **settings))
    assert newest(small_disk)["cursor"]["step"] == 140


def test_a_read_only_store_ends_with_170_before_anything_is_trained(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(InfrastructureError, match=r"Read-only file system; mount it writable"):
        train_toy(toy_settings(small_disk))
    assert list(small_disk.iterdir()) == []


def test_a_superseded_attempt_stops_with_171_and_writes_nothing_more(tmp_path, monkeypatch):
    loss = ToyTask.loss
    newer = tmp_path / "toy" / "attempts" / "0099-ffffff.json"

    def taken_over(self, model, batch):
        if self.calls == 9:
            newer.write_text(json.dumps({"attempt": "0099-ffffff"}))
        return loss(self, model, batch)

    monkeypatch.setattr(ToyTask, "loss", taken_over)
    with pytest.raises(SupersededError, match="attempt 0099-ffffff has taken over"):
        train_toy(toy_settings(tmp_path, num_epochs=500))
    # What was in flight may finish: the checkpoint of step 8 and its hints; and the ledger up to the stop.
    steps = {path.name[:12] for path in (tmp_path / "toy" / "checkpoints").iterdir()}
    assert steps <= {"000000000004", "000000000007", "000000000008"}
    assert json.loads((tmp_path / "toy" / "latest.json").read_text())["step"] <= 8
    assert not list((tmp_path / "toy" / "attempts").glob("*.end.json"))
    assert not events(tmp_path, "AttemptEnded")


def bests(folder, event):
    """Steps at which passes or checkpoints were the best so far."""
    return [record["step"] for record in events(folder, event) if record["is_best"]]


def stop_in_second_pass(settings, monkeypatch):
    """Train until the pass after step 14, with which the next attempt begins."""

    def interrupt(job, a_pass):
        if job.cursor.step == 14:
            job.stopping = ("told to stop by the test", Stopped.exit_code)
            return None
        return run_pass(job, a_pass)

    with monkeypatch.context() as patch:
        patch.setattr("trainer.engine.passes.run_pass", interrupt)
        with pytest.raises(Stopped):
            train_toy(settings)


def test_a_best_that_an_owed_pass_finds_is_published_as_one(tmp_path, monkeypatch):
    stop_in_second_pass(toy_settings(tmp_path), monkeypatch)
    train_toy(toy_settings(tmp_path))
    assert bests(tmp_path, "CheckpointPublished") == bests(tmp_path, "PassDone") == [7, 14, 21]


def test_an_owed_pass_knows_the_rate_of_the_step_before_it(tmp_path, monkeypatch):
    """A rate of nothing would have fallen below the limit, and end the run."""
    settings = toy_settings(tmp_path, schedule__name="constant", early_stop={"min_lr": 0.005})
    stop_in_second_pass(settings, monkeypatch)
    train_toy(settings)
    assert newest(tmp_path)["cursor"]["step"] == 21


def test_a_best_found_just_before_a_stop_is_published_as_one(tmp_path, monkeypatch):
    def stop_after(job, a_pass):
        done = run_pass(job, a_pass)
        job.stopping = ("told to stop by the test", Stopped.exit_code)
        return done

    monkeypatch.setattr("trainer.engine.passes.run_pass", stop_after)
    with pytest.raises(Stopped):
        train_toy(toy_settings(tmp_path))
    assert bests(tmp_path, "CheckpointPublished") == bests(tmp_path, "PassDone") == [7]
