"""A store over the network fails: what the publisher and the spool make of it. The faults are injected; that a real
server's outage looks like this is shown in tests/integration/test_s3_runs.py."""

import threading

import pytest
import torch

from trainer.checkpoint.files import FileStore
from trainer.checkpoint.inspect import list_checkpoints, verify_checkpoints
from trainer.checkpoint.opening import open_run
from trainer.checkpoint.outage import Outage, Retry, patiently
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.restore import load_checkpoint
from trainer.checkpoint.spool import Spool, spool_folder
from trainer.checkpoint.state import State
from trainer.errors import InfrastructureError, StoreRefusedError

SOON = Retry(tries=None, outage_seconds=60.0, first_seconds=0.01, longest_seconds=0.02)


class Remote(FileStore):
    """A file store that behaves like one over the network: no locks, and it can be down or stall."""

    has_locks = False

    def __init__(self, path):
        super().__init__(path)
        self.is_down = False
        self.error = InfrastructureError("cannot write: connection refused")
        self.passes = threading.Event()
        self.passes.set()
        self.met = threading.Event()
        self.num_listings = 0

    def _ask(self):
        self.met.set()
        if self.is_down:
            raise self.error
        assert self.passes.wait(20)

    def put(self, key, chunks, *, only_new=False):
        self._ask()
        super().put(key, chunks, only_new=only_new)

    def entries(self, prefix):
        self._ask()
        self.num_listings += "checkpoints/" in prefix
        return super().entries(prefix)

    def claim(self, key):
        return True


@pytest.fixture
def store(tmp_path):
    return Remote(tmp_path / "store")


@pytest.fixture
def events():
    return []


def start(store, **changes):
    given = {
        "name": "r", "default_name": "x", "task": "signs", "config": {}, "matters": {}, "digest": "d",
        "resume": "auto", "resume_with_changes": False, "max_dead_attempts": 99, "length": {"num_epochs": 1},
    }  # fmt: skip
    return open_run(store, events=lambda _: None, **{**given, **changes})


@pytest.fixture
def publisher_of(events, tmp_path):
    made = []

    def make(run, spool=True, **changes):
        given = {"keep_last": 2, "keep_best": True, "emit": events.append, "retry": SOON, **changes}
        publisher = Publisher(run, spool=Spool(tmp_path / "spool", run) if spool else None, **given)
        made.append(publisher)
        assert publisher.flush(20)
        return publisher

    yield make
    for publisher in made:
        publisher.close(5)


def state(step):
    return State({"model": {"w": torch.full((64,), float(step))}}, {"cursor": {"step": step}})


def submit(publisher, *steps, **flags):
    for step in steps:
        assert publisher.submit(state(step), step=step, epoch=0, timeout=20, **flags)


def told(events, kind):
    return [event for event in events if type(event).__name__ == kind]


def steps_in(store):
    return [one.step for one in list_checkpoints(store, "r")]


def spooled(publisher):
    """Wait until the buffer is free again, so that what was submitted lies in the spool; the steps there."""
    with publisher._changed:
        assert publisher._changed.wait_for(lambda: publisher._job is None, 20)
    return [name.step for name in publisher._spool.waiting()]


def test_training_goes_on_while_the_store_is_down_and_the_newest_is_published_when_it_is_back(
    store, events, publisher_of
):
    publisher = publisher_of(start(store))
    submit(publisher, 1)
    assert publisher.flush(20)
    store.is_down = True
    for step in range(2, 7):
        submit(publisher, step)
        assert spooled(publisher) == [step]
    assert not publisher.flush(0.1)
    assert publisher.error is None
    assert steps_in(FileStore(store.path)) == [1]
    store.is_down = False
    assert publisher.flush(20)
    assert steps_in(store) == [1, 6]
    assert torch.equal(load_checkpoint(store, "r").tensors["model"]["w"], torch.full((64,), 6.0))
    assert {one.problem for one in verify_checkpoints(store, "r")} == {None}
    assert publisher._spool.waiting() == []
    failures = told(events, "CheckpointFailed")
    assert all(event.will_retry for event in failures)
    assert failures[-1].age_seconds >= failures[-1].outage_seconds > 0
    assert any("the store answers again after" in event.text for event in told(events, "Noted"))


def test_a_best_and_a_milestone_are_not_lost_in_an_outage(store, publisher_of):
    publisher = publisher_of(start(store))
    store.is_down = True
    submit(publisher, 1, milestone=True)
    submit(publisher, 2, is_best=True)
    submit(publisher, 3, is_best=True)
    submit(publisher, 4, 5)
    assert spooled(publisher) == [1, 3, 5], "the best before and an ordinary one before gave way"
    store.is_down = False
    assert publisher.flush(20)
    assert steps_in(store) == [1, 3, 5]
    assert load_checkpoint(store, "r", "best").step == 3
    assert load_checkpoint(store, "r").step == 5


