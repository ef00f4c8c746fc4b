"""SIGKILL at every named point of the checkpoint room, damage to every object, and disks that fail: real processes
and real files. What the loop's own points do to the weights is in the tests of the engine."""

import ast
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import crash
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.inspect import list_checkpoints, verify_checkpoints
from trainer.checkpoint.opening import open_run
from trainer.checkpoint.outage import Retry
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.restore import load_checkpoint, restore
from trainer.checkpoint.state import State
from trainer.errors import InfrastructureError

LAST_STEP = 8
UNFINISHED = "has no manifest: unfinished, will be swept"


def state(step):
    big = torch.arange(700_000, dtype=torch.float32) + step
    return State(
        {"model": {"w": big, "tied": big}, "optimizer": {"m/w": -big, "step/w": torch.tensor(float(step))},
         "ema": {"w": torch.full((3,), float(step))}},
        {"cursor": {"step": step}},
    )  # fmt: skip


def is_state(found, step):
    wanted = state(step).tensors
    return found.meta == {"cursor": {"step": step}} and all(
        torch.equal(found.tensors[part][name], tensor)
        for part, named in wanted.items()
        for name, tensor in named.items()
    )


def start(store):
    return open_run(
        store, name="r", default_name="x", task="signs", config={}, matters={}, digest="d", resume="auto",
        resume_with_changes=False, max_dead_attempts=99, length={"num_epochs": 1}, events=lambda _: None,
    )  # fmt: skip


def train(store, until=LAST_STEP, done=lambda step: None):
    """A training in small: go on from the newest checkpoint, publish one a step, mark the run complete."""
    run = start(store)
    if run.is_complete:
        return
    found = restore(run, lambda _: None)
    publisher = Publisher(
        run, keep_last=2, keep_best=True, emit=lambda _: None, retry=Retry(tries=2, first_seconds=0.0)
    )
    for step in range(found.step + 1 if found else 1, until + 1):
        publisher.submit(state(step), step=step, epoch=0, is_best=step in (2, 5), milestone=step == 3)
        if not publisher.flush(60):
            raise publisher.error
        done(step)
    publisher.flush(60)
    if until == LAST_STEP:
        run.complete({})
        publisher.close()
        run.end(0, "complete")


def in_child(work):
    """Run `work(report)` in a forked process; its status (minus the signal that killed it) and the numbers reported."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.close(reading)
            status = work(lambda number: os.write(writing, bytes([number]))) or 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        reported = list(stream.read())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), reported


def killed_at(store, text, until=LAST_STEP):
    def work(report):
        crash.arm(text)
        train(store, until, report)

    return in_child(work)


def points_of_this_room():
    for path in Path(crash.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "point" and path.name != "crash.py":
                yield node.args[0].value


OFTEN = ["mid_write:3", "mid_write:6", "between_files:3", "before_manifest:3", "after_manifest:3", "mid_retention:2",
         "mid_copy:3", "between_hints:1"]  # fmt: skip


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A store in which a run was killed after step 4, to be copied by each test."""
    folder = tmp_path_factory.mktemp("interrupted") / "store"

    def work(report):
        train(FileStore(folder), until=4)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work)[0] == -signal.SIGKILL
    return folder


@pytest.fixture
def store(interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "store")
    return FileStore(tmp_path / "store")


@pytest.mark.parametrize("text", sorted(set(points_of_this_room())) + OFTEN)
def test_killed_at_a_point_the_next_attempt_goes_on_from_a_whole_checkpoint(store, text):
    status, published = killed_at(store, text)
    assert status == -signal.SIGKILL, f"{text} was never reached"
    problems = {one.problem for one in verify_checkpoints(store, "r")}
    assert problems <= {None, UNFINISHED}
    newest = max([4, *published])

    found = load_checkpoint(store, "r")
    assert found.step in (newest, newest + 1)
    assert is_state(found, found.step)
    assert load_checkpoint(store, "r", "best").step in (2, 5)

    assert in_child(lambda report: train(store, LAST_STEP, report))[0] == 0
    assert [one.problem for one in verify_checkpoints(store, "r") if one.problem] == []
    assert not list(store.path.rglob(".~tmp*"))
    found = load_checkpoint(store, "r")
    assert found.step == LAST_STEP
    assert is_state(found, LAST_STEP)
    best = load_checkpoint(store, "r", "best")
    assert best.step == 5
    assert is_state(best, 5)
    assert {3, 5, 7, 8} <= {one.step for one in list_checkpoints(store, "r")}
    assert start(store).is_complete


