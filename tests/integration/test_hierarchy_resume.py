"""T1 cut anywhere ends as the undisturbed run, ledger included: checks 7 to 10 and 21 of the hierarchy reference.

Byte for byte, with balance, mixing, masks and accumulation on (`tests.hierarchy_runs`).
"""

import random
import shutil
import signal
import time

import pytest

from tests.bench.turns import print_table
from tests.hierarchy_runs import (
    BATCHES_OF_PASS,
    FINAL_FORWARDS,
    NUM_FORWARDS,
    NUM_PASSES,
    NUM_TICKS,
    RUN,
    Told,
    check_ledger,
    ends,
    here,
    killed,
    newest,
    t1_settings,
    whole,
)
from tests.s3.runs import end_state
from tests.toy import Attempt, kill_later, train_toy
from trainer.checkpoint.crash import POINTS
from trainer.checkpoint.stores import open_store
from trainer.engine.job import Job
from trainer.engine.passes import final_passes
from trainer.errors import RunError, Stopped
from trainer.tasks.hierarchy.task import create
from trainer.telemetry.reading import read_run, select


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The ends of a run that nothing happened to, by number of processes."""
    found = {}

    def get(world_size: int = 1):
        if world_size not in found:
            folder = tmp_path_factory.mktemp("undisturbed")
            whole(folder, world_size)
            check_ledger(folder)
            found[world_size] = ends(folder)
        return found[world_size]

    return get


def cut(folder, tick):
    """Stop a run at a tick; where its cursor is then."""
    with pytest.raises(Stopped):
        train_toy(t1_settings(folder), lambda settings: Told(settings, tick))
    return newest(folder).meta["cursor"]


@pytest.mark.parametrize("tick", [34, 78, 160])
def test_07_exact_resume(tick, tmp_path, undisturbed):
    """In the middle of an epoch, and inside passes behind which others are owed."""
    cursor = cut(tmp_path, tick)
    assert cursor["batch"] or cursor["owed"]
    here(tmp_path)
    assert ends(tmp_path) == undisturbed()


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_07_exact_resume_at_every_second_tick(tmp_path, undisturbed):
    num_cuts = num_mid_epoch = num_owed = 0
    for tick in range(2, NUM_TICKS, 2):
        cursor = cut(tmp_path / "run", tick)
        num_cuts, num_mid_epoch, num_owed = (
            num_cuts + 1, num_mid_epoch + bool(cursor["batch"]), num_owed + bool(cursor["owed"])
        )  # fmt: skip
        here(tmp_path / "run")
        assert ends(tmp_path / "run") == undisturbed(), f"cut at tick {tick}"
        shutil.rmtree(tmp_path / "run")
    print(f"\n{num_cuts} cuts, {num_mid_epoch} mid-epoch, {num_owed} with passes owed: 0 mismatches")
    assert num_cuts >= 60
    assert num_mid_epoch >= 20
    assert num_owed >= 20


def test_08_a_chain_of_kills_every_9_ticks(tmp_path, undisturbed, monkeypatch):
    """Every 9 ticks the process is told to go; every forward pass is one of the run, or of a pass begun again."""
    lives = []

    def in_peace(job):
        job.task.tick = None
        return final_passes(job)

    def living(settings):
        lives.append(Told(settings, 9))
        return lives[-1]

    monkeypatch.setattr("trainer.finish.final_passes", in_peace)
    for _ in range(60):
        try:
            train_toy(t1_settings(tmp_path, checkpoint__spool="off"), living)
            break
        except Stopped:
            continue
    assert len(lives) >= 18
    assert ends(tmp_path) == undisturbed()
    trained, passed = sum(life.trained for life in lives), sum(life.passed for life in lives) - FINAL_FORWARDS
    records = read_run(open_store(f"file://{tmp_path}"), RUN)
    begun = len(select(records, "PassStarted")) - len(select(records, "PassDone"))
    redone = trained + passed - NUM_FORWARDS
    print(f"\n{len(lives)} lives: {trained} + {passed} forward passes = {NUM_FORWARDS} + {redone} of {begun} passes")
    assert trained == NUM_FORWARDS - NUM_PASSES * BATCHES_OF_PASS
    assert 0 < begun <= redone <= BATCHES_OF_PASS * begun


def test_09_sigkill_at_drawn_points(tmp_path, undisturbed):
    draw = random.Random(9)
    for name in ("after_forward", "mid_pass", "after_backward"):
        killed(tmp_path, f"{name}:{draw.randint(1, 30)}")
    whole(tmp_path)
    check_ledger(tmp_path)
    assert ends(tmp_path) == undisturbed()


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_09_sigkill_at_20_random_times(tmp_path, undisturbed, capfd):
    started = time.monotonic()
    whole(tmp_path / "calm")
    calm_seconds = time.monotonic() - started
    draw, kills, runs = random.Random(9), 0, 0
    while kills < 20:
        runs, folder = runs + 1, tmp_path / f"wild{runs + 1}"
        codes = [128 + signal.SIGKILL]
        while codes == [128 + signal.SIGKILL]:
            attempt = Attempt(t1_settings(folder, run__max_dead_attempts=1000), task_class=create)
            timer = kill_later(attempt, draw.uniform(0.0, calm_seconds), 0)
            codes = attempt.wait()
            timer.cancel()
            kills += codes != [0]
        assert codes == [0]
        check_ledger(folder)
        assert ends(folder) == undisturbed()
    assert "Traceback" not in capfd.readouterr().err
    print(f"\n{kills} kills at random instants in {runs} runs: no gap, no duplicate, ends bit-equal")


def test_09_a_checkpoint_cut_by_a_byte_is_passed_over(tmp_path, undisturbed, capfd):
    killed(tmp_path, "after_retention:5")  # by the publisher's thread, so nothing is half-published
    last = newest(tmp_path).key
    path = tmp_path / RUN / "checkpoints" / last / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert newest(tmp_path).key < last
    whole(tmp_path)
    check_ledger(tmp_path)
    assert ends(tmp_path) == undisturbed()
    assert "Traceback" not in capfd.readouterr().err


def test_owed_passes_that_the_settings_no_longer_have_are_dropped(tmp_path):
    """They would stay owed for ever, and the loop would take every step for the end of an epoch."""
    owed = cut(tmp_path, 60 + BATCHES_OF_PASS + 1)["owed"]
    assert len(owed) > 1
    assert set(owed) > {"val_mask_all"}
    here(tmp_path, mask__passes=["all"], run__resume_with_changes=True, max_steps=61)
    assert newest(tmp_path).meta["cursor"]["owed"] == []
    records = read_run(open_store(f"file://{tmp_path}"), RUN)
    gone = ", ".join(name for name in owed if name != "val_mask_all")
    assert any(one["text"].endswith(f"no longer have are dropped: {gone}") for one in select(records, "Noted"))
    assert [one["name"] for one in select(records, "PassDone") if one["step"] == 60] == ["val_mask_all"]


def test_a_checkpoint_of_another_model_is_one_line(tmp_path):
    cut(tmp_path, 12)
    with pytest.raises(
        RunError, match=r"^the checkpoint is that of another model: size mismatch for \S+: .*anew"
    ) as error:
        here(tmp_path, model__width=16, run__resume_with_changes=True)
    assert "\n" not in str(error.value)


MUTATED = {
    "passes": {"val": "every 15 steps", "val_mask_all": "never"},
    "mask__when": "never",
    "early_stop__mode": "max",  # a falling loss is no gain, so the run ends by its record
    "early_stop__patience": "3 passes",
}
IN_THIRD_PASS = 45 + 2 * BATCHES_OF_PASS + 1


def fresh(job: Job) -> dict[str, dict]:
    """What a run begins with, by the part of the state that a test takes away."""
    return {
        "optimizer": {"tensors": {"optimizer": {}}, "meta": {"optimizer": {}}},
        "balance.weights": {"balance": {"weights": dict.fromkeys(job.balance.weights, 1.0)}},
        "balance.reference": {"balance": {"reference": {}}},
        "cursor.batch": {"cursor": {"batch": 0}},
        "cursor.owed": {"cursor": {"owed": []}},
        "early_stop": {"early_stop": job.early_stop.state()},
    }


@pytest.fixture(scope="module")
def cut_run(tmp_path_factory):
    """A run that was stopped inside a pass in the middle of an epoch, and what it would have come to."""
    folder, calm = (tmp_path_factory.mktemp(name) for name in ("cut", "calm"))
    here(calm, **MUTATED)
    with pytest.raises(Stopped):
        train_toy(t1_settings(folder, **MUTATED), lambda settings: Told(settings, IN_THIRD_PASS))
    found = newest(folder)
    assert (found.step, found.meta["cursor"]["batch"], found.meta["cursor"]["owed"]) == (45, 5, ["val"])
    assert found.meta["balance"]["reference"]
    return folder, ends(calm)


PARTS = ("optimizer", "balance.weights", "balance.reference", "cursor.batch", "cursor.owed", "early_stop")


def without(part: str, tensors: dict, meta: dict) -> None:
    """Take a part out of a state."""
    if part == "optimizer":
        tensors["optimizer"] = {}
        return
    *path, last = part.split(".")
    for name in path:
        meta = meta[name]
    del meta[last]


def with_fresh(part: str, job: Job, tensors: dict, meta: dict) -> None:
    """Put in its place what a run begins with, as a reader that does not mind would."""
    new = fresh(job)[part]
    if part == "optimizer":
        tensors["optimizer"], meta["optimizer"], meta["contents"]["optimizer"] = {}, {}, 0
        return
    ((section, values),) = new.items()
    meta[section] |= values


@pytest.mark.parametrize("part", PARTS)
def test_10_what_decides_the_rest_is_refused_when_missing(part, cut_run, tmp_path, monkeypatch):
    """And were it not refused, the run would end differently."""
    load = Job.load
    refused, forced = (shutil.copytree(cut_run[0], tmp_path / name) for name in ("refused", "forced"))

    def mutated(job: Job, tensors: dict, meta: dict) -> None:
        without(part, tensors, meta)
        load(job, tensors, meta)

    def ignored(job: Job, tensors: dict, meta: dict) -> None:
        with_fresh(part, job, tensors, meta)
        load(job, tensors, meta)

    monkeypatch.setattr(Job, "load", mutated)
    with pytest.raises(RunError, match=f"incomplete, it lacks .*{part.replace('.', '[.]')}"):
        here(refused, **MUTATED)
    monkeypatch.setattr(Job, "load", ignored)
    here(forced, **MUTATED)
    assert ends(forced)[0] != cut_run[1][0]


def test_10_nothing_missing_ends_alike(cut_run, tmp_path):
    again = shutil.copytree(cut_run[0], tmp_path / "again")
    here(again, **MUTATED)
    assert ends(again) == cut_run[1]


@pytest.mark.parametrize("world_size", [1, 2])
def test_21_a_measurement_has_no_side_effects(world_size, tmp_path):
    measured, plain = tmp_path / "measured", tmp_path / "plain"
    whole(measured, world_size, num_epochs=3, balance__eta=0.0, balance__every="every 5 steps")
    whole(plain, world_size, num_epochs=3, balance__kind="none")
    assert end_state(f"file://{measured}", RUN) == end_state(f"file://{plain}", RUN)
    assert ends(measured)[1]["norms"]


KILL_TABLE = ["after_forward:31", "mid_accumulation:20", "after_backward:44", "before_update:52", "after_update:66",
              "before_pass:2", "mid_pass:2", "after_pass:4", "mid_copy:5", "after_manifest:3"]  # fmt: skip
OWED = "mid_pass:2"
"""Its row begins with an attempt that is told to stop inside a pass and leaves others owed."""


def die_and_finish(folder, point):
    """Two processes, the first of which is killed at a point; the next attempt comes to the end."""
    assert point.partition(":")[0] in POINTS
    if point == OWED:
        told = Attempt(t1_settings(folder), 2, task_class=lambda settings: Told(settings, batch=8))
        assert told.wait() == [128 + signal.SIGTERM] * 2
        assert newest(folder).meta["cursor"]["owed"]
    killed(folder, point, 2)
    whole(folder, 2)


@pytest.mark.parametrize("point", ["mid_accumulation:35", OWED])
def test_two_processes_killed_end_alike(point, tmp_path, undisturbed):
    """`mid_pass:2` is inside an owed pass, of which more are owed behind it."""
    die_and_finish(tmp_path, point)
    assert ends(tmp_path) == undisturbed(2)


@pytest.fixture(scope="module")
def kill_table():
    """Results by point, printed as a table at the end."""
    results: dict[str, str] = {}
    yield results
    if results:
        notes = [f"{sum(result == 'equal' for result in results.values())} of {len(results)} ends bit-equal"]
        rows = [(f"{point}, owed" if point == OWED else point, result) for point, result in results.items()]
        print_table("T1: SIGKILL at a point, file store, 2 processes", ("point", "end"), rows, notes)


@pytest.mark.proof
@pytest.mark.parametrize("point", KILL_TABLE)
def test_kill_table_of_two_processes(point, tmp_path, undisturbed, kill_table):
    kill_table[point] = "NOT EQUAL"
    die_and_finish(tmp_path, point)
    check_ledger(tmp_path)
    assert ends(tmp_path) == undisturbed(2)
    kill_table[point] = "equal"
