"""From what ranks leave and torchrun reports to one exit code and one sentence."""

import json

import pytest

from trainer.cli import main
from trainer.errors import DataError, Stopped
from trainer.kube.ending import Memory, Report, explain, read_report, write_reason
from trainer.kube.process import Outcome
from trainer.kube.verdict import Verdict, begin, leave, read

CALM = Memory()
OOM = Memory(num_kills=1, limit_bytes=2 << 30)
TOLD = Outcome(143, told="SIGTERM")
FAILED = Outcome(1)


def rank(folder, number, place="0"):
    return {"TRAINER_VERDICT_DIR": str(folder), "RANK": str(number), "LOCAL_RANK": str(place)}


# -- the files -------------------------------------------------------------------------------------------------------


def test_what_ranks_leave_is_read_by_rank(tmp_path):
    leave(170, "peer lost", rank(tmp_path, 10, 1))
    leave(3, "first problem\n  second problem\n", rank(tmp_path, 9, 0))
    assert read(tmp_path) == [Verdict(9, 3, "first problem; second problem"), Verdict(10, 170, "peer lost")]


def test_nothing_is_written_where_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    leave(3, "why", {"RANK": "0"})
    begin({"RANK": "0"})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_or_full_of_rubbish_hurts_nobody(tmp_path):
    leave(3, "why", rank(tmp_path / "gone", 0))
    (tmp_path / "0.json").write_text("{")
    (tmp_path / "1.json").write_text("[1]")
    (tmp_path / "x.json").write_text('{"code": 1, "reason": "a"}')
    assert read(tmp_path) == []
    assert read(tmp_path / "gone") == []


def test_a_restarted_process_takes_back_what_it_said_under_its_old_rank(tmp_path):
    leave(1, "old", rank(tmp_path, 3, place="1"))
    leave(1, "other", rank(tmp_path, 2, place="0"))
    begin(rank(tmp_path, 5, place="1"))
    assert read(tmp_path) == [Verdict(2, 1, "other")]


@pytest.mark.parametrize(
    ("raised", "code", "reason"),
    [
        (DataError("no data in a\nnor in b"), 3, "no data in a; nor in b"),
        (Stopped("told to stop"), 143, "told to stop"),
        (None, 0, "complete"),
    ],
)
def test_every_end_of_a_command_leaves_its_verdict(tmp_path, monkeypatch, raised, code, reason):
    def train(_settings):
        if raised:
            raise raised

    monkeypatch.setattr("trainer.run.train_settings", train)
    monkeypatch.setenv("TRAINER_VERDICT_DIR", str(tmp_path))
    monkeypatch.setenv("RANK", "4")
    assert main(["train"]) == code
    assert read(tmp_path) == [Verdict(4, code, reason)]