def test_without_a_spool_the_newest_waits_in_memory_and_what_is_lost_is_said(store, events, publisher_of):
    publisher = publisher_of(start(store), spool=False)
    store.is_down = True
    submit(publisher, 1, milestone=True)
    with publisher._changed:
        assert publisher._changed.wait_for(lambda: publisher._job.may_be_lost, 20)
    submit(publisher, 2)
    store.is_down = False
    assert publisher.flush(20)
    assert steps_in(store) == [2]
    assert any(
        "the milestone 000000000001" in event.text and "is lost" in event.text for event in told(events, "Noted")
    )


@pytest.mark.parametrize("error", [InfrastructureError("no route"), StoreRefusedError("the keys are refused")])
def test_after_the_settable_time_it_gives_up_with_170_and_says_where_the_newest_is(store, publisher_of, error):
    publisher = publisher_of(start(store), retry=Retry(tries=None, outage_seconds=0.05, first_seconds=0.02))
    store.is_down, store.error = True, error
    submit(publisher, 1)
    assert not publisher.flush(20)
    assert publisher.error.exit_code == 170
    assert str(error) in str(publisher.error)
    assert str(publisher._spool.folder) in str(publisher.error)
    assert [name.step for name in publisher._spool.waiting()] == [1]


@pytest.mark.parametrize("spool", [True, False])
def test_a_silent_store_holds_training_up_for_a_bounded_time_only(store, events, publisher_of, monkeypatch, spool):
    monkeypatch.setattr("trainer.checkpoint.publish.SILENCE_SECONDS", 0.3)
    publisher = publisher_of(start(store), spool=spool)
    store.met.clear()
    store.passes.clear()
    submit(publisher, 1, is_best=True)
    assert store.met.wait(20)
    submit(publisher, 2)
    monkeypatch.setattr("trainer.checkpoint.publish.SILENCE_SECONDS", 3600)
    submit(publisher, 3)  # replaces 2 at once: the thread still hangs in 1
    store.passes.set()
    assert publisher.flush(20)
    assert steps_in(store) == ([1, 3] if spool else [3])
    assert {one.problem for one in verify_checkpoints(store, "r")} == {None}
    assert torch.equal(load_checkpoint(store, "r").tensors["model"]["w"], torch.full((64,), 3.0))
    lost = [event.text for event in told(events, "Noted") if "is lost" in event.text]
    assert len(lost) == (0 if spool else 1)


def test_a_best_that_waits_behind_a_hung_thread_holds_nobody_up(store, publisher_of, monkeypatch):
    monkeypatch.setattr("trainer.checkpoint.publish.SILENCE_SECONDS", 0.3)
    publisher = publisher_of(start(store))
    store.met.clear()
    store.passes.clear()
    submit(publisher, 1)
    assert store.met.wait(20)
    submit(publisher, 2, is_best=True)
    monkeypatch.setattr("trainer.checkpoint.publish.SILENCE_SECONDS", 3600)
    submit(publisher, 3)
    store.passes.set()
    assert publisher.flush(20)
    assert steps_in(store) == [2, 3]
    assert load_checkpoint(store, "r", "best").step == 2


def test_a_spool_that_becomes_full_keeps_what_it_has(store, events, publisher_of, monkeypatch):
    publisher = publisher_of(start(store))
    store.is_down = True
    submit(publisher, 1, milestone=True)
    assert spooled(publisher) == [1]
    full = InfrastructureError("No space left on device")

    def refuse(self, content):
        raise full

    monkeypatch.setattr(Spool, "keep", refuse)
    submit(publisher, 2)
    with publisher._changed:
        assert publisher._changed.wait_for(lambda: publisher._job.may_be_lost and not publisher._job.is_started, 20)
    store.is_down = False
    assert publisher.flush(20)
    assert steps_in(store) == [1, 2]
    assert len([event for event in told(events, "Noted") if "No space left" in event.text]) == 1


def test_who_has_no_time_does_not_wait_for_a_silent_store(store, publisher_of):
    publisher = publisher_of(start(store))
    store.met.clear()
    store.passes.clear()
    submit(publisher, 1)
    assert store.met.wait(20)
    assert not publisher.submit(state(2), step=2, epoch=0, hurries=lambda: True)
    store.passes.set()
    assert publisher.flush(20)
    assert steps_in(store) == [1]


def test_a_stalled_store_at_the_end_of_the_grace_period_leaves_the_newest_in_the_spool(store, publisher_of):
    publisher = publisher_of(start(store))
    store.met.clear()
    store.passes.clear()
    submit(publisher, 1)
    assert store.met.wait(20)
    assert not publisher.submit(state(2), step=2, epoch=0, timeout=0.05), "the buffer is being read"
    assert not publisher.flush(0.05)
    assert "it waits in" in publisher.rescue()
    assert [name.step for name in publisher._spool.waiting()] == [1]
    store.passes.set()


