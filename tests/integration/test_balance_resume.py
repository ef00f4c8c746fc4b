"""A run with balanced terms, owed passes and curves, cut anywhere, ends as the undisturbed one, ledger included."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.s3.runs import end_state
from tests.toy import Attempt, train_toy
from tests.toy_terms import TermsTask, terms_settings
from trainer.checkpoint.crash import POINTS
from trainer.checkpoint.restore import folder_names, load_checkpoint
from trainer.checkpoint.stores import open_store
from trainer.engine.job import Job
from trainer.engine.passes import final_passes
from trainer.errors import RunError, Stopped
from trainer.telemetry.reading import effective, read_run, select

TIMES = {"wall", "mono", "attempt", "seconds", "samples_per_second", "data_wait_seconds", "seconds_left",
         "peak_memory_bytes"}  # fmt: skip
"""What clocks and memory decide."""


def lines(folder: Path) -> list[dict]:
    """The steps, measurements and passes of the effective ledger, without what only clocks decide."""
    records = effective(read_run(open_store(f"file://{folder}"), "terms"))
    kept = [one for kind in ("StepDone", "Balanced", "PassDone") for one in select(records, kind)]
    return [{name: value for name, value in one.items() if name not in TIMES} for one in kept]


def ends(folder: Path) -> tuple[dict[str, bytes], dict, list[dict]]:
    """End tensors, the state of the balance, and the ledger."""
    found = load_checkpoint(open_store(f"file://{folder}"), "terms")
    assert found is not None
    return end_state(f"file://{folder}", "terms"), found.meta["balance"], lines(folder)


def whole(folder: Path, world_size: int = 1, **values) -> None:
    """One attempt that comes to the end."""
    settings = terms_settings(folder, **values)
    assert Attempt(settings, world_size, task_class=TermsTask).wait() == [0] * world_size


def killed(folder: Path, point: str, world_size: int = 1, **values) -> None:
    """One attempt that is killed at a point."""
    codes = Attempt(terms_settings(folder, **values), world_size, point, task_class=TermsTask).wait()
    assert codes[0] == 128 + signal.SIGKILL, f"{point} was never met: {codes}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The ends of a run that nothing happened to, by number of processes."""
    found = {}

    def get(world_size: int = 1):
        if world_size not in found:
            folder = tmp_path_factory.mktemp("undisturbed")
            whole(folder, world_size)
            found[world_size] = ends(folder)
        return found[world_size]

    return get


CUTS = [f"after_update:{step}" for step in range(4, 118, 5)] + [f"mid_pass:{number}" for number in range(1, 66, 2)]
CUTS += [f"before_pass:{number}" for number in (1, 2, 5, 8, 13)] + ["after_pass:3", "mid_accumulation:47"]
FEW = ["after_update:34", "mid_pass:1", "mid_pass:28", "before_pass:9"]


@pytest.mark.parametrize("cut", FEW)
def test_check_7_exact_resume(cut, tmp_path, undisturbed):
    killed(tmp_path, cut)
    whole(tmp_path)
    assert ends(tmp_path) == undisturbed()


@pytest.mark.proof
@pytest.mark.parametrize("cut", CUTS)
def test_check_7_exact_resume_at_every_cut(cut, tmp_path, undisturbed):
    killed(tmp_path, cut)
    whole(tmp_path)
    assert ends(tmp_path) == undisturbed()


@pytest.mark.parametrize("point", ["mid_pass:17", "after_forward:70"])
def test_resume_with_two_processes_is_exact(point, tmp_path, undisturbed):
    """`mid_pass:17` is inside an owed pass, of which more are owed behind it."""
    killed(tmp_path, point, 2)
    whole(tmp_path, 2)
    assert ends(tmp_path) == undisturbed(2)


class Ticking(TermsTask):
    """Asks for a stop after so many ticks: a step, or a batch of a pass."""

    lives: list["Ticking"] = []  # noqa: RUF012
    ticks: int | None = 9

    def __init__(self, settings) -> None:
        super().__init__(settings)
        self.done, self.steps, self.passed = 0, 0, 0
        self.lives.append(self)

    def loss(self, model, batch):
        self.steps += 0.5 if len(batch["index"]) == 32 else 1
        self._tick()
        return super().loss(model, batch)

    def evaluate(self, model, batch):
        self.passed += 1
        self._tick()
        return super().evaluate(model, batch)

    def _tick(self) -> None:
        if self.steps + self.passed == self.ticks:
            os.kill(os.getpid(), signal.SIGTERM)


def test_check_8_a_chain_of_kills(tmp_path, undisturbed, monkeypatch):
    """Every 9 ticks the process is told to go; every forward pass is one of the run, or of a pass begun again."""

    def in_peace(job):
        job.task.ticks = None
        return final_passes(job)

    monkeypatch.setattr("trainer.finish.final_passes", in_peace)
    Ticking.lives.clear()
    for _ in range(60):
        try:
            train_toy(terms_settings(tmp_path, checkpoint__spool="off"), Ticking)
            break
        except Stopped:
            continue
    assert len(Ticking.lives) >= 18
    assert ends(tmp_path) == undisturbed()
    trained = sum(life.forwards - life.passed for life in Ticking.lives)
    assert trained == 228
    records = read_run(open_store(f"file://{tmp_path}"), "terms")
    redone = sum(life.passed for life in Ticking.lives) - 65 - 30
    begun = len(select(records, "PassStarted")) - len(select(records, "PassDone"))
    assert 0 < redone <= 5 * begun