def test_a_defect_leaves_a_verdict_and_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.run.train_settings", lambda _settings: 1 / 0)
    monkeypatch.setenv("TRAINER_VERDICT_DIR", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        main(["train"])
    assert read(tmp_path) == [Verdict(0, 1, "ZeroDivisionError: division by zero")]


def test_a_command_takes_back_what_its_place_said_before(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_VERDICT_DIR", str(tmp_path))
    leave(1, "of another world size", rank(tmp_path, 7))
    assert main(["train", "--batch_size", "0"]) == 2
    assert [verdict.rank for verdict in read(tmp_path)] == [0]


def test_a_wrong_command_line_leaves_a_verdict(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_VERDICT_DIR", str(tmp_path))
    assert main(["train", "--batch_size", "0"]) == 2
    assert read(tmp_path)[0].code == 2


# -- which end explains the others -----------------------------------------------------------------------------------


def said(*ends):
    return [Verdict(number, code, f"reason {code}") for number, code in ends]


def failed(*ends):
    """Failures (rank, code, second)."""
    return Report({number: (code, second) for number, code, second in ends})


CASES = [
    ("complete", Outcome(0), said((0, 0), (1, 0)), Report(), CALM, 0, "complete"),
    ("complete although told", Outcome(0, told="SIGTERM"), said((0, 0)), Report(), CALM, 0, "complete"),
    ("bad data on one rank", FAILED, said((0, 170), (1, 3)), failed((0, 170, 5), (1, 3, 5)), CALM, 3,
     "rank 1: reason 3"),
    ("its verdict counts even if killed", FAILED, said((0, 3)), failed((1, 170, 1), (0, 137, 31)), CALM, 3, "reason 3"),
    ("superseded must not come back", FAILED, said((0, 171), (1, 143)), Report(), CALM, 4, "reason 171"),
    ("store refuses", FAILED, said((0, 5)), failed((0, 5, 1)), CALM, 5, "reason 5"),
    ("final even if told", TOLD, said((0, 4)), Report(), CALM, 4, "reason 4"),
    ("final on a later rank", TOLD, said((0, 170), (1, 4)), Report(), CALM, 4, "rank 1: reason 4"),
    ("who was ended says nothing", FAILED, said((1, 143)), failed((1, 143, 1), (0, 143, 1)), CALM, 143,
     "rank 1: reason 143"),
    ("told, all stopped", TOLD, said((0, 143), (1, 143)), Report(), CALM, 143, "reason 143"),
    ("told, storage away", TOLD, said((0, 170), (1, 143)), Report(), CALM, 170, "reason 170"),
    ("told, after the end", TOLD, said((0, 0)), Report(), CALM, 143, "SIGTERM after the run was complete"),
    ("told, before it began", TOLD, [], Report(), CALM, 143, "told to stop by SIGTERM before the training began"),
    ("told, too slow", Outcome(137, told="SIGTERM", was_killed=True), said((1, 143)), Report(), CALM, 137,
     "raise terminationGracePeriodSeconds"),
    ("told, then out of memory", TOLD, said((1, 143)), Report(), OOM, 137, "memory limit of 2.0 GiB"),
    ("agreed with another pod", FAILED, said((0, 143), (1, 143)), failed((0, 143, 1), (1, 143, 1)), CALM, 143,
     "reason 143"),
    ("peer lost", FAILED, said((0, 170), (1, 143)), failed((0, 170, 1), (1, 143, 1)), CALM, 170, "reason 170"),
    ("killed from outside", FAILED, said((0, 170)), failed((0, 170, 1), (1, 137, 1)), CALM, 137,
     "rank 1: killed by SIGKILL"),
    ("a kill explains an error", FAILED, said((0, 1)), failed((0, 1, 1), (1, 137, 1)), CALM, 137, "rank 1: killed"),
    ("killed by torchrun later", FAILED, said((0, 1)), failed((0, 1, 1), (1, 137, 31)), CALM, 1, "reason 1"),
    ("ended by torchrun", FAILED, said((1, 170)), failed((1, 170, 1), (0, 143, 1)), CALM, 170, "rank 1: reason 170"),
    ("segmentation fault", FAILED, said((0, 170)), failed((1, 139, 3), (0, 170, 3)), CALM, 139, "killed by SIGSEGV"),
    ("fault after the end", FAILED, said((0, 0)), failed((0, 139, 3)), CALM, 139, "killed by SIGSEGV"),
    ("defect beats peer loss", FAILED, said((0, 170), (1, 1)), failed((0, 170, 3), (1, 1, 3)), CALM, 1,
     "rank 1: reason 1"),
    ("out of memory", FAILED, said((0, 170)), failed((1, 137, 1), (0, 170, 1)), OOM, 137,
     "rank 1 was killed because the pod's memory limit of 2.0 GiB was used up; raise resources.limits.memory"),
    ("torchrun out of memory", Outcome(137), [], Report(), OOM, 137, "a process was killed because the pod's memory"),
    ("single process out of memory", Outcome(137), [], Report(), OOM, 137, "raise resources.limits.memory"),
    ("a helper out of memory", FAILED, said((0, 3)), Report(), OOM, 3, "reason 3"),
    ("a worker out of memory", FAILED, said((0, 170)), failed((0, 170, 1)), OOM, 170, "reason 170 (and a process was"),
    ("watchdog", FAILED, said((0, 143)), failed((1, 170, 1), (0, 143, 2)), CALM, 170, "rank 1: nothing moved any more"),
    ("watchdog of a single process", Outcome(170), [], Report(), CALM, 170, "nothing moved any more"),
    ("no meeting", Outcome(170), [], Report(error="the nodes did not come together: x"), CALM, 170, "come together: x"),
    ("left behind", Outcome(137, was_left=True, was_killed=True), [], Report(), CALM, 170, "the first node has ended"),
    ("followed in time", Outcome(1, was_left=True), said((1, 170)), Report(), CALM, 170, "rank 1: reason 170"),
    ("single process killed", Outcome(137), [], Report(), CALM, 137, "killed by SIGKILL"),
    ("nothing known", Outcome(1), [], Report(), CALM, 1, "ended with 1 without a word"),
    ("died while torchrun was imported", Outcome(143), [], Report(), CALM, 143, "killed by SIGTERM"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_the_end_that_explains_the_others(case):
    _, outcome, verdicts, report, memory, code, reason = case
    ending = explain(outcome, verdicts, report, memory)
    assert ending.code == code
    assert reason in ending.reason
    assert "\n" not in ending.reason


def test_zero_needs_a_child_that_ended_with_zero():
    codes = {explain(Outcome(code), said((0, 0)), Report(), CALM).code for code in (1, 2, 137, 143, 170)}
    assert 0 not in codes


def test_without_a_limit_it_is_the_node_s_memory():
    assert "node's memory was used up" in explain(Outcome(137), [], Report(), Memory(1)).reason


def test_torchrun_s_report_is_read_with_codes_of_a_shell(tmp_path):
    path = tmp_path / "torchrun"
    assert read_report(path) == Report()
    path.write_text(json.dumps({"failures": {"1": [-9, 1700000000], "0": [3, 1700000001]}}))
    assert read_report(path) == Report({1: (137, 1700000000.0), 0: (3, 1700000001.0)})
    path.write_text(json.dumps({"error": "no address"}))
    assert read_report(path) == Report(error="no address")
    path.write_text("{")
    assert read_report(path) == Report()


# -- the termination log ---------------------------------------------------------------------------------------------


def test_the_reason_is_one_line_that_the_kubelet_does_not_cut(tmp_path):
    path = tmp_path / "log"
    environ = {"TRAINER_TERMINATION_LOG": str(path)}
    write_reason("one\n two", environ)
    assert path.read_text() == "one two"
    write_reason("é" * 5000, environ)
    assert len(path.read_bytes()) <= 4096
    assert path.read_text().endswith("é...")


def test_outside_of_a_container_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.kube.ending.TERMINATION_LOG", str(tmp_path / "log"))
    write_reason("why", {})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "log").touch()
    write_reason("why", {})
    assert (tmp_path / "log").read_text() == "why"


def test_a_log_that_cannot_be_written_is_no_error(tmp_path):
    write_reason("why", {"TRAINER_TERMINATION_LOG": str(tmp_path / "no" / "log")})
    assert list(tmp_path.iterdir()) == []
