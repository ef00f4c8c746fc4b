"""Every rule on a hand-made ledger that fires it and on one just below, which does not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.telemetry_samples import (
    NUM_POINTS,
    check,
    evaluations,
    pass_done,
    records_of,
    run_started,
    step_done,
    steps,
)
from trainer.telemetry.bus import Bus
from trainer.telemetry.events import CheckpointPublished, Event, NonFinite, Resumed, Warned
from trainer.telemetry.rules import Finding, Rule
from trainer.telemetry.rules_gradient import AlwaysClipped, HighNorm, ScaleSaturated, Vanishing
from trainer.telemetry.rules_loss import Exploding, FlatLoss, NonFiniteLoss
from trainer.telemetry.rules_machine import CpuOnly, GraceBudget, SlowData, UnsteadySpeed
from trainer.telemetry.rules_passes import FrozenMetric, LargeGap, OneClass, Overfit
from trainer.telemetry.trace import Trace
from trainer.telemetry.warnings import Watcher, find_warnings, general_rules


def flat(improvement: float, accuracy: float = 0.29, **more: Any) -> list[Event]:
    low = 2.0 * (1 - improvement)
    values = {"loss": lambda point: 2.0 if point < 20 else low, "metrics": {"top1": accuracy}}
    return steps(**(values | more))


def fallen_to(loss: float) -> list[Event]:
    return steps(loss=lambda point: 2.0 if point < 10 else loss, metrics={})


def last_up(height: float) -> list[Event]:
    return steps(loss=lambda point: height if point == NUM_POINTS - 1 else 1.0)


def bad(step: int) -> NonFinite:
    return NonFinite(step=step, what="gradient norm nan", policy="skip", used=1, budget=9, sample_ids=list(range(8)))


def jumping(jump: float, **more: Any) -> list[Event]:
    return steps(samples_per_second=lambda point: 100 * (1 + jump * (-1) ** point), **more)


def published(*seconds: float) -> list[Event]:
    """Publishes behind 30 log points of 20 steps of 0.1 s each."""
    done = [CheckpointPublished(step=20, checkpoint=f"c{at}", size_bytes=9, seconds=s) for at, s in enumerate(seconds)]
    return [*steps(), *done]


WARM = {"learning_rate": lambda point: 1e-4 * (point + 1)}
SLOW_START = [step_done(20, samples_per_second=1.0), *(step_done(20 * point) for point in range(2, 12))]
GRACE = {"config": {"run": {"grace_seconds": 30.0}}}
CONFIG = {"config": {"optim": {"clip": 2.0}}}
FALLING = [1.0, 0.9, 0.8, 0.7]

CASES: list[tuple[str, Rule, list[Event], dict[str, Any], bool]] = [
    ("flat", FlatLoss(), flat(0.0), {}, True),
    ("just flat", FlatLoss(), flat(0.0049), {}, True),
    ("falls enough", FlatLoss(), flat(0.0051), {}, False),
    ("flat but good", FlatLoss(), flat(0.0, accuracy=0.31), {}, False),
    ("flat while warming up", FlatLoss(), flat(0.0, **WARM), {}, False),
    ("flat, too short to say", FlatLoss(), flat(0.0)[:19], {}, False),
    ("flat, window is 1 % of a long run", FlatLoss(), flat(0.0), {"total_steps": 40_000}, False),
    ("flat without accuracy, little learned", FlatLoss(), fallen_to(1.85), {"metrics": {"loss": "min"}}, True),
    (
        "flat without accuracy, much learned",
        FlatLoss(),
        fallen_to(1.75),
        {"metrics": {"loss": "min"}},
        False,
    ),
    (
        "flat in another metric",
        FlatLoss(loss="nll"),
        flat(0.5, metrics={"nll": 2.0}),
        {"metrics": {"nll": "min"}},
        False,
    ),
    ("nan", NonFiniteLoss(), [*steps(3), bad(61)], {}, True),
    ("nan long ago", NonFiniteLoss(), [bad(5), *steps(3)], {}, False),
    ("no nan", NonFiniteLoss(), steps(3), {}, False),
    ("explodes", Exploding(), last_up(1.51), {}, True),
    ("high but no explosion", Exploding(), last_up(1.49), {}, False),
    ("tiny loss doubles", Exploding(), steps(loss=lambda point: 0.02 if point == 29 else 0.01), {}, False),
    ("explodes before there is a best", Exploding(), last_up(9.0)[-5:], {}, False),
    ("overfits", Overfit(), evaluations([1.0, 1.02, 1.04, 1.06], FALLING), {}, True),
    ("rises too little", Overfit(), evaluations([1.0, 1.01, 1.02, 1.04], FALLING), {}, False),
    ("one dip", Overfit(), evaluations([1.0, 1.05, 1.04, 1.2], FALLING), {}, False),
    ("training rises too", Overfit(), evaluations([1.0, 1.1, 1.2, 1.3], FALLING[::-1]), {}, False),
    ("two rises only", Overfit(), evaluations([1.0, 1.1, 1.2], FALLING[:3]), {}, False),
    ("gap", LargeGap(), evaluations([1.71], [1.0]), {}, True),
    ("small gap", LargeGap(), evaluations([1.69], [1.0]), {}, False),
    ("no value", LargeGap(), evaluations([None], [1.0]), {}, False),
    ("one class", OneClass(), evaluations([1.0], [1.0], top_prediction_share=0.6, top1=0.1), {}, True),
    ("half", OneClass(), evaluations([1.0], [1.0], top_prediction_share=0.5, top1=0.1), {}, False),
    ("one class is most", OneClass(), evaluations([1.0], [1.0], top_prediction_share=0.9, top1=0.8), {}, False),
    ("share unknown", OneClass(), evaluations([1.0], [1.0], top1=0.0), {}, False),
    ("frozen", FrozenMetric(), evaluations([0.7] * 4, FALLING), {}, True),
    ("moves", FrozenMetric(), evaluations([0.7, 0.7, 0.7, 0.70001], FALLING), {}, False),
    ("three equal ones", FrozenMetric(), evaluations([0.6, 0.7, 0.7, 0.7], FALLING), {}, False),
    ("perfect", FrozenMetric(), evaluations([0.5] * 4, FALLING, top1=1.0), {"best_metric": "val/top1"}, False),
    ("high norm", HighNorm(), steps(grad_norm=20.1), CONFIG, True),
    ("norm at ten times the limit", HighNorm(), steps(grad_norm=20.0), CONFIG, False),
    ("no limit", HighNorm(), steps(grad_norm=99.0), {"config": {"optim": {"clip": None}}}, False),
    ("clipped", AlwaysClipped(), steps(clipped_share=0.51), CONFIG, True),
    ("clipped half of the time", AlwaysClipped(), steps(clipped_share=0.5), CONFIG, False),
    ("vanishing", Vanishing(), steps(grad_norm=0.99e-4, metrics={"top1": 0.89}), {}, True),
    ("small", Vanishing(), steps(grad_norm=1.0e-4, metrics={"top1": 0.89}), {}, False),
    ("nothing left to learn", Vanishing(), steps(grad_norm=1e-6, metrics={"top1": 0.91}), {}, False),
    ("scale at its lowest", ScaleSaturated(), steps(loss_scale=1.0), {}, True),
    ("scale low", ScaleSaturated(), steps(loss_scale=2.0), {}, False),
    ("scale out of sight", ScaleSaturated(), steps(loss_scale=2.0**32), {}, True),
    ("scale high", ScaleSaturated(), steps(loss_scale=2.0**31), {}, False),
    ("many skipped", ScaleSaturated(), steps(loss_scale=64.0, skipped_steps=lambda point: 1 + point % 2), {}, True),
    ("few skipped", ScaleSaturated(), steps(loss_scale=64.0, skipped_steps=1), {}, False),
    ("no scaler", ScaleSaturated(), steps(skipped_steps=20), {}, False),
    ("waits for data", SlowData(), steps(data_wait_seconds=0.41), {}, True),
    ("waits a little", SlowData(), steps(data_wait_seconds=0.40), {}, False),
    ("too fast to say", SlowData(), steps(seconds=0.4, data_wait_seconds=0.4), {}, False),
    ("jumps", UnsteadySpeed(), jumping(0.31), {}, True),
    ("jumps a little", UnsteadySpeed(), jumping(0.29), {}, False),
    ("jumps for a moment", UnsteadySpeed(), jumping(0.9, seconds=0.4), {}, False),
    ("only the first is slow", UnsteadySpeed(), SLOW_START[:10], {}, False),
    ("no time to publish", GraceBudget(), published(24.91), GRACE, True),
    ("just time to publish", GraceBudget(), published(24.89), GRACE, False),
    ("rarely no time", GraceBudget(), published(60.0, *[1.0] * 20), GRACE, False),
    ("often no time", GraceBudget(), published(60.0, 60.0, *[1.0] * 20), GRACE, True),
    ("steps too long", GraceBudget(), [*steps(seconds=600.0), *published(1.0)[-1:]], GRACE, True),
    (
        "only the first steps are long",
        GraceBudget(),
        [step_done(20, seconds=900.0), step_done(40), *published(1.0)[-1:]],
        GRACE,
        False,
    ),
    ("nothing published yet", GraceBudget(), steps(seconds=600.0), GRACE, False),
    ("cpu beside a gpu", CpuOnly(), [], {"environment": {"gpus": 2}}, True),
    ("cpu without gpu", CpuOnly(), [], {"environment": {"gpus": 0}}, False),
    ("gpu used", CpuOnly(), [], {"environment": {"gpus": 2}, "device": "NVIDIA H100"}, False),
]


@pytest.mark.parametrize(
    ("rule", "happened", "started", "fires"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_rule_fires_on_its_trace_only(
    rule: Rule, happened: list[Event], started: dict[str, Any], fires: bool
) -> None:
    finding = check(rule, happened, **started)
    assert (finding is not None) == fires
    if finding is not None:
        assert "\n" not in finding.text
        assert finding.text.isascii()
        assert finding.numbers


def test_every_general_rule_has_a_trace_that_fires_it_and_one_that_does_not() -> None:
    fired = {(rule.name, fires) for _, rule, _, _, fires in CASES}
    assert fired == {(rule.name, fires) for rule in general_rules() for fires in (True, False)}


def test_an_undisturbed_training_is_not_warned_about() -> None:
    happened: list[Event] = []
    for epoch in range(1, 30):
        loss = 2.0 / epoch
        happened += [
            step_done(20 * epoch, loss=loss, metrics={"top1": 1 - loss / 3}),
            pass_done(20 * epoch, loss + 0.1),
        ]
    assert find_warnings(records_of(run_started(), *happened)) == []


def test_the_advice_of_a_flat_loss_follows_the_numbers() -> None:
    advice = {
        "raise the learning rate": {"update_ratio": 1e-6},
        "lower the learning rate": {"clipped_share": 0.6},
        "check labels": {"update_ratio": 1e-3},
    }
    for words, numbers in advice.items():
        finding = check(FlatLoss(), flat(0.0, **numbers))
        assert finding is not None
        assert words in finding.text


def test_texts_hold_the_numbers_and_the_place() -> None:
    found = check(Exploding(), steps(loss=lambda point: 3.0 if point >= 28 else 1.0, learning_rate=0.05))
    assert found is not None
    assert "mean 3.0000" in found.text
    assert "by step 580 at learning rate 5.00e-02" in found.text  # point 28 is the first bad one
    found = check(NonFiniteLoss(), [*steps(2), bad(41)])
    assert found is not None
    assert "samples 0, 1, 2, 3, 4 ..." in found.text
    found = check(Overfit(), evaluations([0.5, 1.0, 1.1, 1.2], FALLING))
    assert found is not None
    assert "best was 0.5000 at step 20" in found.text


# -- the watcher -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Always:
    """A task's own rule."""

    name: str = "always"
    severity: str = "note"
    from_step: int = 0

    def check(self, trace: Trace) -> Finding | None:
        return Finding(f"seen at {trace.step}", {"step": trace.step}) if trace.step >= self.from_step else None


