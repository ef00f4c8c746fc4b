"""The task hierarchy through its command: the plan that `config --plan` prints is what happens; ends of a process."""

import json
import os
import signal
import sys
import time
from collections import Counter

import pytest

from tests.s3.runs import everything
from tests.toy import fork_ranks, wait_for
from trainer.checkpoint import crash
from trainer.checkpoint.restore import load_checkpoint
from trainer.checkpoint.stores import open_store
from trainer.cli import main
from trainer.telemetry.reading import effective, read_run, select

QUICK = ["--task", "hierarchy", "--config", "quick"]
PLANNED = [
    "telemetry.log_every=every 1 steps", "mix.probability=1 @ 0, 0.2 @ 100%", "mask.all=0.5 @ 0, 0 @ 50% cosine",
    "mix.level=coarse @ 0, fine @ 60%", "checkpoint.every=every 3 epochs and end", "checkpoint.milestones=at 33 %",
    "schedule.name=cosine", "schedule.warmup=1.5 epochs", "balance.kind=gradnorm", "balance.every=every 7 steps",
]  # fmt: skip
SECRETS = ["WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"]
STOPS_EARLY = ["early_stop.mode=max", "early_stop.patience=1 passes"]
"""A falling loss is no gain: the second value of `val/loss`, at step 80, ends the run."""


def line_of(command, *settings):
    return [command, *QUICK, *(word for text in settings for word in ("--set", text))]


def train_line(folder, *settings):
    quiet = ["output.report=false", "output.export=[]", "telemetry.tensorboard=off", "telemetry.warnings=false"]
    return [*line_of("train", *quiet, *settings), "--store", f"file://{folder}", "--run_name", "run"]


def forked(line, crash_at=None):
    """The process of a command, as its exit code would be."""

    def run(rank):
        crash.arm(crash_at)
        os._exit(main(line))

    return fork_ranks(run, 1)


def plan(capsys, *settings):
    assert main([*line_of("config", *settings), "--plan", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def check_plan(planned, folder, end):
    """Passes, checkpoints, rates and curves up to a step are those of the plan, line for line."""
    records = effective(read_run(open_store(f"file://{folder}"), "run"))
    passes = [one for one in select(records, "PassDone") if not one["is_final"]]
    happened = [(one["step"], f"pass {one['name']}") for one in passes]
    lines = [one for one in planned["timeline"] if one["step"] <= end]
    due = {(one["step"], one["what"]) for one in lines if one["what"].startswith("pass")}
    assert due
    assert (len(happened), set(happened)) == (len(due), due)
    measured = [one["step"] for one in select(records, "Balanced")]
    assert measured == [one["step"] for one in lines if one["what"] == "balance"]
    steps = {one["step"] - 1: one for one in select(records, "StepDone")}
    assert sorted(steps) == list(range(end))
    knots = [one for one in lines if one["step"] < end]
    assert {"learning rate", "curve mix", "curve mask_all", "curve mix_level"} <= {one["what"] for one in knots}
    for one in knots:
        step = steps[one["step"]]
        assert (step["learning_rate"], step["curves"]) == (one["learning_rate"], one["curves"]), one
    return records, Counter(one["step"] for one in lines if one["what"] == "checkpoint")


def with_bests(checkpoints, records, end):
    """Planned checkpoints and, for every new best, the one that nobody can plan; at the end one is both."""
    bests = [one["step"] for one in select(records, "PassDone") if one["is_best"] and not one["is_final"]]
    assert bests
    return checkpoints + Counter(step for step in bests if step != end)


def taken(records):
    return Counter(one["step"] for one in select(records, "CheckpointTaken"))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder of a run that nothing happened to, with secrets in its environment."""
    folder = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.setenv(name, f"secret-of-{name}")
        assert main(train_line(folder, *PLANNED)) == 0
    return folder


def test_04_plan_of_the_command_is_the_ledger_of_the_run(calm, capsys):
    planned = plan(capsys, *PLANNED)
    assert (planned["total_steps"], planned["steps_per_epoch"]) == (120, 10)
    check_plan(planned, calm, 120)
    assert main([*line_of("config", *PLANNED), "--plan"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[2:]] == [str(one["step"]) for one in planned["timeline"]]


def test_25_there_are_as_many_checkpoints_as_planned(calm, capsys):
    """And one more for a new best: linnaeus leaves 22 to 26 files an epoch."""
    records, checkpoints = check_plan(plan(capsys, *PLANNED), calm, 120)
    assert taken(records) == with_bests(checkpoints, records, 120)
    assert len(select(records, "CheckpointPublished")) == taken(records).total()


def test_defect_16_secrets_of_the_environment_are_in_nothing_that_is_kept(calm):
    kept = everything(f"file://{calm}")
    assert "every 40 steps" in kept, "what the user wrote is kept, not what it came to"
    assert not [name for name in SECRETS if f"secret-of-{name}" in kept]


def test_04_a_killed_run_keeps_to_the_plan(tmp_path, capsys):
    planned = plan(capsys, *PLANNED)
    assert wait_for(forked(train_line(tmp_path, *PLANNED), "mid_pass:12")) == [128 + signal.SIGKILL]
    assert main(train_line(tmp_path, *PLANNED)) == 0
    records, checkpoints = check_plan(planned, tmp_path, 120)
    assert len(select(records, "RunStarted")) == 2
    assert set(taken(records)) == set(with_bests(checkpoints, records, 120))


def test_04_an_early_stop_cuts_the_plan_short(tmp_path, capsys):
    planned = plan(capsys, *PLANNED, *STOPS_EARLY)
    assert planned["total_steps"] == 120
    assert main(train_line(tmp_path, *PLANNED, *STOPS_EARLY)) == 0
    records, checkpoints = check_plan(planned, tmp_path, 80)
    assert not checkpoints[80]
    assert taken(records) == with_bests(checkpoints + Counter({80: 1}), records, 80), "the state at the end is kept"


@pytest.mark.parametrize(
    ("settings", "code"),
    [(["optim.lr=1e30"], 4), (["data.digest=of-other-data"], 3), (["mask.when=every 0 %"], 2)],
)  # fmt: skip
def test_25_an_error_ends_with_its_exit_code_and_one_line(settings, code, tmp_path, capfd):
    assert wait_for(forked(train_line(tmp_path, *settings))) == [code]
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert [line.startswith("error: ") for line in err.splitlines()].count(True) == 1
    assert not (tmp_path / "run/COMPLETE.json").exists()


def test_25_sigterm_leaves_a_loadable_checkpoint_within_2_s(tmp_path):
    read, write = os.pipe()

    def run(rank):
        sys.stdout = os.fdopen(write, "w", buffering=1)
        os._exit(main(train_line(tmp_path, "num_epochs=300", "telemetry.progress=lines", "checkpoint.every=never")))

    [pid] = fork_ranks(run, 1)
    os.close(write)
    with os.fdopen(read) as output:
        assert any(line.startswith("Epoch 2/") for line in output), "it ended before its second epoch"
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        output.read()
    assert wait_for([pid]) == [143]
    seconds = time.monotonic() - started
    print(f"\nSIGTERM: a checkpoint, and gone after {seconds:.2f} s")
    assert seconds <= 2.0
    found = load_checkpoint(open_store(f"file://{tmp_path}"), "run")
    assert found is not None
    assert found.step > 10
