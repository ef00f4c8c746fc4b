import json
import os
import signal

import pytest

from trainer.checkpoint.attempts import AttemptId, Attempts, dead_in_a_row
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.opening import open_run
from trainer.errors import InfrastructureError, RunError, SettingsError, SupersededError

DEFAULTS = {
    "name": "r", "default_name": "signs-s-20260101T000000", "task": "signs", "config": {"lr": 1}, "digest": "d1",
    "matters": {"optim.lr": 0.001}, "resume": "auto", "resume_with_changes": False, "max_dead_attempts": 5,
    "length": {"num_epochs": 3, "max_steps": None},
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "store")


def start(store, events=None, **changes):
    told = events if events is not None else []
    return open_run(store, events=told.append, **{**DEFAULTS, **changes})


def tree(store):
    return {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


def in_another_process(work):
    """Run `work` in a process that stays alive; returns what ends it."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go[1])  # so that it ends with the test process at the latest
        try:
            work()
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    assert os.read(ready[0], 1) == b"x"

    def stop():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    return stop


def test_a_new_run_says_who_it_is(store):
    run = start(store)
    record = json.loads(store.get("r/run.json"))
    assert (record["digest"], record["matters"], record["config"]) == ("d1", {"optim.lr": 0.001}, {"lr": 1})
    assert run.number == 1
    assert json.loads(store.get(f"r/attempts/{run.attempt}.json"))["attempt"] == run.attempt
    assert run.key("checkpoints/x") == "r/checkpoints/x"


def test_attempts_count_up_and_the_newest_owns_the_run(store):
    first = start(store)
    first.check_owner()
    second = start(store)
    assert second.number == 2
    second.check_owner()
    with pytest.raises(SupersededError, match=f"attempt {second.attempt} has taken over run r"):
        first.check_owner()
    with pytest.raises(SupersededError):
        first.complete({})


def test_of_two_attempts_of_one_number_the_greater_suffix_owns(store):
    run = start(store)
    store.put("r/attempts/0001-ffffff.json", [b"{}"])
    store.put("r/attempts/notes.txt", [b"{}"])
    with pytest.raises(SupersededError):
        run.check_owner()
    assert start(store).number == 2
    assert AttemptId.parse("0010-000000") > AttemptId.parse("0009-ffffff")


def test_a_folder_that_vanished_is_infrastructure(store):
    run = start(store)
    store.delete([f"r/attempts/{run.attempt}.json"])
    with pytest.raises(InfrastructureError, match="is gone from"):
        run.check_owner()


def publish(store, run, step=7):
    folder = f"r/checkpoints/{step:012d}-{run.attempt}"
    store.put(f"{folder}/MANIFEST.json", [b"{}"])


def test_a_run_without_a_checkpoint_takes_other_settings(store):
    """What was wrong in them may be why there is none."""
    start(store)
    events = []
    publish(store, start(store, events, digest="d2", matters={"optim.lr": 0.002}))
    assert any("optim.lr: 0.001 -> 0.002" in event.text for event in events)
    with pytest.raises(RunError, match=r"optim\.lr: 0\.002 -> 0\.003"):
        start(store, digest="d3", matters={"optim.lr": 0.003})


def test_changed_settings_are_refused_with_each_difference_and_nothing_is_written(store):
    publish(store, start(store))
    before = tree(store)
    with pytest.raises(RunError) as caught:
        start(store, digest="d2", matters={"optim.lr": 0.002, "model.size": "t"})
    assert 'model.size: (none) -> "t"; optim.lr: 0.001 -> 0.002' in str(caught.value)
    assert caught.value.exit_code == 4
    assert tree(store) == before


def test_changed_settings_are_taken_and_recorded_when_asked_for(store):
    start(store)
    events = []
    run = start(store, events, digest="d2", matters={"optim.lr": 0.002}, resume_with_changes=True)
    record = json.loads(store.get("r/run.json"))
    assert record["digest"] == "d2"
    assert record["changes"][0]["attempt"] == run.attempt
    assert record["changes"][0]["differences"] == ["optim.lr: 0.001 -> 0.002"]
    assert any("optim.lr: 0.001 -> 0.002" in event.text for event in events)
    start(store, digest="d2", matters={"optim.lr": 0.002})


def test_another_task_is_refused(store):
    start(store)
    with pytest.raises(RunError, match="trains signs, not translation"):
        start(store, task="translation")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b", "x" * 101, "-x", "a\n"])
def test_odd_names_are_refused(store, name):
    with pytest.raises(SettingsError, match=r"run\.name"):
        start(store, name=name)
    assert not store.path.exists()


def test_a_folder_or_file_of_somebody_else_is_refused_and_left_untouched(store):
    store.put("r/thesis.txt", [b"mine"])
    store.put("file", [b"mine"])
    store.put("r-2/run.json", [b"{}"])
    before = sorted(store.path.rglob("*"))
    with pytest.raises(SettingsError, match=r"holds files that are no run \(thesis\.txt"):
        start(store)
    with pytest.raises(SettingsError, match="is a file"):
        start(store, name="file")
    with pytest.raises(RunError, match="damaged or not ours"):
        start(store, name="r-2")
    assert sorted(store.path.rglob("*")) == before


def test_an_empty_folder_or_one_with_leftovers_of_a_crash_is_free(store):
    (store.path / "r").mkdir(parents=True)
    (store.path / "r" / ".~tmp-1-run.json").touch()
    assert start(store).number == 1


def test_never_and_required(store):
    with pytest.raises(RunError, match="has no run to go on from called r"):
        start(store, resume="required")
    with pytest.raises(RunError, match="has no run to go on from with settings of digest d1"):
        start(store, resume="required", name=None)
    start(store, resume="never")
    with pytest.raises(RunError, match=r"run\.resume is never"):
        start(store, resume="never")
    assert start(store, resume="required").number == 2


def test_without_a_name_the_newest_unfinished_run_of_equal_digest_goes_on(store):
    assert start(store, name=None).name == DEFAULTS["default_name"]
    start(store, name="other", digest="d2")
    start(store, name="newer")
    start(store, name="elsewhere", task="translation")
    assert start(store, name=None).name == "newer"
    start(store, name="newer").complete({})
    assert start(store, name=None).name == DEFAULTS["default_name"]
    assert start(store, name=None, resume="never").name == DEFAULTS["default_name"] + "-2"


def test_without_a_name_a_finished_training_trains_again(store):
    first = start(store, name=None)
    first.complete({})
    second = start(store, name=None)
    assert second.name == DEFAULTS["default_name"] + "-2"
    assert second.number == 1


def test_without_a_name_a_run_that_is_alive_is_not_taken_over(store):
    stop = in_another_process(lambda: start(store))
    assert start(store, name=None).name == DEFAULTS["default_name"]
    stop()
    start(store, name=None).complete({})
    assert start(store, name=None).name == "r"


def test_a_run_whose_owner_finishes_while_its_lock_is_taken_is_let_go(store, monkeypatch):
    other = start(store)
    other.store.release("r/owner")
    claim = store.claim

    def just_after_its_end(key):
        if key == "r/owner":
            other.complete({})
        return claim(key)

    monkeypatch.setattr(store, "claim", just_after_its_end)
    assert start(store, name=None).name == DEFAULTS["default_name"]

    def take():
        assert claim("r/owner")

    in_another_process(take)()


def test_with_a_name_a_run_that_is_alive_is_taken_over(store):
    stop = in_another_process(lambda: start(store))
    run = start(store)
    assert (run.number, run.owns_lock) == (2, False)
    stop()
    run.check_owner()
    assert run.owns_lock


def test_a_complete_run_has_nothing_to_do_unless_it_grows(store):
    start(store).complete({"results": {"val/loss": 1.0}})
    before = tree(store)
    for length in ({"num_epochs": 3, "max_steps": None}, {"num_epochs": 2, "max_steps": 5}):
        run = start(store, length=length)
        assert run.is_complete
        run.end(0, "complete already")
    assert tree(store) == before
    longer = start(store, length={"num_epochs": 4, "max_steps": None})
    assert not longer.is_complete
    longer.complete({})
    assert start(store, length={"num_epochs": 4, "max_steps": None}).is_complete


def test_no_limit_is_longer_than_any(store):
    start(store, length={"num_epochs": 3, "max_steps": 100}).complete({})
    assert start(store, length={"num_epochs": 3, "max_steps": 100}).is_complete
    assert not start(store, length={"num_epochs": 3, "max_steps": None}).is_complete


def test_a_damaged_completion_record_is_none(store):
    start(store).complete({})
    store.put("r/COMPLETE.json", [b"{tor"])
    assert not start(store).is_complete


def test_too_many_killed_attempts_in_a_row_give_up(store):
    for _ in range(3):
        start(store, max_dead_attempts=3)
    before = tree(store)
    with pytest.raises(RunError, match="the last 3 attempts were killed without a new checkpoint") as caught:
        start(store, max_dead_attempts=3)
    assert caught.value.exit_code == 4
    assert tree(store) == before
    start(store, max_dead_attempts=4)


def test_an_attempt_that_ended_by_itself_or_published_breaks_the_row(store):
    start(store)
    start(store).end(170, "store away")
    killed = start(store)
    start(store)
    assert len(dead_in_a_row(store, "r", Attempts.read(store, "r"))) == 2
    with pytest.raises(RunError):
        start(store, max_dead_attempts=2)
    folder = f"r/checkpoints/{7:012d}-{killed.attempt}"
    store.put(f"{folder}/model.safetensors", [b""])
    with pytest.raises(RunError):
        start(store, max_dead_attempts=2)
    store.put(f"{folder}/MANIFEST.json", [b"{}"])
    start(store, max_dead_attempts=2)


def test_an_attempt_that_lost_another_process_is_as_dead_as_a_killed_one(store):
    start(store)
    start(store).end(170, "lost another process of this run", has_lost_peer=True)
    with pytest.raises(RunError, match="the last 2 attempts were killed"):
        start(store, max_dead_attempts=2)


def test_the_end_of_an_attempt_is_safe_when_the_store_has_failed(store, monkeypatch):
    run = start(store)

    def fail(*_, **__):
        raise InfrastructureError("disk full")

    monkeypatch.setattr(FileStore, "put", fail)
    run.end(170, "disk full")
    assert not list(store.entries(run.key(f"attempts/{run.attempt}.end")))


def test_a_process_that_lives_on_lets_go_of_a_run_that_ended(store):
    def interrupted():
        start(store).end(143, "told to stop")

    stop = in_another_process(interrupted)
    assert start(store, name=None).name == "r"
    stop()