def watched(happened: list[Event], **options: Any) -> list[Warned]:
    seen: list[Event] = []
    watcher = Watcher(seen.append, **options)
    for event in happened:
        watcher.on_event(event)
    watcher.close()
    return [event for event in seen if isinstance(event, Warned)]


def test_a_rule_speaks_once_in_a_thousand_steps() -> None:
    seen = watched([run_started(), *steps(150)], rules=[Always()])
    assert [event.step for event in seen] == [0, 1000, 2000, 3000]
    assert seen[1].name == "always"
    assert seen[1].severity == "note"
    assert seen[1].numbers == {"step": 1000}


def test_a_preemption_that_does_not_fit_is_said_once_a_run() -> None:
    slow = published(99.0)[-1]
    happened = [run_started(**GRACE), *steps(10), slow, *[event for event in steps(200) if event.step > 200]]
    assert [event.step for event in watched(happened) if event.name == "grace_budget"] == [300]
    history = records_of(*happened, attempt="1-aa")
    again = [run_started(step=4000, **GRACE), *[event for event in steps(300) if event.step > 4000], slow]
    assert [event for event in watched(again, history=history) if event.name == "grace_budget"] == []


def test_a_publish_does_not_take_training_back_in_time() -> None:
    trace = Trace.of(records_of(run_started(), *published(1.0)))
    assert trace.step == 600


