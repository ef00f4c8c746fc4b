"""Check 9: killed at random steps, some inside a pass, weights and metrics are as if nothing had happened."""

import random
import signal

import pytest

from tests.s3.runs import end_state, events
from tests.translation_runs import attempt, translation_settings
from trainer.checkpoint.stores import open_store
from trainer.telemetry.reading import effective, read_run

NUM_KILLS = 20
PASSES = {"val": "every 3 steps", "val_translate": "every 4 steps"}
TIMES = {"seconds_per_sentence", "tokens_per_sec"}
"""Metrics that measure the machine."""


def settings_for(folder):
    return translation_settings(folder, passes=PASSES, checkpoint__every="every 5 steps and end")


def end_of(folder):
    """Weights and optimizer, the loss and the metrics of every step, and the metrics of every pass."""
    url = f"file://{folder}"
    records = effective(read_run(open_store(url), "run"))
    steps = {one["step"]: [one["loss"], one["grad_norm"], steady(one)] for one in records if one["event"] == "StepDone"}
    walks = {(one["name"], one["step"], one["is_final"]): steady(one) for one in records if one["event"] == "PassDone"}
    return end_state(url, "run"), steps, walks


def steady(record):
    return {name: value for name, value in record["metrics"].items() if name not in TIMES}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The end of a run that nothing happened to, and how often each place of it was met."""
    folder = tmp_path_factory.mktemp("calm")
    assert attempt(settings_for(folder)) == [0]
    num_batches = sum(-(-one["num_samples"] // 32) for one in events(f"file://{folder}", "PassDone", "run"))
    steps = max(one["step"] for one in events(f"file://{folder}", "StepDone", "run"))
    return end_of(folder), {"after_backward": steps, "after_update": steps, "mid_pass": num_batches}


def killed(folder, undisturbed, place):
    calm, _ = undisturbed
    codes = attempt(settings_for(folder), crash_at=place)
    assert codes == [128 + signal.SIGKILL], f"{place} was never met: {codes}"
    assert attempt(settings_for(folder)) == [0]
    weights, steps, walks = end_of(folder)
    assert weights == calm[0], place
    # What the killed process had not yet stored of its ledger is gone; what there is must be the same.
    assert all(calm[1][step] == found for step, found in steps.items()), place
    assert all(calm[2][walk] == found for walk, found in walks.items()), place
    assert max(steps) == max(calm[1])
    assert {key for key in walks if key[2]} == {key for key in calm[2] if key[2]}


def places(undisturbed, number):
    """Random ones: a third of them inside a pass."""
    draw, met = random.Random(9), undisturbed[1]
    names = ["after_backward", "after_update", "mid_pass"]
    return [f"{names[at % 3]}:{draw.randint(1, met[names[at % 3]])}" for at in range(number)]


@pytest.mark.timeout(120)
def test_9_killed_in_a_step_and_in_a_pass(tmp_path, undisturbed):
    for number, place in enumerate(places(undisturbed, NUM_KILLS)[1:3]):
        killed(tmp_path / str(number), undisturbed, place)


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_9_killed_at_twenty_random_steps(tmp_path, undisturbed):
    for number, place in enumerate(places(undisturbed, NUM_KILLS)):
        killed(tmp_path / str(number), undisturbed, place)
    print(f"{NUM_KILLS} kills at random steps and inside passes: weights, optimizer and all metrics equal")
