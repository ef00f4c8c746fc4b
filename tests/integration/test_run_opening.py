"""When a run is opened: before its data if it has a name, so that whatever ends an attempt early is known."""

import json
import os
import signal

import numpy as np
import pytest

import trainer.run
from tests.toy import Attempt, ToyTask, fork_ranks, toy_settings, train_toy, wait_for
from trainer.errors import DataError, RunError, Stopped
from trainer.run import train_settings


@pytest.fixture
def opens(monkeypatch):
    """Makes the data of the toy task a function of the test."""

    def data_are(work):
        def make_task(settings, world):
            work()
            return ToyTask(settings)

        monkeypatch.setattr(trainer.run, "make_task", make_task)

    return data_are


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def ends(folder):
    """Codes of the attempts that said how they ended."""
    found = sorted((folder / "toy" / "attempts").glob("*.end.json"))
    return [json.loads(path.read_text())["code"] for path in found]


def test_a_process_killed_while_it_loads_its_data_counts_as_dead(opens, tmp_path):
    opens(kill_me)
    settings = toy_settings(tmp_path, run__max_dead_attempts=2)
    for _ in range(2):
        assert wait_for(fork_ranks(lambda _: train_settings(settings), 1)) == [137]
    with pytest.raises(RunError, match="the last 2 attempts were killed without a new checkpoint"):
        train_settings(settings)


def test_a_rank_killed_again_and_again_uses_up_the_budget_of_the_others(tmp_path):
    settings = toy_settings(tmp_path, run__max_dead_attempts=2, checkpoint__every="never")
    for _ in range(2):
        assert Attempt(settings, 2, "after_backward:2", rank=1).wait() == [170, 137]
    assert Attempt(settings, 2).wait()[0] == RunError.exit_code
    assert ends(tmp_path) == [170, 170]


def test_sigterm_while_data_are_loaded_is_a_stop_and_no_death(opens, tmp_path):
    opens(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="told to stop by SIGTERM"):
        train_settings(toy_settings(tmp_path))
    assert ends(tmp_path) == [Stopped.exit_code]


def test_bad_data_end_the_attempt_in_its_ledger_and_mended_settings_go_on(opens, tmp_path):
    def refuse():
        raise DataError("data folder is missing")

    opens(refuse)
    with pytest.raises(DataError):
        train_settings(toy_settings(tmp_path))
    (segment,) = (tmp_path / "toy" / "ledger").glob("*/*.jsonl")
    last = json.loads(segment.read_text().splitlines()[-1])
    assert (last["event"], last["code"], last["reason"]) == ("AttemptEnded", 3, "data folder is missing")
    opens(lambda: None)
    train_settings(toy_settings(tmp_path, num_samples=40))
    assert ends(tmp_path) == [3, 0]


def test_bad_data_of_a_start_without_a_name_leave_nothing(opens, tmp_path):
    opens(lambda: np.load(tmp_path / "no such file"))
    settings = toy_settings(tmp_path / "runs")
    settings.run.name = None
    with pytest.raises(FileNotFoundError):
        train_settings(settings)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_complete_run_asks_for_no_data(world_size, opens, tmp_path):
    train_toy(toy_settings(tmp_path))
    opens(kill_me)
    settings = toy_settings(tmp_path)
    assert wait_for(fork_ranks(lambda _: train_settings(settings), world_size)) == [0] * world_size


def test_a_refused_run_asks_for_no_data(opens, tmp_path):
    train_toy(toy_settings(tmp_path))
    opens(kill_me)
    with pytest.raises(RunError, match="made with other settings"):
        train_settings(toy_settings(tmp_path, dropout=0.1))


@pytest.mark.parametrize("world_size", [1, 2])
def test_other_data_than_the_named_run_began_with_are_refused(world_size, opens, monkeypatch, tmp_path):
    """Its settings were compared before the data were open, so their digest is not among them."""
    opens(lambda: None)

    def start(digest, **values):
        monkeypatch.setattr(ToyTask, "info", lambda _: {"data_digest": digest})
        return wait_for(fork_ranks(lambda _: train_settings(toy_settings(tmp_path, **values)), world_size))

    assert start("a", num_epochs=1) == start("a", num_epochs=2) == [0] * world_size
    assert start("b", num_epochs=3) == [RunError.exit_code] * world_size
    last = json.loads(sorted((tmp_path / "toy" / "attempts").glob("*.end.json"))[-1].read_text())
    assert "was trained on other data (digest a before, b now)" in last["reason"]
    assert start("b", num_epochs=3, run__resume_with_changes=True) == [0] * world_size