def test_the_next_attempt_publishes_what_the_one_before_left(store, publisher_of, tmp_path):
    publisher = publisher_of(start(store))
    submit(publisher, 1)
    assert publisher.flush(20)
    store.is_down = True
    submit(publisher, 2, milestone=True)
    submit(publisher, 3)
    assert spooled(publisher) == [2, 3]
    publisher.close(20)
    store.is_down = False
    run = start(store)
    spool = Spool(tmp_path / "spool", run)
    assert [name.step for name in spool.publish_left_behind()] == [2, 3]
    assert load_checkpoint(store, "r").step == 3
    assert spool.waiting() == []
    assert spool.publish_left_behind() == []


def test_leftovers_are_dropped_when_another_attempt_has_gone_on_without_them(store, publisher_of, tmp_path):
    publisher = publisher_of(start(store))
    store.is_down = True
    submit(publisher, 9)
    assert spooled(publisher) == [9]
    publisher.close(20)
    store.is_down = False
    elsewhere = publisher_of(start(store), spool=False)
    submit(elsewhere, 4)
    assert elsewhere.flush(20)
    run = start(store)
    assert Spool(tmp_path / "spool", run).publish_left_behind() == []
    assert steps_in(store) == [4]
    assert not list((tmp_path / "spool").rglob("MANIFEST.json"))


def test_damaged_leftovers_are_no_checkpoint(store, publisher_of, tmp_path):
    publisher = publisher_of(start(store))
    store.is_down = True
    submit(publisher, 2)
    assert spooled(publisher) == [2]
    publisher.close(20)
    file = next((tmp_path / "spool").rglob("model.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    store.is_down = False
    run = start(store)
    assert Spool(tmp_path / "spool", run).publish_left_behind() == []
    assert load_checkpoint(store, "r") is None


def test_a_spool_that_cannot_be_written_is_said_and_the_buffer_serves(store, events, publisher_of, tmp_path):
    (tmp_path / "spool").write_text("a file")
    publisher = publisher_of(start(store))
    store.is_down = True
    submit(publisher, 1)
    with publisher._changed:
        assert publisher._changed.wait_for(lambda: publisher._job.may_be_lost and not publisher._job.is_started, 20)
    store.is_down = False
    assert publisher.flush(20)
    assert steps_in(store) == [1]
    assert any("the spool cannot take checkpoint" in event.text for event in told(events, "Noted"))


def test_the_listing_of_checkpoints_is_asked_for_once_not_at_every_publish(store, publisher_of):
    publisher = publisher_of(start(store), keep_last=3)
    submit(publisher, 1)
    assert publisher.flush(20)
    before, steps = store.num_listings, 20
    for step in range(2, 2 + steps):
        submit(publisher, step)
        assert publisher.flush(20)
    # one look at what arrived for each publish, one for each folder that goes
    assert store.num_listings - before <= 2 * steps
    assert steps_in(store) == [19, 20, 21]


def test_where_the_spool_lies(store, tmp_path):
    assert spool_folder("off", store) is None
    assert spool_folder("auto", FileStore(tmp_path)) is None, "a disk needs no spool"
    assert spool_folder(str(tmp_path / "s"), store).parent == tmp_path / "s"
    assert spool_folder("auto", store) != spool_folder("auto", Remote(tmp_path / "other"))


def test_an_outage_counts_and_pauses_grow():
    outage = Outage(Retry(tries=3, first_seconds=1.0, longest_seconds=3.0))
    assert outage.over() == 0
    for failures, longest in ((1, 1.0), (2, 2.0), (3, 3.0)):
        assert not outage.lasts_too_long
        outage.failed()
        assert longest / 2 - 0.1 <= outage.seconds_to_next_try() <= longest, failures
    assert outage.lasts_too_long
    assert outage.over() > 0
    assert not outage.is_on


def test_patience_ends_with_success_the_time_or_hurry():
    calls = []

    def work(until):
        calls.append(None)
        if len(calls) < until:
            raise InfrastructureError("down")
        return len(calls)

    assert patiently(SOON, lambda: work(3), lambda: False) == 3
    calls.clear()
    with pytest.raises(InfrastructureError):
        patiently(Retry(tries=2, first_seconds=0.01), lambda: work(9), lambda: False)
    assert len(calls) == 2
    calls.clear()
    with pytest.raises(InfrastructureError):
        patiently(Retry(tries=None, outage_seconds=60), lambda: work(9), lambda: True)
    assert len(calls) == 1
