import errno
import json
import os
import threading

import pytest
import torch

from trainer.checkpoint.files import FileStore
from trainer.checkpoint.inspect import list_checkpoints, prune_checkpoints, verify_checkpoints
from trainer.checkpoint.opening import open_run
from trainer.checkpoint.outage import Retry
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.restore import load_checkpoint, restore
from trainer.checkpoint.state import State
from trainer.errors import InfrastructureError, RunError, SupersededError, TrainerError

AT_ONCE = Retry(tries=3, first_seconds=0.0)


class Spy(FileStore):
    """A file store that counts requests, can be held back in a put, and can fail."""

    def __init__(self, path):
        super().__init__(path)
        self.calls = []
        self.fail = lambda verb, key: False
        self.hold = lambda key: False
        self.held, self.go_on = threading.Event(), threading.Event()

    def _note(self, verb, key):
        self.calls.append((verb, key))
        if self.fail(verb, key):
            raise InfrastructureError(f"cannot {verb} {key}: {os.strerror(errno.EIO)}")

    def put(self, key, chunks, *, only_new=False):
        self._note("put", key)
        if self.hold(key):
            self.held.set()
            assert self.go_on.wait(20)
        super().put(key, chunks, only_new=only_new)

    def get(self, key):
        self._note("get", key)
        return super().get(key)

    def fetch(self, key, path):
        self._note("fetch", key)
        return super().fetch(key, path)

    def entries(self, prefix):
        self._note("entries", prefix)
        return super().entries(prefix)

    def folders(self, prefix, after=""):
        self._note("folders", prefix)
        return super().folders(prefix, after)

    def delete(self, keys):
        keys = list(keys)
        self._note("delete", " ".join(keys))
        super().delete(keys)


@pytest.fixture
def store(tmp_path):
    return Spy(tmp_path / "store")


@pytest.fixture
def events():
    return []


def start(store, events, **changes):
    given = {
        "name": "r", "default_name": "x", "task": "signs", "config": {}, "matters": {}, "digest": "d",
        "resume": "auto", "resume_with_changes": False, "max_dead_attempts": 99, "length": {"num_epochs": 1},
    }  # fmt: skip
    return open_run(store, events=events.append, **{**given, **changes})


@pytest.fixture
def publisher_of(events):
    made = []

    def make(run, **changes):
        publisher = Publisher(
            run, **{"keep_last": 2, "keep_best": True, "emit": events.append, "retry": AT_ONCE, **changes}
        )
        made.append(publisher)
        return publisher

    yield make
    for publisher in made:
        publisher.close()


def state(step):
    tensors = {"model": {"w": torch.full((64,), float(step))}, "optimizer": {"m/w": torch.full((64,), -float(step))}}
    return State(tensors, {"cursor": {"step": step}})


