"""Check 12: every warning sign of a translation run on a ledger that fires it, and on one just below."""

from math import log
from typing import Any

import pytest

from tests.unit.telemetry_samples import (
    NUM_POINTS,
    check,
    pass_done,
    records_of,
    run_started,
    step_done,
    steps,
)
from trainer.errors import SettingsError
from trainer.tasks.translation.rules import rules
from trainer.telemetry.events import Event, NonFinite
from trainer.telemetry.rules import Rule
from trainer.telemetry.thresholds import adjusted, thresholds
from trainer.telemetry.trace import Trace
from trainer.telemetry.warnings import Watcher, find_warnings

RULES = {rule.name: rule for rule in rules()}
METRICS = {"loss": "min", "nll": "min", "accuracy": "max", "length_ratio": "max"}
V32 = {"info": {"target_vocab_size": 32}}
GPU = {"device": "NVIDIA H100 80GB HBM3", "environment": {"gpus": 1}}
FALLING = [3.0, 2.9, 2.8, 2.7]
CLIP = {"config": {"optim": {"clip": 1.0}}}
GRACE = {"config": {"run": {"grace_seconds": 30.0}}}
NOAM = {
    "config": {"schedule": {"name": "noam", "width": 512, "warmup": "4000 steps"}, "optim": {"lr": 1.0}},
    "total_steps": 100_000,
}


def first(nll: float, num_steps: int = 20) -> list[Event]:
    return [step_done(num_steps, num_steps=num_steps, metrics={"nll": nll})]


def trained(nll: list[float], training: list[float], **metrics: Any) -> list[Event]:
    """Evaluations of `val` with as many log points between them."""
    happened: list[Event] = []
    for number, (val, train) in enumerate(zip(nll, training, strict=True), start=1):
        happened.append(step_done(20 * number, loss=train + 0.5, metrics={"nll": train}))
        happened.append(pass_done(20 * number, val + 0.5, metrics={"nll": val, **metrics}))
    return happened


def translated(step: int = 20, **metrics: float) -> list[Event]:
    return [step_done(step), pass_done(step, None, name="val_translate", metrics=metrics)]


def said(**metrics: float) -> list[Event]:
    return steps(metrics=metrics)


def flat(nll: float) -> list[Event]:
    return steps(loss=lambda p: 5.0 - p / 9, metrics=lambda p: {"nll": 2.0 if p < 20 else nll, "accuracy": 0.2})


def noam(rate: float, step: int = 4000, **changes: Any) -> list[Event]:
    return [step_done(step, learning_rate=rate, **changes)]


def nan() -> list[Event]:
    bad = NonFinite(step=41, what="gradient norm nan", policy="skip", used=1, budget=9, sample_ids=[1])
    return [*steps(2), bad]


def accuracies(*values: float) -> list[Event]:
    happened: list[Event] = []
    for number, value in enumerate(values, start=1):
        happened += [step_done(20 * number), pass_done(20 * number, metrics={"nll": 3.0, "accuracy": value})]
    return happened


def published(seconds: float) -> list[Event]:
    from trainer.telemetry.events import CheckpointPublished

    return [*steps(), CheckpointPublished(step=20, checkpoint="c", size_bytes=9, seconds=seconds)]


def frozen(*values: float) -> list[Event]:
    return trained(list(values), FALLING)


