import json
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.unit.telemetry_samples import pass_done, records_of, run_started, step_done
from trainer.telemetry.account import goodput, highest, time_account
from trainer.telemetry.events import (
    TIME_KINDS,
    ArtifactWritten,
    AttemptEnded,
    Balanced,
    CheckpointPublished,
    CheckpointTaken,
    Event,
    NonFinite,
    Noted,
    Resumed,
    TimeAccounted,
    Warned,
)
from trainer.telemetry.reading import effective, read_records, read_run
from trainer.telemetry.summary import summary


def resumed(step: int) -> Resumed:
    return Resumed(step=step, checkpoint=f"{step:012}-1-aa", redone_steps=0)


def accounted(**seconds: float) -> TimeAccounted:
    return TimeAccounted(seconds=dict.fromkeys(TIME_KINDS, 0.0) | seconds)


def lines(*records: dict[str, Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def read(objects: dict[str, bytes], prefix: str = "") -> list[dict[str, Any]]:
    return read_records(lambda start: [key for key in objects if key.startswith(start)], objects.__getitem__, prefix)


def steps_of(records: list[dict[str, Any]], event: str = "StepDone") -> list[tuple[str, int]]:
    return [(record["attempt"], record["step"]) for record in records if record["event"] == event]


# -- reading -------------------------------------------------------------------------------------------------------


def test_attempts_are_ordered_by_number_and_segments_within() -> None:
    def segment(attempt: str, step: int) -> bytes:
        return lines(*records_of(step_done(step), attempt=attempt))

    objects = {
        "r/ledger/10-aa/000001.jsonl": segment("10-aa", 50),
        "r/ledger/2-bb/000002.jsonl": segment("2-bb", 40),
        "r/ledger/2-bb/000001.jsonl": segment("2-bb", 30),
        "r/ledger/1-zz/1000000.jsonl": segment("1-zz", 20),
        "r/ledger/1-zz/999999.jsonl": segment("1-zz", 10),
        "r/ledger/2-bb/notes.txt": b"not a segment",
        "r/run.json": b"{}",
    }
    assert [record["step"] for record in read(objects, "r/")] == [10, 20, 30, 40, 50]


def test_a_run_is_read_from_a_store() -> None:
    class Store:
        objects: ClassVar = {"r/ledger/1-aa/000001.jsonl": lines(*records_of(step_done(20))), "r/run.json": b"{}"}

        def entries(self, prefix: str) -> list[SimpleNamespace]:
            return [SimpleNamespace(key=key) for key in self.objects if key.startswith(prefix)]

        def get(self, key: str) -> bytes:
            return self.objects[key]

    assert [record["step"] for record in read_run(Store(), "r")] == [20]


def test_a_cut_last_line_is_left_out() -> None:
    data = lines(*records_of(step_done(20), step_done(40)))
    assert [record["step"] for record in read({"ledger/1-aa/000001.jsonl": data[:-30]})] == [20]
    assert [record["step"] for record in read({"ledger/1-aa/000001.jsonl": data})] == [20, 40]


def test_a_damaged_line_in_the_middle_is_named() -> None:
    first, second = records_of(step_done(20), step_done(40))
    data = lines(first) + b'{"event": "Step\xff\n' + lines(second)
    records = read({"ledger/1-aa/000001.jsonl": data})
    assert [record["event"] for record in records] == ["StepDone", "Noted", "StepDone"]
    assert "line 2 of ledger/1-aa/000001.jsonl" in records[1]["text"]
    assert records[1]["attempt"] == "1-aa"


def test_a_segment_with_nothing_readable_is_no_crash() -> None:
    assert read({"ledger/1-aa/000001.jsonl": b"\x00\x01\n", "ledger/1-aa/000002.jsonl": b""}) == []


# -- effective records -----------------------------------------------------------------------------------------------


def test_steps_done_again_are_the_later_attempts() -> None:
    first = records_of(run_started(), *(step_done(step) for step in (20, 40, 60, 80)), attempt="1-aa")
    second = records_of(run_started(step=40), resumed(40), step_done(60), attempt="2-bb")
    third = records_of(run_started(step=60), resumed(60), step_done(80), attempt="3-cc")
    kept = effective([*first, *second, *third])
    assert steps_of(kept) == [("1-aa", 20), ("1-aa", 40), ("2-bb", 60), ("3-cc", 80)]


def test_a_rollback_within_an_attempt_supersedes_too_and_facts_stay() -> None:
    bad = NonFinite(step=61, what="loss", policy="rollback", used=1, budget=2, sample_ids=[7])
    warned = Warned(step=60, name="exploding", severity="warn", text="")
    balanced = [Balanced(step=step, weights={"a": 1.0}) for step in (20, 60, 40)]
    records = records_of(
        step_done(20), balanced[0], step_done(60), balanced[1], warned, bad, resumed(20), balanced[2], step_done(40)
    )
    kept = effective(records)
    assert steps_of(kept) == [("1-aa", 20), ("1-aa", 40)]
    assert steps_of(kept, "NonFinite") == [("1-aa", 61)]
    assert steps_of(kept, "Warned") == []
    assert steps_of(kept, "Balanced") == [("1-aa", 20), ("1-aa", 40)]


def test_an_attempt_that_began_anew_supersedes_everything_but_one_that_did_not_begin_supersedes_nothing() -> None:
    first = records_of(run_started(), step_done(20), attempt="1-aa")
    dead = records_of(Noted(text="dies before it starts"), attempt="2-bb")
    anew = records_of(run_started(), step_done(10), attempt="3-cc")
    assert steps_of(effective([*first, *dead])) == [("1-aa", 20)]
    assert steps_of(effective([*first, *dead, *anew])) == [("3-cc", 10)]


@pytest.mark.parametrize("is_resumed_first", [True, False])
def test_it_does_not_matter_whether_the_start_is_told_before_the_restore(is_resumed_first: bool) -> None:
    first = records_of(run_started(), step_done(20), step_done(40), attempt="1-aa")
    told: list[Event] = [resumed(20), run_started()] if is_resumed_first else [run_started(), resumed(20)]
    second = records_of(*told, step_done(40), attempt="2-bb")
    assert steps_of(effective([*first, *second])) == [("1-aa", 20), ("2-bb", 40)]


def test_an_owed_pass_that_ran_again_counts_once() -> None:
    first = records_of(pass_done(20, 0.5), pass_done(20, 0.4, name="test"), attempt="1-aa")
    second = records_of(resumed(20), pass_done(20, 0.6), pass_done(20, 0.7, is_final=True), attempt="2-bb")
    kept = [record for record in effective([*first, *second]) if record["event"] == "PassDone"]
    assert [(record["name"], record["metrics"]["loss"]) for record in kept] == [
        ("test", 0.4),
        ("val", 0.6),
        ("val", 0.7),
    ]


# -- time ------------------------------------------------------------------------------------------------------------


def test_the_account_of_two_attempts_sums_to_the_wall_clock() -> None:
    # 1: starts at 990 (10 s before its record), accounted to 1003; killed. 2: 1100 - 1110, told by AttemptEnded.
    seconds = {"startup": 5.0, "productive": 6.0, "data_wait": 1.0, "evaluation": 1.0}
    first = records_of(run_started(), step_done(20), Noted(text=""), accounted(**seconds), attempt="1-aa")
    seconds = {"startup": 4.0, "productive": 5.0, "checkpoint_stall": 1.0}
    end = AttemptEnded(code=0, reason="", seconds=10.0)
    second = records_of(accounted(**seconds), end, attempt="2-bb", start=1110.0, each=0.0)
    account = time_account([*first, *second])
    assert tuple(account) == TIME_KINDS
    assert account["idle"] == pytest.approx(1100 - 1003)
    assert account["productive"] == pytest.approx(11)
    assert sum(account.values()) == pytest.approx(1110 - 990)
    assert goodput(account) == pytest.approx(11 / 120)
    assert time_account([*first, *second], until=1115.0)["idle"] == pytest.approx(97 + 5)


def test_what_a_killed_attempt_did_not_account_for_is_rebuilt_from_its_records() -> None:
    taken = CheckpointTaken(step=20, stall_seconds=0.5, size_bytes=1)
    step = step_done(20, seconds=3.0, data_wait_seconds=1.0)
    account = time_account(records_of(run_started(), step, pass_done(20, seconds=1.0), taken, Noted(text=""), each=5.0))
    assert account["startup"] == pytest.approx(2)  # 1000 to 1005 - 3
    assert account["productive"] == pytest.approx(2)
    assert account["data_wait"] == pytest.approx(1)
    assert account["evaluation"] == pytest.approx(1)
    assert account["checkpoint_stall"] == pytest.approx(0.5)
    assert sum(account.values()) == pytest.approx(20)


def test_a_log_point_without_a_step_is_accounted_for() -> None:
    """A rollback left the only step of the interval out, and then the attempt was killed."""
    left_out = step_done(20, num_steps=0, seconds=2.0, data_wait_seconds=2.0)
    account = time_account(records_of(run_started(), left_out, each=5.0))
    assert account["data_wait"] == pytest.approx(2)


def test_records_that_claim_more_than_the_clock_are_cut_to_it() -> None:
    account = time_account(records_of(run_started(), step_done(20, seconds=30.0), each=3.0))
    assert sum(account.values()) == pytest.approx(3)
    assert account["idle"] == 0
    assert account["productive"] == pytest.approx(3 * 29.9 / 30)


def test_steps_trained_before_count_as_redone() -> None:
    first = records_of(run_started(), step_done(20), step_done(50, num_steps=30), attempt="1-aa", each=4.0)
    again = step_done(60, num_steps=40, seconds=4.0, data_wait_seconds=0.0)
    told = accounted(startup=1.0, productive=8.0)
    second = records_of(resumed(20), again, step_done(80), told, attempt="2-bb", start=2000.0, each=3.0)
    account = time_account([*first, *second])
    assert account["redone"] == pytest.approx(4.0 * 30 / 40)  # steps 21 to 50 of 21 to 60
    assert sum(account.values()) == pytest.approx(2009 - 1000)
    assert highest([*first, *second]) == 80


def test_an_empty_ledger_has_an_empty_account() -> None:
    assert sum(time_account([]).values()) == 0
    assert goodput(time_account([])) is None


# -- summary ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "now", "status"),
    [
        (AttemptEnded(code=0, reason="complete", seconds=1), 9e9, "complete"),
        (AttemptEnded(code=143, reason="SIGTERM", seconds=1), 9e9, "stopped"),
        (AttemptEnded(code=4, reason="diverged", seconds=1), 9e9, "failed"),
        (None, 1010.0, "running"),
        (None, 2000.0, "killed"),
    ],
)
def test_the_status_of_a_run(end: AttemptEnded | None, now: float, status: str) -> None:
    found = summary(records_of(run_started(), step_done(20), *([end] if end else [])), now=now)
    assert found.status == status
    assert found.code == (end.code if end else None)


def test_a_run_that_was_killed_and_goes_on_is_running() -> None:
    first = records_of(run_started(), AttemptEnded(code=143, reason="SIGTERM", seconds=1), attempt="1-aa")
    second = records_of(run_started(), attempt="2-bb", start=1100.0)
    assert summary([*first, *second], now=1101.0).status == "running"
    assert summary([*first, *second], now=1101.0).num_attempts == 2


def test_the_summary_tells_best_latest_and_artifacts() -> None:
    published = CheckpointPublished(step=40, checkpoint="c40", size_bytes=1, seconds=0.1)
    happened = [
        run_started(),
        step_done(20),
        pass_done(20, 0.5, is_best=True),
        step_done(40, loss=0.2, seconds_left=9.0),
        pass_done(40, 0.7),
        published,
        ArtifactWritten(kind="report", path="report/index.html"),
        AttemptEnded(code=0, reason="complete", seconds=1),
    ]
    found = summary(records_of(*happened), now=1010.0)
    assert found.best is not None
    assert (found.best.metric, found.best.value, found.best.step) == ("val/loss", 0.5, 20)
    assert (found.step, found.loss, found.seconds_left, found.checkpoint) == (40, 0.2, None, "c40")
    assert found.passes["val"]["loss"] == 0.7
    assert found.artifacts == {"report": "report/index.html"}


def test_the_summary_of_nothing() -> None:
    assert summary([], now=0.0).status == "empty"
