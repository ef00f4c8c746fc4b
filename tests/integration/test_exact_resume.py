"""Killed anywhere, the end weights are bit-equal to those of an undisturbed run."""

import json
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.toy import Attempt, toy_settings
from trainer.checkpoint.crash import POINTS

SIZES = (1, 2, 4)
NTH = {"before_finish": 1, "after_finish": 1, "before_attempt": 1, "after_attempt": 1, "before_complete": 1,
       "after_complete": 1, "before_pass": 2, "after_pass": 2, "after_epoch": 2}  # fmt: skip


def end_state(folder: Path) -> dict[str, bytes]:
    """Every tensor of the last checkpoint, as bytes."""
    run = folder / "toy"
    latest = max((run / "checkpoints").iterdir(), key=lambda path: path.name)
    tensors = {}
    for part in ("model", "optimizer"):
        tensors |= {
            f"{part}/{name}": value.numpy().tobytes()
            for name, value in load_file(latest / f"{part}.safetensors").items()
        }
    return tensors


def records(folder: Path, name: str) -> dict[int, object]:
    """One field of the log points by step, the last word on each."""
    found = {}
    for segment in sorted((folder / "toy" / "ledger").glob("*/*.jsonl")):
        for line in segment.read_text().splitlines():
            record = json.loads(line)
            if record["event"] == "StepDone":
                found[record["step"]] = record[name]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """End state of a run that nothing happened to, by world size."""
    states: dict[int, dict[str, bytes]] = {}

    def get(world_size: int) -> dict[str, bytes]:
        if world_size not in states:
            folder = tmp_path_factory.mktemp("undisturbed")
            assert Attempt(toy_settings(folder, accumulation=2), world_size).wait() == [0] * world_size
            states[world_size] = end_state(folder)
        return states[world_size]

    return get


def finish(folder: Path, world_size: int, **values) -> None:
    """Start again until the run is complete; two attempts must do."""
    for _ in range(2):
        codes = Attempt(toy_settings(folder, accumulation=2, **values), world_size).wait()
        if codes == [0] * world_size:
            return
    raise AssertionError(f"the run did not finish: {codes}")


@pytest.mark.parametrize(("number", "point"), list(enumerate(sorted(POINTS - {"in_restore", "after_restore"}))))
def test_kill_at_every_named_point(number, point, tmp_path, undisturbed):
    world_size = SIZES[number % 3]
    codes = Attempt(toy_settings(tmp_path, accumulation=2), world_size, f"{point}:{NTH.get(point, 3)}").wait()
    assert codes[0] == 128 + signal.SIGKILL, f"{point} was never met: {codes}"
    finish(tmp_path, world_size)
    assert end_state(tmp_path) == undisturbed(world_size)


@pytest.mark.parametrize(("point", "world_size"), [("in_restore", 1), ("after_restore", 2)])
def test_kill_while_restoring(point, world_size, tmp_path, undisturbed):
    settings = toy_settings(tmp_path, accumulation=2)
    assert Attempt(settings, world_size, "after_update:10").wait()[0] == 137
    assert Attempt(settings, world_size, point).wait()[0] == 137
    finish(tmp_path, world_size)
    assert end_state(tmp_path) == undisturbed(world_size)


@pytest.mark.proof
@pytest.mark.parametrize("world_size", SIZES)
@pytest.mark.parametrize("point", sorted(POINTS - {"in_restore", "after_restore"}))
def test_kill_table(point, world_size, tmp_path, undisturbed):
    codes = Attempt(toy_settings(tmp_path, accumulation=2), world_size, f"{point}:{NTH.get(point, 3)}").wait()
    assert codes[0] == 137
    finish(tmp_path, world_size)
    assert end_state(tmp_path) == undisturbed(world_size)


@pytest.mark.parametrize("world_size", [2])
def test_kill_of_another_rank(world_size, tmp_path, undisturbed):
    codes = Attempt(toy_settings(tmp_path, accumulation=2), world_size, "after_backward:9", rank=1).wait()
    assert codes == [170, 137]
    finish(tmp_path, world_size)
    assert end_state(tmp_path) == undisturbed(world_size)