def test_killed_in_the_first_attempt_ever_the_next_one_begins_or_goes_on(tmp_path):
    for number, text in enumerate(
        ["before_attempt", "after_attempt", "mid_write", "before_manifest", "after_manifest"]
    ):
        store = FileStore(tmp_path / str(number))
        assert killed_at(store, text)[0] == -signal.SIGKILL
        assert in_child(lambda report, store=store: train(store))[0] == 0
        assert is_state(load_checkpoint(store, "r"), LAST_STEP)
        assert not list(store.path.rglob(".~tmp*"))


def test_leftovers_of_a_killed_attempt_are_swept_before_the_next_one_publishes(store):
    assert killed_at(store, "mid_write:2")[0] == -signal.SIGKILL
    assert killed_at(store, "after_data")[0] == -signal.SIGKILL
    assert UNFINISHED in {one.problem for one in list_checkpoints(store, "r")}
    publisher = Publisher(start(store), keep_last=2, keep_best=True, emit=lambda _: None)
    assert publisher.flush(60)
    publisher.close()
    assert {one.problem for one in list_checkpoints(store, "r")} == {None}
    assert not list(store.path.rglob(".~tmp*"))


def test_an_unfinished_folder_of_an_attempt_that_is_alive_is_not_swept(store):
    """The older attempt is superseded in the middle of a publish: that publish may finish, and is whole."""
    sent, go = os.pipe(), os.pipe()

    class Waiting(FileStore):
        def put(self, key, chunks, *, only_new=False):
            if key.endswith("MANIFEST.json"):
                os.write(sent[1], b"x")
                os.read(go[0], 1)
            super().put(key, chunks, only_new=only_new)

    def older(report):
        try:
            train(Waiting(store.path))
        except Exception as error:
            return error.exit_code

    child = os.fork()
    if child == 0:
        os.close(go[1])  # so that it ends with the test process at the latest
        os._exit(older(None) or 0)
    os.read(sent[0], 1)
    newer = Publisher(start(store), keep_last=2, keep_best=True, emit=lambda _: None)
    assert newer.flush(60)
    os.write(go[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 171
    newer.close()
    assert is_state(load_checkpoint(store, "r", "5"), 5)


def flip(where):
    def damage(path, _):
        data = bytearray(path.read_bytes())
        data[int(where * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


DAMAGES = {
    "first byte flipped": flip(0.0),
    "byte flipped": flip(0.5),
    "last byte flipped": flip(1.0),
    "cut by one byte": lambda path, _: os.truncate(path, path.stat().st_size - 1),
    "cut in half": lambda path, _: os.truncate(path, path.stat().st_size // 2),
    "grown": lambda path, _: path.write_bytes(path.read_bytes() + b"\0"),
    "emptied": lambda path, _: os.truncate(path, 0),
    "removed": lambda path, _: path.unlink(),
    "replaced by another step's": lambda path, other: shutil.copy(other, path),
    "a folder now": lambda path, _: (path.unlink(), path.mkdir()),
}
OBJECTS = ["model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "MANIFEST.json"]


@pytest.mark.parametrize("file", OBJECTS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_every_object_is_found_and_the_checkpoint_before_is_taken(store, file, damage):
    before, newest = (store.path / "r" / "checkpoints" / one.name for one in list_checkpoints(store, "r")[-2:])
    DAMAGES[damage](newest / file, before / file)
    told = []
    found = restore(start(store), told.append)
    assert found.step == 3
    assert is_state(found, 3)
    assert [event.checkpoint for event in told] == [newest.name]
    assert file in told[0].reason or "manifest" in told[0].reason
    assert verify_checkpoints(store, "r")[-1].problem


def test_a_file_size_limit_in_mid_run_ends_in_170_with_the_last_checkpoint_good(store):
    def work(report):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            train(store)
        except InfrastructureError as error:
            report(1 if "File too large" in str(error) else 0)
            return error.exit_code

    assert in_child(work) == (170, [1])
    assert {one.problem for one in verify_checkpoints(store, "r")} == {None}
    assert is_state(load_checkpoint(store, "r"), 4)
    assert not list(store.path.rglob(".~tmp*"))


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 24 MiB (needs the right to mount)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder]).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_and_then_a_read_only_disk(small_disk):
    store = FileStore(small_disk / "store")

    def says(text):
        def work(report):
            try:
                train(store)
            except InfrastructureError as error:
                return error.exit_code if text in str(error) else 1

        return work

    assert in_child(lambda report: train(store, until=1))[0] == 0
    assert in_child(says("No space left on device; free space there"))[0] == 170
    newest = list_checkpoints(store, "r")[-1].step
    assert {one.problem for one in verify_checkpoints(store, "r")} == {None}
    assert is_state(load_checkpoint(store, "r"), newest)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert in_child(says("Read-only file system; mount it writable"))[0] == 170
    assert is_state(load_checkpoint(store, "r"), newest)
