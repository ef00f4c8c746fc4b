import json
import threading
from typing import Any

import numpy as np
import pytest

from tests.unit.telemetry_samples import pass_done, run_started, step_done
from trainer.errors import InfrastructureError
from trainer.telemetry import ledger as ledger_module
from trainer.telemetry.events import AttemptEnded, CheckpointPublished, Event, Noted
from trainer.telemetry.ledger import Ledger, encode

FOREVER = 3600.0


class Shelf:
    """A store's `put` that can refuse, and that remembers on which thread it was called."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.num_refusals = 0
        self.threads: set[str] = set()
        self.is_down = False

    def put(self, key: str, data: bytes) -> None:
        self.threads.add(threading.current_thread().name)
        if self.is_down:
            self.num_refusals += 1
            raise InfrastructureError("the store is down")
        assert key not in self.objects
        self.objects[key] = data

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for key in sorted(self.objects) for line in self.objects[key].splitlines()]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def make(shelf: Shelf, **changes: Any) -> Ledger:
    return Ledger(shelf.put, **({"run": "r", "attempt": "3-ab", "segment_seconds": FOREVER} | changes))


def test_a_record_carries_run_attempt_times_cursor_and_the_fields_of_its_event(shelf: Shelf) -> None:
    ledger = make(shelf)
    ledger.on_event(run_started(run="other", attempt="other"))
    ledger.on_event(step_done(20, epoch=1, loss=0.25))
    ledger.close()
    first, second = shelf.records()
    assert (first["event"], first["run"], first["attempt"]) == ("RunStarted", "r", "3-ab")
    assert first["config"] == {"optim": {"clip": 1.0}}
    assert (second["event"], second["epoch"], second["step"], second["loss"]) == ("StepDone", 1, 20, 0.25)
    assert second["wall"] >= first["wall"] > 1.6e9
    assert second["mono"] >= first["mono"]


@pytest.mark.parametrize(
    "closing",
    [
        CheckpointPublished(checkpoint="c", size_bytes=1, seconds=0.1),
        pass_done(20),
        AttemptEnded(code=0, reason="", seconds=1),
    ],
)
def test_a_segment_is_closed_at_publish_pass_and_end(shelf: Shelf, closing: Event) -> None:
    stored = threading.Semaphore(0)

    def put(key: str, data: bytes) -> None:
        shelf.put(key, data)
        stored.release()

    ledger = Ledger(put, run="r", attempt="3-ab", segment_seconds=FOREVER)
    for num_closed in range(1, 3):
        ledger.on_event(step_done(20))
        ledger.on_event(closing)
        assert stored.acquire(timeout=10)
        assert sorted(shelf.objects)[-1] == f"ledger/3-ab/{num_closed:06}.jsonl"
    ledger.close()
    assert [record["event"] for record in shelf.records()] == ["StepDone", type(closing).__name__] * 2


def test_other_events_wait_for_the_segment_to_grow_old(shelf: Shelf) -> None:
    stored = threading.Event()

    def put(key: str, data: bytes) -> None:
        shelf.put(key, data)
        stored.set()

    young, old = make(shelf), Ledger(put, run="r", attempt="4-ab", segment_seconds=0.05)
    young.on_event(step_done(20))
    old.on_event(step_done(20))
    assert stored.wait(10)
    assert list(shelf.objects) == ["ledger/4-ab/000001.jsonl"]
    young.close()
    old.close()


def test_storing_happens_on_another_thread(shelf: Shelf) -> None:
    ledger = make(shelf)
    ledger.on_event(AttemptEnded(code=0, reason="", seconds=1))
    assert shelf.threads == {"ledger"}
    assert shelf.records()[-1]["event"] == "AttemptEnded"  # stored before on_event returned
    ledger.close()


def test_what_the_store_refuses_is_kept_in_order_and_said_once(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = make(shelf)
    shelf.is_down = True
    for step in (20, 40, 60):
        ledger.on_event(step_done(step))
        assert not ledger.flush(0.2)
    shelf.is_down = False
    assert ledger.flush(10)
    ledger.close()
    assert [record["step"] for record in shelf.records()] == [20, 40, 60]
    assert shelf.num_refusals >= 3
    assert capsys.readouterr().err.count("the store is down") == 1


def test_a_store_that_stays_down_holds_nobody_up_for_long_and_the_loss_is_said(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "END_SECONDS", 0.1)
    ledger = make(shelf)
    shelf.is_down = True
    ledger.on_event(AttemptEnded(code=170, reason="store", seconds=1))
    ledger.close()
    assert "are lost" in capsys.readouterr().err


def test_kept_segments_are_bounded_and_giving_up_is_said(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MAX_KEPT_BYTES", 5_000)
    ledger = make(shelf)
    shelf.is_down = True
    for step in range(4):
        ledger.on_event(Noted(step=step, text="x" * 2_000))
        ledger.flush(0.1)
    shelf.is_down = False
    assert ledger.flush(10)
    ledger.close()
    assert [record["step"] for record in shelf.records()] == [2, 3]
    assert capsys.readouterr().err.count("gave up") == 2


def test_nothing_is_dropped_between_a_fast_training_and_the_thread(shelf: Shelf) -> None:
    ledger = make(shelf, segment_seconds=0.001)
    for step in range(5_000):
        ledger.on_event(Noted(step=step, text=""))
    ledger.close()
    assert [record["step"] for record in shelf.records()] == list(range(5_000))


def test_numbers_that_are_not_finite_become_null_and_foreign_values_plain() -> None:
    values = {
        "a": float("nan"),
        "b": [float("inf"), 1.5],
        "c": {3: np.int64(4), "d": np.float32("nan")},
        "e": np.arange(2),
        "f": (True, None),
    }
    line = encode(values)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    expected = {"a": None, "b": [None, 1.5], "c": {"3": 4, "d": None}, "e": [0, 1], "f": [True, None]}
    assert json.loads(line, parse_constant=pytest.fail) == expected