def kill_later(attempt: Attempt, seconds: float, rank: int) -> threading.Timer:
    """Kill one rank after a while, if it is still there."""

    def kill() -> None:
        with suppress(ProcessLookupError):
            attempt.send(signal.SIGKILL, rank)

    timer = threading.Timer(seconds, kill)
    timer.start()
    return timer


def killed_at_random(folder: Path, draw: random.Random, world_size: int, calm_seconds: float) -> int:
    """Let a run be killed at random instants until it is complete; returns how often it was."""
    kills = 0
    # Whoever waits for a rank that died before they met gives up after the time-out, so it is short here.
    values = {"accumulation": 2, "run__max_dead_attempts": 1000, "process_timeout_seconds": 4}
    while True:
        attempt = Attempt(toy_settings(folder, **values), world_size)
        timer = kill_later(attempt, draw.uniform(0.0, calm_seconds), draw.randrange(world_size))
        codes = attempt.wait()
        timer.cancel()
        if codes == [0] * world_size:
            return kills
        kills += 1


@pytest.mark.proof
@pytest.mark.parametrize("world_size", SIZES)
def test_kill_at_random_instants(world_size, tmp_path, undisturbed):
    started = time.monotonic()
    assert Attempt(toy_settings(tmp_path / "calm", accumulation=2), world_size).wait() == [0] * world_size
    calm_seconds = time.monotonic() - started
    draw, kills, runs = random.Random(world_size), 0, 0
    while kills < 25:
        runs += 1
        kills += killed_at_random(tmp_path / f"wild{runs}", draw, world_size, calm_seconds)
        assert end_state(tmp_path / f"wild{runs}") == undisturbed(world_size)
        assert runs < 200, "hardly any kill came in time"
    print(f"{world_size} processes: {kills} kills at random instants in {runs} runs, all ends bit-equal")


@pytest.mark.parametrize(("world_size", "rank"), [(1, 0), (4, 2)])
def test_sigterm_to_any_rank_publishes_once_and_all_leave_with_143(world_size, rank, tmp_path, undisturbed):
    settings = toy_settings(tmp_path, accumulation=2, checkpoint__every="never", term_at=9, term_rank=rank)
    assert Attempt(settings, world_size).wait() == [143] * world_size
    folders = [path.name for path in (tmp_path / "toy" / "checkpoints").iterdir()]
    assert len(folders) == 1
    finish(tmp_path, world_size)
    assert end_state(tmp_path) == undisturbed(world_size)


def test_processes_may_change_between_attempts(tmp_path):
    settings = {"dropout": 0.0, "num_epochs": 4, "telemetry__sample_ids": True, "num_samples": 61}
    calm, changing = tmp_path / "calm", tmp_path / "changing"
    assert Attempt(toy_settings(calm, **settings)).wait() == [0]
    assert Attempt(toy_settings(changing, term_at=6, **settings), 4).wait() == [143] * 4
    assert Attempt(toy_settings(changing, term_at=12, **settings), 2).wait() == [143] * 2
    assert Attempt(toy_settings(changing, **settings), 1).wait() == [0]
    assert records(changing, "sample_ids") == records(calm, "sample_ids")
    ours, theirs = records(changing, "loss"), records(calm, "loss")
    assert ours.keys() == theirs.keys()
    assert all(ours[step] == pytest.approx(theirs[step], rel=1e-5) for step in theirs)


def test_length_may_grow(tmp_path):
    long, grown = tmp_path / "long", tmp_path / "grown"
    constant = {"schedule__name": "constant"}
    assert Attempt(toy_settings(long, num_epochs=5, **constant)).wait() == [0]
    assert Attempt(toy_settings(grown, num_epochs=2, **constant)).wait() == [0]
    assert Attempt(toy_settings(grown, num_epochs=2, **constant)).wait() == [0]
    assert Attempt(toy_settings(grown, num_epochs=5, **constant)).wait() == [0]
    assert end_state(grown) == end_state(long)
    assert len(list((grown / "toy" / "attempts").glob("*.end.json"))) == 2
