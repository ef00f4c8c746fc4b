"""The kill table of translation: killed at a named point, the end is bit-equal to that of an undisturbed run."""

import signal

import pytest

from tests.bench.turns import print_table
from tests.s3.runs import end_state, events
from tests.translation_runs import attempt, translation_settings
from trainer.checkpoint.inspect import verify_checkpoints
from trainer.checkpoint.stores import open_store

POINTS = {
    "mid_accumulation": 5, "after_backward": 7, "after_update": 8, "mid_copy": 2, "between_files": 2,
    "after_manifest": 2, "mid_pass": 3, "after_pass": 2, "after_epoch": 1, "before_finish": 1,
}  # fmt: skip
"""Ten points and at which meeting the first rank dies: in a step, a checkpoint, a pass, between and after them."""
WORLD_SIZE = 2
EQUAL = "equal"


def settings_for(folder):
    """Two micro-batches a step, so that all points are met, and sentences decoded in the middle of the run."""
    return translation_settings(folder, accumulation=2, passes={"val": "each 3 steps", "val_translate": "each 4 steps"})


def end_of(folder):
    """Weights, optimizer, and every metric of every final pass but the seconds."""
    url = f"file://{folder}"
    finals = {record["name"]: record["metrics"] for record in events(url, "PassDone", "run") if record["is_final"]}
    for metrics in finals.values():
        metrics.pop("seconds_per_sentence", None)
    return end_state(url, "run"), finals


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert attempt(settings_for(folder), WORLD_SIZE) == [0, 0]
    return end_of(folder)


def killed_and_resumed(point, folder):
    codes = attempt(settings_for(folder), WORLD_SIZE, f"{point}:{POINTS[point]}")
    assert codes[0] == 128 + signal.SIGKILL, f"{point} was never met: {codes}"
    assert attempt(settings_for(folder), WORLD_SIZE) == [0, 0]
    assert {one.problem for one in verify_checkpoints(open_store(f"file://{folder}"), "run")} == {None}
    return end_of(folder)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", ["after_update", "mid_pass"])
def test_killed_in_a_step_and_in_a_pass(point, tmp_path, undisturbed):
    assert killed_and_resumed(point, tmp_path) == undisturbed


@pytest.fixture(scope="module")
def kill_table():
    """Results by point, printed as a table at the end."""
    results: dict[str, str] = {}
    yield results
    if results:
        notes = [f"{sum(one == EQUAL for one in results.values())} of {len(results)} ends bit-equal"]
        print_table("Translation, SIGKILL at a point, 2 processes", ("point", "file x 2"), results.items(), notes)


@pytest.mark.proof
@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", POINTS)
def test_kill_table(point, tmp_path, undisturbed, kill_table):
    kill_table[point] = "NOT EQUAL"
    assert killed_and_resumed(point, tmp_path) == undisturbed
    kill_table[point] = EQUAL