PEAK = 6.987712429686844e-4
CASES: list[tuple[str, str, list[Event], dict[str, Any], bool]] = [
    ("first nll 26 % high", "bad_start", first(1.26 * log(32)), V32, True),
    ("first nll 26 % low", "bad_start", first(0.74 * log(32), 5), V32, True),
    ("nll of 6 steps 26 % low", "bad_start", first(0.74 * log(32), 6), V32, False),
    ("first nll 24 % high", "bad_start", first(1.24 * log(32)), V32, False),
    ("nll of 100 steps 26 % high", "bad_start", first(1.26 * log(32), 100), V32, True),
    ("vocabulary unknown", "bad_start", first(9.0), {}, False),
    ("nll flat while the smoothed loss falls", "flat_loss", flat(1.991), {}, True),
    ("nll falls", "flat_loss", flat(1.98), {}, False),
    ("nan", "non_finite", nan(), {}, True),
    ("numbers", "non_finite", nan()[:-1], {}, False),
    ("explodes", "exploding", steps(loss=lambda p: 1.51 if p == NUM_POINTS - 1 else 1.0), {}, True),
    ("rises", "exploding", steps(loss=lambda p: 1.49 if p == NUM_POINTS - 1 else 1.0), {}, False),
    ("overfits", "overfit", trained([1.0, 1.02, 1.04, 1.06], FALLING), {}, True),
    ("rises too little", "overfit", trained([1.0, 1.02, 1.03, 1.049], FALLING), {}, False),
    ("perplexity 9.9", "good_enough", trained([log(10.1), log(9.9)], [3.0, 3.0]), {}, True),
    ("perplexity 10", "good_enough", trained([log(10.1), log(10.0)], [3.0, 3.0]), {}, False),
    ("perplexity was below before", "good_enough", trained([log(9.0), log(8.0)], [3.0, 3.0]), {}, False),
    ("gap", "large_gap", trained([2.71], [2.0]), {}, True),
    ("small gap", "large_gap", trained([2.69], [2.0]), {}, False),
    ("val nll 0.79 of training", "leak", trained([1.58], [2.0]), {}, True),
    ("val nll 0.81 of training", "leak", trained([1.62], [2.0]), {}, False),
    ("little dropout explains nothing", "leak", trained([1.0], [2.0]), {"config": {"model": {"dropout": 0.05}}}, True),
    ("dropout explains it", "leak", trained([1.0], [2.0]), {"config": {"model": {"dropout": 0.1}}}, False),
    ("both near zero", "leak", trained([0.01], [0.1]), {}, False),
    ("all right at 9 % of the run", "leak", translated(90, exact_match=0.96), {"total_steps": 1000}, True),
    ("all right at 10 % of the run", "leak", translated(100, exact_match=0.96), {"total_steps": 1000}, False),
    ("most right early", "leak", translated(90, exact_match=0.95), {"total_steps": 1000}, False),
    ("norm above ten limits", "high_norm", steps(grad_norm=10.1), CLIP, True),
    ("norm at ten limits", "high_norm", steps(grad_norm=10.0), CLIP, False),
    ("clipped", "always_clipped", steps(clipped_share=0.51), CLIP, True),
    ("half clipped", "always_clipped", steps(clipped_share=0.50), CLIP, False),
    ("vanishing", "vanishing", steps(grad_norm=0.9e-4, metrics={"accuracy": 0.8}), {}, True),
    ("small norm", "vanishing", steps(grad_norm=1.0e-4, metrics={"accuracy": 0.8}), {}, False),
    ("peak as planned", "lr_off_plan", noam(PEAK), NOAM, False),
    ("first rate as planned", "lr_off_plan", noam(1.746928107421711e-7, 1, num_steps=1), NOAM, False),
    ("peak a little off", "lr_off_plan", noam(PEAK * (1 + 2e-6)), NOAM, True),
    ("peak hardly off", "lr_off_plan", noam(PEAK * (1 + 5e-7)), NOAM, False),
    ("the next step's rate", "lr_off_plan", noam(1.746928107421711e-7, 2), NOAM, True),
    ("another curve", "lr_off_plan", noam(1.0), {"config": {"schedule": {"name": "cosine"}}}, False),
    ("accuracy stands still", "accuracy_stuck", accuracies(0.1, 0.3, 0.3004, 0.3009), {}, True),
    ("accuracy moves", "accuracy_stuck", accuracies(0.1, 0.3, 0.3004, 0.3011), {}, False),
    ("accuracy stands high", "accuracy_stuck", accuracies(0.5, 0.5, 0.5), {}, False),
    ("two evaluations", "accuracy_stuck", accuracies(0.3, 0.3), {}, False),
    ("waits for data", "slow_data", steps(data_wait_seconds=0.41), {}, True),
    ("waits a little", "slow_data", steps(data_wait_seconds=0.40), {}, False),
    ("990 tokens a step", "tiny_batch", said(tokens_per_sec=9_900.0), GPU, True),
    ("1000 tokens a step", "tiny_batch", said(tokens_per_sec=10_000.0), GPU, False),
    ("few tokens on a CPU", "tiny_batch", said(tokens_per_sec=10.0), {}, False),
    ("31 % padding", "padding", said(padding_share=0.31), {}, True),
    ("30 % padding", "padding", said(padding_share=0.30), {}, False),
    ("tokens jump", "unsteady_speed", steps(metrics=lambda p: {"tokens_per_sec": 131.0 - 62 * (p % 2)}), {}, True),
    ("tokens jump less", "unsteady_speed", steps(metrics=lambda p: {"tokens_per_sec": 129 - 58 * (p % 2)}), {}, False),
    (
        "only samples jump",
        "unsteady_speed",
        steps(samples_per_second=lambda p: 10.0 + 90 * (p % 2), metrics={"tokens_per_sec": 100.0}),
        {},
        False,
    ),
    ("cpu beside a gpu", "cpu_only", [], {"environment": {"gpus": 1}}, True),
    ("gpu", "cpu_only", [], GPU, False),
    ("short", "short_output", translated(length_ratio=0.79), {}, True),
    ("nearly short", "short_output", translated(length_ratio=0.80), {}, False),
    ("long", "long_output", translated(length_ratio=1.26), {}, True),
    ("nearly long", "long_output", translated(length_ratio=1.25), {}, False),
    ("loops", "loops", translated(loop_share=0.11), {}, True),
    ("few loops", "loops", translated(loop_share=0.10), {}, False),
    ("copies", "copying", translated(copy_share=0.51), {}, True),
    ("half are copies", "copying", translated(copy_share=0.50), {}, False),
    ("empty", "empty", translated(empty_share=0.011), {}, True),
    ("hardly any empty", "empty", translated(empty_share=0.010), {}, False),
    ("unknowns", "unknowns", trained([2.0], [2.0], unknown_label_share=0.011), {}, True),
    ("few unknowns", "unknowns", trained([2.0], [2.0], unknown_label_share=0.010), {}, False),
    ("truncated", "truncated", [], {"info": {"data": {"over_limit_share": 0.011}}}, True),
    ("few truncated", "truncated", [], {"info": {"data": {"over_limit_share": 0.010}}}, False),
    ("frozen", "frozen_metric", frozen(1.7, 1.7, 1.7, 1.7), {}, True),
    ("moves", "frozen_metric", frozen(1.7, 1.7, 1.7, 1.70001), {}, False),
    ("scale at its lowest", "scale_saturated", steps(loss_scale=1.0), {}, True),
    ("scale low", "scale_saturated", steps(loss_scale=2.0), {}, False),
    ("no time to publish", "grace_budget", published(24.91), GRACE, True),
    ("just time", "grace_budget", published(24.89), GRACE, False),
]


