"""Steps, moments, rates and early stop as the reference counts them, and a plan that the ledger agrees with."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from tests.s3.runs import events
from tests.toy import train_toy
from tests.toy_terms import MASKS, TermsTask, terms_settings
from tests.unit.test_balance import job_of
from trainer.config.expressions import Trigger
from trainer.config.settings import EarlyStopSettings, OptimSettings, ScheduleSettings
from trainer.data.plan import FixedPlan, steps_of_samples
from trainer.engine.best import Best, EarlyStop
from trainer.engine.cursor import Cursor
from trainer.engine.optim import base_rate, build_optimizer
from trainer.engine.schedule import Schedule
from trainer.engine.setup import run_length
from trainer.engine.source import PlannedSource
from trainer.engine.step import Mailbox, set_rate, train_step
from trainer.engine.timeline import timeline
from trainer.engine.world import World
from trainer.errors import SettingsError


def walked(settings, world=World()):  # noqa: B008 - a frozen value
    """Every step that one rank makes of a run."""
    source = PlannedSource(TermsTask(settings), settings, world)
    return [step for chunk in source.walk(Cursor(), settings.num_epochs) for step in chunk]


@pytest.mark.parametrize(
    ("samples", "micro", "accumulation", "micro_batches", "steps"), [(1003, 16, 4, 63, 16), (600, 32, 2, 19, 10)]
)
def test_01_step_arithmetic(samples, micro, accumulation, micro_batches, steps, tmp_path):
    values = {"num_samples": samples, "batch_size": micro * accumulation, "accumulation": accumulation}
    made = walked(terms_settings(tmp_path, num_epochs=1, **values))
    assert (len(made), sum(len(step.micro) for step in made)) == (steps, micro_batches)
    assert samples // (micro * accumulation) < steps, "linnaeus: rounded down after a batch search"
    assert max(len(part["index"]) for step in made for part in step.micro) == micro
    settings = terms_settings(tmp_path, num_epochs=12, **values)
    assert run_length(settings, steps) == 12 * steps == len(walked(settings))


@given(
    samples=st.integers(1, 90), batch_size=st.integers(1, 40), accumulation=st.integers(1, 5), epochs=st.integers(1, 3)
)
def test_01_planned_steps_are_the_steps_done_by_every_rank(samples, batch_size, accumulation, epochs):
    values = {"num_samples": samples, "batch_size": batch_size, "accumulation": accumulation, "num_epochs": epochs}
    settings = terms_settings("nowhere", **values)
    ranks = [walked(settings, World(rank, 3)) for rank in range(3)]
    for steps in zip(*ranks, strict=True):
        assert sum(len(part["index"]) for step in steps for part in step.micro if step.weight) == steps[0].num_samples
        assert all(len(step.micro) <= accumulation for step in steps)
    assert len(ranks[0]) == run_length(settings, -(-samples // batch_size))
    assert sum(step.num_samples for step in ranks[0]) == samples * epochs


def test_a_sample_knows_its_step():
    plan = FixedPlan(53, 8, 1)
    found = steps_of_samples(plan, 53, 2)
    assert all((found[plan.batch(2, step)] == step).all() for step in range(7))
    assert not (found == steps_of_samples(plan, 53, 3)).all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"passes": {"val": "every 0 %"}}, "zero"),
        ({"passes": {"val": "every 120 %"}}, "more than 100 %"),
        ({"balance__every": "every 5 parsecs"}, "unknown unit 'parsecs'"),
        ({"passes": {"val": {"every": "5 steps", "at": "10%"}}}, "takes one moment, got 2"),
    ],
)
def test_02_a_wrong_expression_is_an_error_in_settings(values, says, tmp_path):
    with pytest.raises(ValidationError, match=says):
        terms_settings(tmp_path, **values)


def test_03_firing():
    firings = Trigger.parse("every 50 steps").firings(47 * 40, 47)
    assert len(firings) == 37
    assert firings == list(range(50, 1851, 50))
    assert not [step for step in range(47, 47 * 40 + 1, 47) if step % 50 == 0], "linnaeus: looked at epoch ends only"


def random_run(draw: random.Random) -> dict:
    """Settings of a short run with moments and curves of every kind."""

    def moment() -> str:
        amount = draw.choice(
            [f"{draw.randint(1, 9)} steps", f"{draw.randint(7, 60)}/3 %", f"{draw.randint(1, 5)}/2 epochs"]
        )
        return draw.choice(["never", f"every {amount}", f"every {amount} from {draw.randint(0, 9)}", f"at {amount}"])

    schedules = [
        {"name": "wsd", "stable": 0.5, "warmup": "2 steps"},
        {"name": "step", "interval": "2/3 epochs"},
        {"name": "cosine", "warmup": "10%"},
        {"name": "curve", "curve": "0 @ 0, 1 @ 20%, 0.1 @ 100% cosine"},
    ]
    return {
        "num_samples": draw.randint(20, 70),
        "batch_size": draw.randint(8, 24),
        "num_epochs": draw.randint(1, 3),
        "passes": {"val": "never"}
        | {f"val_{number}": moment() + draw.choice(["", " and end"]) for number in range(MASKS)},
        "checkpoint__every": moment(),
        "checkpoint__milestones": moment(),
        "balance__every": draw.choice(["every 3 steps", "at 30%, 1 steps", "every 2 epochs and end"]),
        "schedule": draw.choice(schedules),
        "hide": f"0.5 @ 0, {draw.random():.2f} @ {draw.randint(1, 99)} % {draw.choice(['hold', 'linear'])}",
    }


PLANNED = ("pass", "final pass", "checkpoint", "balance")


@pytest.mark.parametrize("number", range(20))
def test_04_plan_and_ledger_agree(number, tmp_path):
    """No pass measures the metric of `best` here: its checkpoints are the only ones that nobody can plan."""
    settings = terms_settings(tmp_path, **random_run(random.Random(number)))
    written = settings.model_dump()
    plan = timeline(TermsTask(settings), settings)
    train_toy(settings, TermsTask)
    kinds = ("StepDone", "PassDone", "CheckpointTaken", "Balanced")
    found = {kind: events(f"file://{tmp_path}", kind, "terms") for kind in kinds}
    happened = {(one["step"], f"{'final ' * one['is_final']}pass {one['name']}") for one in found["PassDone"]}
    happened |= {(one["step"], "checkpoint") for one in found["CheckpointTaken"]}
    happened |= {(one["step"], "balance") for one in found["Balanced"]}
    planned = {(line.step, line.what) for line in plan.lines if line.what.startswith(PLANNED)}
    assert (1, "balance") in planned
    assert planned ^ happened == set()
    assert len(found["StepDone"]) == plan.total_steps
    values = {one["step"] - 1: (one["learning_rate"], one["curves"]) for one in found["StepDone"]}
    knots = [line for line in plan.lines if line.step < plan.total_steps]
    assert {"learning rate", "curve hide"} <= {line.what for line in knots}
    assert [(line.learning_rate, line.curves) for line in knots] == [values[line.step] for line in knots]
    assert settings.model_dump() == written, "defect 5: what is resolved never takes the place of what was written"


WSD = {"name": "wsd", "stable": 0.8, "decay": 0.2, "floor": 1e-2, "warmup": "20 steps", "warmup_from": 1e-3}
COSINE = {"name": "cosine", "floor": 1e-2, "warmup": "10 steps", "warmup_from": 1e-3}
RATES = [
    (COSINE, {0: 1e-6, 1: 1.009e-4, 5: 5.005e-4, 10: 1e-3, 32: 8.61073e-4, 55: 5.05e-4, 99: 1.03015e-5}),
    (COSINE | {"name": "linear"}, {11: 9.89e-4, 55: 5.05e-4, 99: 2.1e-5}),
    (WSD, {20: 1e-3, 84: 1e-3, 92: 5.05e-4, 99: 1.95113e-5}),
    (WSD | {"stable": 0.5, "decay": 0.25}, {60: 1e-3, 70: 5.05e-4, 80: 1e-5, 99: 1e-5}),
    ({"name": "step", "factor": 0.5, "interval": "25 steps", "warmup": "10"}, {34: 1e-3, 35: 5e-4, 60: 2.5e-4}),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "rates"), RATES)
def test_05_rate_table(settings, rates):
    schedule = Schedule(ScheduleSettings(**settings), 100, 10, "val/loss", "min")
    for step, rate in rates.items():
        assert 1e-3 * schedule.factor(step) == pytest.approx(rate, rel=1e-5)


def rates_of(job, steps):
    """What the optimizer has as its rate on each of these steps."""
    found = []
    for step in range(steps):
        job.cursor.updates = step
        set_rate(job)
        found.append(job.optimizer.param_groups[0]["lr"])
    return found


def test_05_every_step_is_made_at_its_own_rate(tmp_path):
    """The optimizer steps at what the table says, from the first step on (linnaeus: 2e-3 there)."""
    values = {"optim__lr": 1e-3, "num_epochs": 10, "schedule": COSINE}
    job = job_of(terms_settings(tmp_path, **values))
    assert job.total_steps == 100
    made, step = [], job.optimizer.step
    job.optimizer.step = lambda: made.append(job.optimizer.param_groups[0]["lr"]) or step()
    for number in range(6):
        train_step(job, Mailbox(is_late=False), job.source.steps(0, range(number, number + 1))[0])
    assert [made[number] for number in (0, 1, 5)] == pytest.approx([1e-6, 1.009e-4, 5.005e-4], rel=1e-5)
    found = rates_of(job, 100)
    assert {step: found[step] for step in RATES[0][1]} == pytest.approx(RATES[0][1], rel=1e-5)


def test_knots_are_where_the_rate_changes_its_course():
    def knots(**settings):
        return Schedule(ScheduleSettings(**settings), 100, 10, "val/loss", "min").knots

    assert knots(**WSD) == [0, 20, 84, 100]
    assert knots(name="step", interval="30 steps", warmup="5 steps") == [0, 5, 35, 65, 95, 100]
    assert knots(name="curve", curve="0 @ 0, 1 @ 33 %, 0 @ 5 epochs") == [0, 33, 50, 100]


@pytest.mark.parametrize(
    "values", [{"name": "wsd", "stable": 0.9, "decay": 0.2}, {"name": "step", "interval": "0 steps"}]
)
def test_schedules_that_cannot_be_are_refused(values):
    with pytest.raises(ValidationError, match="schedule"):
        ScheduleSettings(**values)


def test_06_batch_scaling_holds_on_every_step():
    schedule = Schedule(ScheduleSettings(**COSINE), 100, 10, "val/loss", "min")
    single, double = (base_rate(OptimSettings(lr_scaling="linear", reference_batch=64), size) for size in (64, 128))
    ratios = [double * schedule.factor(step) / (single * schedule.factor(step)) for step in range(100)]
    assert ratios == pytest.approx([2.0] * 100, abs=1e-12)


def test_06_the_optimizer_has_the_scaled_rate_on_every_step(tmp_path):
    def found(size):
        values = {"num_samples": 10 * size, "batch_size": size, "num_epochs": 10, "schedule": COSINE}
        return rates_of(job_of(terms_settings(tmp_path, optim__lr_scaling="linear", **values)), 100)

    single, double = found(64), found(128)
    ratios = [two / one for one, two in zip(single, double, strict=True)]
    assert ratios == pytest.approx([2.0] * 100, abs=1e-12)
    only_first = [2.0] + [1.0] * 99  # linnaeus: the next step of the schedule forgets it
    assert only_first != pytest.approx(ratios, abs=1e-12)


def test_groups_have_optimizer_rate_and_curve_of_their_own(tmp_path):
    groups = [
        {"match": ["trunk.*"], "name": "sgd", "factor": 0.1, "weight_decay": 0.0},
        {"match": ["heads.*.weight"], "curve": "0 @ 0, 1 @ 100%"},
    ]
    settings = terms_settings(tmp_path, num_epochs=1, optim__groups=groups, schedule__name="constant")
    train_toy(settings, TermsTask)
    model = TermsTask(settings).build_model()
    optimizer = build_optimizer(settings.optim, model, 0.01)
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 3, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01, 0.001]
    assert ["betas" in group for group in optimizer.param_groups] == [True, True, False]


def test_defect_10_several_optimizers_come_back_as_they_were(tmp_path):
    """Saved and loaded, sgd for the trunk and adam for the heads go on to the same weights and state."""
    groups = [{"match": ["trunk.*"], "name": "sgd"}, {"match": ["heads.fine.*"], "factor": 0.1}]
    first, again = (job_of(terms_settings(tmp_path, optim__groups=groups)) for _ in range(2))

    def train(job, *numbers):
        for number in numbers:
            train_step(job, Mailbox(is_late=False), job.source.steps(0, range(number, number + 1))[0])
        state = job.capture()
        return {part: {name: value.clone() for name, value in named.items()} for part, named in state.tensors.items()}

    saved = train(first, 0, 1, 2)
    assert len(saved["optimizer"]) > len(saved["model"])
    again.load(saved, first.capture().meta)
    ends = train(first, 3, 4), train(again, 3, 4)
    for part, named in ends[0].items():
        assert all(torch.equal(value, ends[1][part][name]) for name, value in named.items()), part


def test_the_rate_of_a_group_follows_its_curve(tmp_path):
    groups = [{"match": ["trunk.*"], "factor": 2.0, "curve": "0 @ 0, 1 @ 100%"}]
    job = job_of(terms_settings(tmp_path, optim__groups=groups, schedule__name="constant"))
    job.cursor.updates = 60
    set_rate(job)
    assert [group["lr"] for group in job.optimizer.param_groups] == [0.01, 0.01]
    assert job.rate == 0.01


def test_a_group_that_takes_nothing_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    groups = [{"match": ["0.*"]}, {"match": ["0.weight"]}]
    with pytest.raises(SettingsError, match=r"\['0.weight'\], which takes no parameter"):
        build_optimizer(OptimSettings(groups=groups), model, 0.1)


def early_stop(**settings):
    return EarlyStop(EarlyStopSettings(**settings), Best("val/loss", "min"), 10_000, 1000)


def test_24_early_stop_by_steps():
    rule = early_stop(patience="2000 steps")
    told = [rule.see("val", {"loss": 1.0}, step, 1.0) for step in (1000, 2000, 3000)]
    assert told == [None, None, "val/loss has been no better than 1 since step 1000"]
    as_checks = early_stop(patience="2000 passes")  # linnaeus: patience in checks, so it never comes
    assert not any(as_checks.see("val", {"loss": 1.0}, step, 1.0) for step in (1000, 2000, 3000))


def test_24_equal_is_no_gain_and_no_new_value_changes_nothing():
    rule = early_stop(patience="2000 steps")
    rule.see("val", {"loss": 1.0}, 1000, 1.0)
    before = rule.state()
    assert rule.see("other", {"loss": 0.5}, 9000, 1.0) is None
    assert rule.state() == before
    rule.see("val", {"loss": 1.0}, 2000, 1.0)
    assert rule.record.num_bad == 1


def test_other_limits_of_the_early_stop():
    above = early_stop(max_loss=2.0)
    assert above.see("val", {"loss": 2.0}, 1, 1.0) is None
    assert "max_loss" in above.see("val", {"loss": 2.1}, 2, 1.0)
    rates = early_stop(min_lr=1e-3)
    assert [rates.see("val", {"loss": 1.0}, 1, rate) is None for rate in (1e-4, 1e-2, 1e-3, 9e-4)] == [True] * 3 + [
        False
    ]
    norms = early_stop(max_grad_norm=5.0)
    norms.see_norm(6.0)
    norms.see_norm(1.0)
    again = early_stop(max_grad_norm=5.0)
    again.load(norms.state())
    assert "max_grad_norm" in again.see("val", {"loss": 1.0}, 1, 1.0)
    assert again.see("val", {"loss": 1.0}, 2, 1.0) is None


def test_a_metric_of_a_pass_that_never_runs_in_training_is_said(tmp_path):
    values = {
        "passes": {"val": "never", "val_0": "every 200 steps"},
        "early_stop__patience": "2 passes",
        "early_stop__metric": "val_0/loss",
        "schedule__name": "plateau",
        "schedule__metric": "val_1/loss",
        "schedule__warmup": "0 steps",
    }
    train_toy(terms_settings(tmp_path, num_epochs=1, **values), TermsTask)
    said = [one["text"] for one in events(f"file://{tmp_path}", "Noted", "terms") if "does not run in" in one["text"]]
    assert [text.partition(",")[0] for text in said] == ["best.metric is val/loss", "early_stop.metric is val_0/loss"]


def test_a_run_ends_where_a_limit_says(tmp_path):
    settings = terms_settings(tmp_path, passes={"val": "every 5 steps"}, early_stop__max_grad_norm=1e-3)
    train_toy(settings, TermsTask)
    assert max(one["step"] for one in events(f"file://{tmp_path}", "StepDone", "terms")) == 5
    assert "early stop: a gradient norm" in " ".join(
        one["text"] for one in events(f"file://{tmp_path}", "Noted", "terms")
    )