def test_the_watcher_and_the_report_find_the_same() -> None:
    happened: list[Event] = [run_started(), *flat(0.0), pass_done(600, 5.0), bad(601)]
    live = watched(happened)
    assert {event.name for event in live} == {"flat_loss", "large_gap", "non_finite"}
    assert find_warnings(records_of(*happened)) == live


def test_a_task_adds_its_own_rules() -> None:
    rules = [*general_rules(), Always(from_step=600)]
    assert [event.name for event in find_warnings(records_of(run_started(), *steps()), rules)] == ["always"]


def test_the_next_attempt_repeats_nothing_and_forgets_what_is_done_again() -> None:
    history = records_of(run_started(), *steps(40), attempt="1-aa")
    resumed = Resumed(step=600, checkpoint="c", redone_steps=200)
    again = [event for event in steps(60) if event.step > 600]
    happened = [run_started(step=600), resumed, *again]
    assert [event.step for event in watched(happened, rules=[Always()], history=history)] == [1000]
    rises = [step_done(20 * point, loss=1.0 if point <= 30 else 0.3) for point in range(1, 41)]
    trace = Trace.of(records_of(run_started(), *rises, resumed))
    assert trace.steps[-1]["step"] == 600


def test_a_run_that_began_anew_replaces_what_was_there() -> None:
    trace = Trace.of(records_of(run_started(), *steps(10), run_started(), step_done(20, loss=9.0)))
    assert [record["loss"] for record in trace.steps] == [9.0]


def test_a_warning_reaches_the_other_listeners_of_the_bus() -> None:
    seen: list[Event] = []

    class Last:
        def on_event(self, event: Event) -> None:
            seen.append(event)

        def close(self) -> None:
            pass

    bus = Bus()
    bus.add(Watcher(bus.emit, rules=[Always()]), Last())
    bus.emit(run_started())
    assert [type(event).__name__ for event in seen] == ["RunStarted", "Warned"]


def test_a_long_run_keeps_a_bounded_past() -> None:
    trace = Trace.of(records_of(run_started(total_steps=10_000), *steps(3_000)))
    assert len(trace.steps) <= 1_000 + 5_000 // 20
    assert trace.window(200)


@pytest.mark.parametrize("make", [FlatLoss, Exploding, HighNorm, SlowData, Overfit])
def test_thresholds_are_fields(make: Callable[..., Rule]) -> None:
    assert make.__dataclass_fields__
    assert make() == make()