def check_ledger(folder: Path) -> None:
    """No gap, no duplicate."""
    records = effective(read_run(open_store(f"file://{folder}"), "terms"))
    assert [one["step"] for one in select(records, "StepDone")] == list(range(1, 121))
    passes = [(one["step"], one["name"]) for one in select(records, "PassDone") if not one["is_final"]]
    assert len(passes) == len(set(passes)) == 13


def kills(seed: int, number: int) -> list[str]:
    """Points and counts drawn at random."""
    draw = random.Random(seed)
    counts = {"after_forward": 200, "after_update": 110, "mid_accumulation": 100, "mid_pass": 60, "after_backward": 110}
    return [f"{name}:{draw.randint(1, counts[name])}" for name in draw.choices(sorted(counts), k=number)]


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.proof), pytest.param(2, marks=pytest.mark.proof)]
)
def test_check_9_sigkill_at_random(seed, tmp_path, undisturbed):
    number = 3 if seed == 0 else 20
    for point in kills(seed, number):
        Attempt(terms_settings(tmp_path, run__max_dead_attempts=100), 1, point, task_class=TermsTask).wait()
    whole(tmp_path)
    check_ledger(tmp_path)
    assert ends(tmp_path) == undisturbed()


def test_check_9_a_checkpoint_cut_by_a_byte_is_passed_over(tmp_path, undisturbed, capfd):
    killed(tmp_path, "after_update:57")
    newest = folder_names(open_store(f"file://{tmp_path}"), "terms")[-1]
    path = tmp_path / "terms" / "checkpoints" / str(newest) / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    whole(tmp_path)
    check_ledger(tmp_path)
    assert ends(tmp_path) == undisturbed()
    assert "Traceback" not in capfd.readouterr().err


class Cut(TermsTask):
    """Asks for a stop inside the pass that is due after step 45."""

    def evaluate(self, model, batch):
        if self.forwards == 2 * 45 - 4 + 2 * 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().evaluate(model, batch)


MUTATED = {
    "passes": {"val": "every 15 steps"} | {f"val_{number}": "never" for number in range(5)},
    "early_stop__mode": "max",  # a falling loss is no gain, so the run ends by its record
    "early_stop__patience": "3 passes",
}


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
    cut, calm = (tmp_path_factory.mktemp(name) for name in ("cut", "calm"))
    train_toy(terms_settings(calm, **MUTATED), TermsTask)
    with pytest.raises(Stopped):
        train_toy(terms_settings(cut, **MUTATED), Cut)
    found = load_checkpoint(open_store(f"file://{cut}"), "terms")
    assert (found.step, found.meta["cursor"]["batch"], found.meta["cursor"]["owed"]) == (45, 5, ["val"])
    assert found.meta["balance"]["reference"]
    return cut, ends(calm)


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
def test_check_10_what_decides_the_rest_is_refused_when_missing(part, cut_run, tmp_path, monkeypatch):
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
        train_toy(terms_settings(refused, **MUTATED), TermsTask)
    monkeypatch.setattr(Job, "load", ignored)
    train_toy(terms_settings(forced, **MUTATED), TermsTask)
    assert ends(forced)[0] != cut_run[1][0]


def test_check_10_control_nothing_missing_ends_alike(cut_run, tmp_path):
    whole_again = shutil.copytree(cut_run[0], tmp_path / "again")
    train_toy(terms_settings(whole_again, **MUTATED), TermsTask)
    assert ends(whole_again) == cut_run[1]


@pytest.mark.parametrize("world_size", [1, 2])
def test_check_21_a_measurement_has_no_side_effects(world_size, tmp_path):
    measured, plain = tmp_path / "measured", tmp_path / "plain"
    whole(measured, world_size, num_epochs=3, balance__eta=0.0, balance__every="every 5 steps")
    whole(plain, world_size, num_epochs=3, balance__kind="none")
    assert end_state(f"file://{measured}", "terms") == end_state(f"file://{plain}", "terms")
    assert ends(measured)[1]["norms"]


KILL_TABLE = ["after_forward:31", "mid_accumulation:20", "after_backward:44", "before_update:52", "after_update:66",
              "before_pass:2", "mid_pass:14", "after_pass:4", "mid_copy:5", "after_manifest:3"]  # fmt: skip


@pytest.mark.proof
@pytest.mark.parametrize("point", KILL_TABLE)
def test_kill_table_of_two_processes(point, tmp_path, undisturbed):
    """Ten points, some of them inside owed passes, on a file store."""
    assert point.partition(":")[0] in POINTS
    killed(tmp_path, point, 2)
    whole(tmp_path, 2)
    assert ends(tmp_path) == undisturbed(2)
