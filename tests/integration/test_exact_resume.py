"""Killed anywhere, the end weights are bit-equal to those of an undisturbed run."""

import json
import random
import signal
import time
from pathlib import Path

import boto3  # noqa: F401  # here once, so that forked attempts have it
import pytest

from tests.bench.turns import print_table
from tests.s3.runs import end_state
from tests.toy import Attempt, kill_later, toy_settings
from trainer.checkpoint.crash import POINTS
from trainer.checkpoint.inspect import verify_checkpoints
from trainer.checkpoint.stores import open_store

SIZES = (1, 2, 4)
KINDS = ("file", "s3")
EQUAL = "equal"
IN_RESTORE = {"in_restore", "after_restore"}
NTH = {"before_finish": 1, "after_finish": 1, "before_attempt": 1, "after_attempt": 1, "before_complete": 1,
       "after_complete": 1, "in_restore": 1, "after_restore": 1, "before_pass": 2, "after_pass": 2,
       "after_epoch": 2}  # fmt: skip


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
    """End state of a run that nothing happened to, on a disk, by world size."""
    states: dict[int, dict[str, bytes]] = {}

    def get(world_size: int) -> dict[str, bytes]:
        if world_size not in states:
            folder = tmp_path_factory.mktemp("undisturbed")
            assert Attempt(toy_settings(folder, accumulation=2), world_size).wait() == [0] * world_size
            states[world_size] = end_state(f"file://{folder}")
        return states[world_size]

    return get


@pytest.fixture
def store_url(request, tmp_path):
    """The URL of a fresh store, by kind."""

    def make(kind: str) -> str:
        if kind == "file":
            return f"file://{tmp_path}"
        request.getfixturevalue("s3_env")
        return f"s3://{request.getfixturevalue('bucket')}/runs"

    return make


def settings_for(url: str, folder: Path, **values):
    """Two micro-batches a step, and a store of any kind."""
    return toy_settings(folder, accumulation=2, run__store=url, checkpoint__spool=str(folder / "spool"), **values)


def finish(url: str, folder: Path, world_size: int, **values) -> None:
    """Start again until the run is complete; two attempts must do. What is left in the store is whole."""
    for _ in range(2):
        codes = Attempt(settings_for(url, folder, **values), world_size).wait()
        if codes == [0] * world_size:
            assert {one.problem for one in verify_checkpoints(open_store(url), "toy")} == {None}
            return
    raise AssertionError(f"the run did not finish: {codes}")


def kill_at(point: str, url: str, folder: Path, world_size: int) -> None:
    """An attempt that dies at a point; a point in restore needs one before it that died elsewhere."""
    if point in IN_RESTORE:
        assert Attempt(settings_for(url, folder), world_size, "after_update:10").wait()[0] == 137
    codes = Attempt(settings_for(url, folder), world_size, f"{point}:{NTH.get(point, 3)}").wait()
    assert codes[0] == 128 + signal.SIGKILL, f"{point} was never met: {codes}"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "point"), list(enumerate(sorted(POINTS))))
def test_kill_at_every_named_point(number, point, tmp_path, store_url, undisturbed):
    world_size, url = SIZES[number % 3], store_url(KINDS[number % 2])
    kill_at(point, url, tmp_path, world_size)
    finish(url, tmp_path, world_size)
    assert end_state(url) == undisturbed(world_size)


@pytest.fixture(scope="module")
def kill_table():
    """Results by (point, kind, world size), printed as a table at the end."""
    results: dict[tuple[str, str, int], str] = {}
    yield results
    if not results:
        return
    columns = sorted({key[1:] for key in results})
    headings = [f"{kind} x {size}" for kind, size in columns]
    rows = [(point, *(results.get((point, *one), "-") for one in columns)) for point in sorted({k[0] for k in results})]
    notes = [f"{sum(result == EQUAL for result in results.values())} of {len(results)} ends bit-equal, stores clean"]
    print_table("SIGKILL at a point, store x processes", ("point", *headings), rows, notes)


@pytest.mark.proof
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "world_size"), [("file", 1), ("file", 2), ("file", 4), ("s3", 1), ("s3", 2)])
@pytest.mark.parametrize("point", sorted(POINTS))
def test_kill_table(point, world_size, kind, tmp_path, store_url, undisturbed, kill_table):
    url = store_url(kind)
    kill_table[point, kind, world_size] = "NOT EQUAL"
    kill_at(point, url, tmp_path, world_size)
    finish(url, tmp_path, world_size)
    assert end_state(url) == undisturbed(world_size)
    kill_table[point, kind, world_size] = EQUAL


@pytest.mark.parametrize("world_size", [2])
def test_kill_of_another_rank(world_size, tmp_path, undisturbed):
    codes = Attempt(toy_settings(tmp_path, accumulation=2), world_size, "after_backward:9", rank=1).wait()
    assert codes == [170, 137]
    finish(f"file://{tmp_path}", tmp_path, world_size)
    assert end_state(f"file://{tmp_path}") == undisturbed(world_size)


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
        assert end_state(f"file://{tmp_path}/wild{runs}") == undisturbed(world_size)
        assert runs < 200, "hardly any kill came in time"
    print(f"{world_size} processes: {kills} kills at random instants in {runs} runs, all ends bit-equal")


@pytest.mark.parametrize(("world_size", "rank"), [(1, 0), (4, 2)])
def test_sigterm_to_any_rank_publishes_once_and_all_leave_with_143(world_size, rank, tmp_path, undisturbed):
    settings = toy_settings(tmp_path, accumulation=2, checkpoint__every="never", term_at=9, term_rank=rank)
    assert Attempt(settings, world_size).wait() == [143] * world_size
    folders = [path.name for path in (tmp_path / "toy" / "checkpoints").iterdir()]
    assert len(folders) == 1
    finish(f"file://{tmp_path}", tmp_path, world_size)
    assert end_state(f"file://{tmp_path}") == undisturbed(world_size)


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
    assert end_state(f"file://{grown}") == end_state(f"file://{long}")
    assert len(list((grown / "toy" / "attempts").glob("*.end.json"))) == 2