@pytest.mark.parametrize(
    ("name", "happened", "started", "fires"), [case[1:] for case in CASES], ids=[f"{c[1]}: {c[0]}" for c in CASES]
)
def test_12_a_rule_fires_on_its_trace_only(
    name: str, happened: list[Event], started: dict[str, Any], fires: bool
) -> None:
    finding = check(RULES[name], happened, metrics=METRICS, best_metric="val/nll", **started)
    assert (finding is not None) == fires
    if finding is not None:
        assert "\n" not in finding.text
        assert finding.text.isascii()
        assert finding.numbers


def test_12_every_rule_has_a_trace_on_both_sides() -> None:
    assert {(name, fires) for _, name, _, _, fires in CASES} == {(name, fires) for name in RULES for fires in (0, 1)}


def test_names_of_rules_are_unique() -> None:
    assert len(RULES) == len(rules())


def test_skipped_steps_do_not_count_for_the_planned_rate() -> None:
    happened = [step_done(2000, num_steps=2000, skipped_steps=10, learning_rate=9.0), *noam(PEAK * 3990 / 4000)]
    assert check(RULES["lr_off_plan"], happened, **NOAM) is None
    assert check(RULES["lr_off_plan"], happened[1:], **NOAM) is not None


def test_skipped_steps_that_are_done_again_are_forgotten() -> None:
    trace = Trace.of(records_of(run_started(), step_done(20, skipped_steps=3), step_done(20, skipped_steps=1)))
    assert trace.num_skipped == 1


def test_what_does_not_change_is_said_once() -> None:
    seen: list[Event] = []
    watcher = Watcher(seen.append, rules=[RULES["bad_start"], RULES["truncated"], RULES["good_enough"]])
    facts = {"info": {"target_vocab_size": 32, "data": {"over_limit_share": 0.5}}}
    for event in [
        run_started(best_metric="val/nll", **facts),
        *first(9.0),
        *trained([1.0], [1.0])[1:],
        *steps(150)[1:],
    ]:
        watcher.on_event(event)
    assert sorted(getattr(event, "name", "") for event in seen) == ["bad_start", "good_enough", "truncated"]


# -- thresholds are settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_every_threshold_can_be_set(rule: Rule) -> None:
    for name, value in thresholds(rule).items():
        (changed,) = adjusted([rule], {rule.name: f"{name}={type(value)(value + 1)}"})
        assert thresholds(changed) == {**thresholds(rule), name: value + 1}


def test_another_threshold_and_off_change_what_is_found() -> None:
    happened = records_of(run_started(best_metric="val/nll"), *translated(loop_share=0.15, empty_share=0.5))
    assert [one.name for one in find_warnings(happened, rules())] == ["loops", "empty"]
    changed = adjusted(rules(), {"loops": "max_share=0.2", "empty": "off"})
    assert find_warnings(happened, changed) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lops": "off"}, "telemetry.rules.lops: there is no such rule; did you mean 'loops'?"),
        ({"loops": "max_shar=1"}, "no threshold is called 'max_shar'; did you mean 'max_share'?"),
        ({"loops": "max_share=many"}, "max_share is 'many', which must be a number like 0.1"),
    ],
)
def test_a_wrong_name_or_number_is_one_line(changes: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as error:
        adjusted(rules(), changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