def publish(publisher, *steps, **more):
    for step in steps:
        publisher.submit(state(step), step=step, epoch=step // 10, **more)
        assert publisher.flush(20) or publisher.error


def names(events, kind):
    return [event for event in events if type(event).__name__ == kind]


def steps_in(store):
    return [one.step for one in list_checkpoints(store, "r") if one.problem is None]


def test_a_published_checkpoint_is_restored_as_it_was(store, events, publisher_of):
    run = start(store, events)
    assert restore(run, events.append) is None
    publish(publisher_of(run, world_size=4), 7, is_best=True)
    found = restore(start(store, events), events.append)
    assert (found.step, found.epoch, found.meta) == (7, 0, {"cursor": {"step": 7}})
    assert found.tensors["model"]["w"].eq(7).all()
    assert found.tensors["optimizer"]["m/w"].eq(-7).all()
    assert found.manifest.world_size == 4
    assert found.manifest.cursor == {"step": 7}
    assert set(found.manifest.files) == {"model.safetensors", "optimizer.safetensors", "state.json"}
    (taken,), (published,) = names(events, "CheckpointTaken"), names(events, "CheckpointPublished")
    assert taken.step == published.step == 7
    assert published.checkpoint == found.key
    assert published.is_best
    assert 0 < taken.stall_seconds < 20


def test_the_manifest_is_written_after_all_data_and_hints_after_it(store, events, publisher_of):
    publish(publisher_of(start(store, events)), 1, is_best=True)
    puts = [key.rpartition("/")[2] for verb, key in store.calls if verb == "put" and "attempts" not in key]
    assert puts == [
        "run.json", "model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json", "latest.json",
        "best.json",
    ]  # fmt: skip


def test_events_of_the_thread_come_on_the_training_thread(store, publisher_of):
    threads = []
    publisher = publisher_of(start(store, []), emit=lambda event: threads.append(threading.current_thread()))
    publish(publisher, 1, 2)
    assert set(threads) == {threading.main_thread()}
    assert len(threads) == 4


def test_retention_keeps_the_last_the_best_the_milestones_and_the_source(store, events, publisher_of):
    first = publisher_of(start(store, events))
    publish(first, 1, milestone=True)
    publish(first, 2, is_best=True)
    publish(first, 3, 4, 5)
    assert steps_in(store) == [1, 2, 4, 5]
    run = start(store, events)
    assert restore(run, events.append).step == 5
    publish(publisher_of(run), 6, 7, 8)
    assert steps_in(store) == [1, 2, 5, 7, 8]
    retired = [name for event in names(events, "CheckpointRetired") for name in event.checkpoints]
    assert [int(name[:12]) for name in retired] == [3, 4, 6]
    assert all(one.problem is None for one in verify_checkpoints(store, "r"))
    assert load_checkpoint(store, "r", "best").step == 2


def test_a_step_that_is_published_twice_never_touches_the_first_folder(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    publish(publisher, 3)
    first = load_checkpoint(store, "r")
    publisher.submit(State({"model": {"w": torch.zeros(2)}}, {"second": True}), step=3, epoch=0)
    assert publisher.flush(20)
    second = load_checkpoint(store, "r")
    assert second.meta == {"second": True}
    assert second.key == first.key + "_01"
    assert [one.problem for one in verify_checkpoints(store, "r")] == [None, None]


def test_a_newer_request_waits_for_the_write_under_way(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    store.hold = lambda key: key.endswith("model.safetensors")
    publisher.submit(state(1), step=1, epoch=0)
    assert store.held.wait(20)
    store.hold = lambda key: False
    assert not publisher.flush(0.0)
    waiter = threading.Thread(target=lambda: publisher.submit(state(2), step=2, epoch=0))
    waiter.start()
    store.go_on.set()
    waiter.join(20)
    assert publisher.flush(20)
    assert steps_in(store) == [1, 2]
    assert load_checkpoint(store, "r", "1").tensors["model"]["w"].eq(1).all()
    assert [event.replaced for event in names(events, "CheckpointTaken")] == [False, False]


def waiting_for_another_try(store, publisher, **flags):
    """A publisher whose first checkpoint failed and waits for an hour."""
    failing = threading.Event()
    told = threading.Event()

    def fail(verb, key):
        if verb == "put" and key.endswith("MANIFEST.json") and not failing.is_set():
            told.set()
            return True
        return False

    store.fail = fail
    publisher.submit(state(1), step=1, epoch=0, **flags)
    assert told.wait(20)
    with publisher._changed:
        assert publisher._changed.wait_for(lambda: not publisher._job.is_started, 20)
    failing.set()


def test_a_newer_request_replaces_one_that_waits(store, events, publisher_of):
    publisher = publisher_of(start(store, events), retry=Retry(tries=3, first_seconds=3600, longest_seconds=3600))
    waiting_for_another_try(store, publisher)
    publish(publisher, 2)
    assert steps_in(store) == [2]
    assert [event.replaced for event in names(events, "CheckpointTaken")] == [False, True]
    assert [one.problem for one in list_checkpoints(store, "r")] == [None], "the unfinished folder is swept"
    assert names(events, "CheckpointFailed")[0].will_retry


@pytest.mark.parametrize("flags", [{"is_best": True}, {"milestone": True}])
def test_a_best_or_milestone_that_waits_is_not_replaced(store, events, publisher_of, flags):
    publisher = publisher_of(start(store, events), retry=Retry(tries=3, first_seconds=0.05))
    waiting_for_another_try(store, publisher, **flags)
    publish(publisher, 2)
    assert steps_in(store) == [1, 2]
    assert [event.replaced for event in names(events, "CheckpointTaken")] == [False, False]


def test_a_failing_store_is_tried_again_and_then_said_to_the_engine(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    publish(publisher, 1)
    store.fail = lambda verb, key: verb == "put" and key.endswith("state.json")
    publish(publisher, 2)
    assert isinstance(publisher.error, InfrastructureError)
    assert [event.will_retry for event in names(events, "CheckpointFailed")] == [True, True, False]
    assert not publisher.flush(20)
    with pytest.raises(InfrastructureError):
        publisher.submit(state(3), step=3, epoch=0)
    assert [one.step for one in list_checkpoints(store, "r")] == [1], "nothing half written is left"


def test_a_store_that_comes_back_gets_the_checkpoint(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    left = [2]

    def fail(verb, key):
        if verb == "put" and key.endswith("MANIFEST.json") and left[0]:
            left[0] -= 1
            return True
        return False

    store.fail = fail
    publish(publisher, 1)
    assert publisher.error is None
    assert steps_in(store) == [1]
    assert [one.problem for one in verify_checkpoints(store, "r")] == [None]


def test_failing_hints_and_retention_do_not_fail_the_checkpoint(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    store.fail = lambda verb, key: key.endswith("latest.json")
    publish(publisher, 1, 2)
    assert publisher.error is None
    assert "latest.json" in names(events, "Noted")[0].text
    store.fail = lambda verb, key: False
    assert restore(start(store, events), events.append).step == 2


def test_a_superseded_attempt_writes_nothing_more(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    publish(publisher, 1)
    start(store, events)
    puts = [call for call in store.calls if call[0] in ("put", "delete")]
    publish(publisher, 2)
    assert isinstance(publisher.error, SupersededError)
    assert [call for call in store.calls if call[0] in ("put", "delete")] == puts
    assert steps_in(store) == [1]


def test_a_publish_in_flight_may_finish_when_superseded_and_retention_does_not_run(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    publish(publisher, 1, 2, 3)
    store.hold = lambda key: key.endswith("state.json")
    publisher.submit(state(4), step=4, epoch=0)
    assert store.held.wait(20)
    start(store, events)
    store.go_on.set()
    publisher.flush(20)
    assert isinstance(publisher.error, SupersededError)
    assert steps_in(store) == [2, 3, 4]


def test_a_defect_in_the_thread_reaches_the_engine(store, events, publisher_of, monkeypatch):
    publisher = publisher_of(start(store, events))
    monkeypatch.setattr(Publisher, "_follow_up", lambda *_: 1 / 0)
    publish(publisher, 1)
    assert type(publisher.error) is TrainerError
    assert "ZeroDivisionError" in str(publisher.error)
    assert publisher.error.exit_code == 1


def test_of_a_thousand_checkpoints_the_newest_takes_three_requests(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    publish(publisher, 1000)
    source = store.path / "r" / "checkpoints" / load_checkpoint(store, "r").key
    for step in range(1000):
        other = source.with_name(f"{step:012d}-0001-aaaaaa")
        other.mkdir()
        os.link(source / "MANIFEST.json", other / "MANIFEST.json")
    run = start(store, events)
    store.calls.clear()
    assert restore(run, events.append).step == 1000
    finding = [call for call in store.calls if call[0] != "fetch"]
    assert len(finding) <= 3, finding


@pytest.mark.parametrize(
    "hint", [b"", b"{", b"[]", b'{"run": "r", "checkpoint": 3}', b'{"run": "other", "checkpoint": "x"}', None]
)
def test_a_bad_hint_is_no_obstacle(store, events, publisher_of, hint):
    publish(publisher_of(start(store, events)), 1, 2, is_best=True)
    for name in ("latest.json", "best.json"):
        if hint is None:
            store.delete([f"r/{name}"])
        else:
            store.put(f"r/{name}", [hint])
    assert restore(start(store, events), events.append).step == 2
    assert load_checkpoint(store, "r", "best").step == 2


def test_a_hint_one_behind_does_not_hide_the_newest(store, events, publisher_of):
    publisher = publisher_of(start(store, events))
    publish(publisher, 1, is_best=True)
    hints = {name: store.get(f"r/{name}") for name in ("latest.json", "best.json")}
    publish(publisher, 2, is_best=True)
    for name, data in hints.items():
        store.put(f"r/{name}", [data])
    assert restore(start(store, events), events.append).step == 2
    assert load_checkpoint(store, "r", "best").step == 2


def test_a_hint_to_a_checkpoint_that_is_gone_is_reported(store, events, publisher_of):
    publish(publisher_of(start(store, events)), 1, 2)
    gone = list_checkpoints(store, "r")[1].name
    store.delete([f"r/checkpoints/{gone}/MANIFEST.json"])
    assert restore(start(store, events), events.append).step == 1
    (rejected,) = names(events, "CheckpointRejected")
    assert rejected.checkpoint == gone
    assert "latest.json points to it" in rejected.reason


def test_when_all_are_bad_the_run_does_not_silently_begin_anew(store, events, publisher_of):
    publish(publisher_of(start(store, events)), 1, 2)
    for one in list_checkpoints(store, "r"):
        store.put(f"r/checkpoints/{one.name}/state.json", [b"{}"])
    with pytest.raises(RunError, match=r"no good checkpoint is left of run r .*state\.json has 2 bytes"):
        restore(start(store, events), events.append)


def test_required_wants_a_checkpoint(store, events):
    start(store, events)
    with pytest.raises(RunError, match="has no checkpoint yet"):
        restore(start(store, events, resume="required"), events.append)


def test_a_medium_that_cannot_be_read_is_not_no_checkpoint(store, events, publisher_of, monkeypatch):
    publish(publisher_of(start(store, events)), 1)
    run = start(store, events)
    store.fail = lambda verb, key: verb == "get" and key.endswith("MANIFEST.json")
    with pytest.raises(InfrastructureError):
        restore(run, events.append)
    store.fail = lambda verb, key: verb == "fetch"
    with pytest.raises(InfrastructureError):
        restore(run, events.append)
    assert names(events, "CheckpointRejected") == []


def test_a_rejected_checkpoint_does_not_push_good_ones_out(store, events, publisher_of):
    publish(publisher_of(start(store, events)), 10, 20, 30)
    newest = list_checkpoints(store, "r")[-1].name
    store.put(f"r/checkpoints/{newest}/model.safetensors", [b"x"])
    run = start(store, events)
    assert restore(run, events.append).step == 20
    publisher = publisher_of(run)
    publish(publisher, 22)
    assert steps_in(store) == [20, 22, 30]
    publish(publisher, 24, 26)
    assert steps_in(store) == [20, 24, 26], "20 is the source, 30 is damaged"


def test_checkpoints_by_step_and_name(store, events, publisher_of):
    publish(publisher_of(start(store, events), keep_last=9), 1, 2)
    name = list_checkpoints(store, "r")[0].name
    assert load_checkpoint(store, "r", "1").key == name
    assert load_checkpoint(store, "r", name).step == 1
    assert load_checkpoint(store, "r", "3") is None
    assert load_checkpoint(store, "r", "best") is None
    assert load_checkpoint(store, "nothing") is None
    only = load_checkpoint(store, "r", "1", parts=["model"])
    assert set(only.tensors) == {"model"}
    store.put(f"r/checkpoints/{name}/optimizer.safetensors", [b""])
    assert load_checkpoint(store, "r", "1", parts=["model"]) is not None
    with pytest.raises(RunError, match=r"damaged: optimizer\.safetensors"):
        load_checkpoint(store, "r", "1")


def test_without_keep_best_the_best_is_not_kept(store, events, publisher_of):
    publisher = publisher_of(start(store, events), keep_best=False)
    publish(publisher, 1, is_best=True)
    publish(publisher, 2, 3)
    assert steps_in(store) == [2, 3]


def test_list_verify_and_prune(store, events, publisher_of):
    publisher = publisher_of(start(store, events), keep_last=9)
    publish(publisher, 1, is_best=True)
    publish(publisher, 2, 3, 4)
    listed = list_checkpoints(store, "r")
    assert [(one.step, one.is_best, one.is_latest) for one in listed] == [
        (1, True, False), (2, False, False), (3, False, False), (4, False, True),
    ]  # fmt: skip
    victim = store.path / "r" / "checkpoints" / listed[1].name / "model.safetensors"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    assert [one.problem for one in list_checkpoints(store, "r")] == [None] * 4
    assert [one.problem for one in verify_checkpoints(store, "r")] == [
        None, "model.safetensors does not match its SHA-256", None, None,
    ]  # fmt: skip
    assert [int(name[:12]) for name in prune_checkpoints(store, "r", 2)] == [2]
    assert steps_in(store) == [1, 3, 4]
    assert prune_checkpoints(store, "nothing", 2) == []
    assert not (store.path / "nothing").exists()


def test_hints_are_small_and_say_which_run(store, events, publisher_of):
    publish(publisher_of(start(store, events)), 5)
    hint = json.loads(store.get("r/latest.json"))
    assert (hint["run"], hint["step"]) == ("r", 5)
