import json
import math
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

from trainer.config.settings import BestSettings, EarlyStopSettings, OptimSettings, ScheduleSettings, WatchdogSettings
from trainer.engine.best import Best, EarlyStop, build_best
from trainer.engine.clock import Clock
from trainer.engine.foreign import ForeignSchedule
from trainer.engine.foreign_tokens import StepSchedule
from trainer.engine.optim import base_rate, build_optimizer, clip, freeze, load_optimizer, optimizer_tensors
from trainer.engine.rng import rekey
from trainer.engine.schedule import Schedule
from trainer.engine.stop import StopRequests, signals_ask
from trainer.engine.watchdog import Watchdog
from trainer.errors import RunError, SettingsError, Stopped
from trainer.telemetry.events import TIME_KINDS

CPU = torch.device("cpu")


def schedule(total=100, per_epoch=10, **settings):
    return Schedule(ScheduleSettings(**settings), total, per_epoch, "val/loss", "min")


def test_time_kinds_sum_to_the_wall_clock():
    clock = Clock()
    clock.switch("productive")
    with clock.during("evaluation"):
        time.sleep(0.01)
    account = clock.account()
    assert set(account) == set(TIME_KINDS)
    assert account["evaluation"] >= 0.01
    assert clock.kind == "productive"
    assert sum(account.values()) == pytest.approx(clock.wall_seconds, abs=1e-3)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 1e-6), (1, 1.009e-4), (5, 5.005e-4), (10, 1e-3), (32, 8.61073e-4), (55, 5.05e-4), (99, 1.03015e-5)],
)
def test_warmup_and_cosine_known_values(step, rate):
    cosine = schedule(name="cosine", warmup="10 steps", warmup_from=1e-3, floor=1e-2)
    assert 1e-3 * cosine.factor(step) == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize(("step", "rate"), [(11, 9.89e-4), (55, 5.05e-4), (99, 2.1e-5)])
def test_warmup_and_linear_known_values(step, rate):
    linear = schedule(name="linear", warmup="10 steps", warmup_from=1e-3, floor=1e-2)
    assert 1e-3 * linear.factor(step) == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize(
    ("s", "rate"),
    [(1, 1.746928e-7), (100, 1.746928e-5), (4000, 6.987712e-4), (8000, 4.941059e-4), (100000, 1.397542e-4)],
)
def test_inverse_square_root_is_noam_with_its_peak(s, rate):
    peak = 1 / math.sqrt(512 * 4000)
    noam = schedule(total=200_000, name="inverse_sqrt", warmup="4000 steps")
    assert peak * noam.factor(s - 1) == pytest.approx(rate, rel=1e-6)


def test_a_curve_is_a_schedule():
    curve = schedule(name="curve", curve="1 @ 0, 1 @ 50%, 0.5 @ 100%")
    assert [curve.factor(step) for step in (0, 50, 75, 100)] == [1.0, 1.0, 0.75, 0.5]


def test_plateau_does_what_torch_does():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=3)
    ours = schedule(name="plateau")
    generator = torch.Generator().manual_seed(1)
    for value in (2.0 + torch.rand(60, generator=generator)).tolist():
        theirs.step(value)
        ours.see("val", {"loss": value})
        assert ours.factor(0) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert ours.factor(0) < 1.0
    again = schedule(name="plateau")
    again.load(ours.state())
    assert again.factor(0) == ours.factor(0)


@pytest.mark.parametrize("limit", [0.5, 1e6, None])
def test_clip_does_what_torch_does(limit):
    rekey(CPU, 1, "test")
    grads = [torch.randn(5, 3), torch.randn(7)]
    parameters = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.clone()
    theirs = nn.utils.clip_grad_norm_(parameters, limit or math.inf)
    ours = clip(grads, limit)
    assert ours == theirs
    for parameter, grad in zip(parameters, grads, strict=True):
        assert torch.equal(parameter.grad, grad)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizer_state_survives_by_parameter_name(name):
    def build():
        rekey(CPU, 3, "model")
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        return model, build_optimizer(OptimSettings(name=name, no_decay=["*.bias"]), model, 0.01)

    def train(model, optimizer, steps):
        for _ in steps:
            model(torch.ones(3, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer = build()
    train(model, optimizer, range(5))
    tensors, scalars = optimizer_tensors(optimizer, model)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    tensors = {key: value.clone() for key, value in tensors.items()}
    train(model, optimizer, range(3))
    other, restored = build()
    other.load_state_dict(weights)
    load_optimizer(restored, other, tensors, scalars)
    train(other, restored, range(3))
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_weight_decay_leaves_out_what_it_is_told_to():
    model = nn.Linear(2, 2)
    groups = build_optimizer(OptimSettings(weight_decay=0.3, no_decay=["bias"]), model, 0.1).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.3, 1), (0.0, 1)]


def test_freezing_by_pattern():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    freeze(model, ["0.*"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["1.weight", "1.bias"]
    with pytest.raises(SettingsError, match="no parameter name matches"):
        freeze(model, ["head.*"])
    with pytest.raises(SettingsError, match="no parameter to train"):
        freeze(model, ["*"])


def test_rate_scaling_by_batch():
    rates = [base_rate(OptimSettings(lr=1.0, lr_scaling=kind), 256) for kind in ("none", "sqrt", "linear")]
    assert rates == [1.0, 2.0, 4.0]


def test_the_same_position_draws_the_same_whatever_came_before():
    rekey(CPU, 1, "step", 5, 0)
    first = torch.rand(3)
    torch.rand(100)
    rekey(CPU, 1, "step", 5, 0)
    assert torch.equal(first, torch.rand(3))
    rekey(CPU, 1, "step", 5, 1)
    assert not torch.equal(first, torch.rand(3))


def test_best_is_strict_and_never_nan():
    best = Best("val/loss", "min")
    seen = [best.see("val", {"loss": value}, step) for step, value in enumerate([2.0, 2.0, math.nan, None, 1.0])]
    assert seen == [True, False, None, None, True]
    assert (best.value, best.step) == (1.0, 4)
    assert best.see("other", {"loss": 0.0}, 9) is None


def test_best_metric_must_exist():
    reported = {"val": {"loss": "min"}, "test": {"f1": "max"}}
    for metric in ("val/f1", "train/loss", "loss"):
        with pytest.raises(SettingsError, match=rf"best.metric is '{metric}'; .*out of: val/ with loss; test/ with f1"):
            build_best(BestSettings(metric=metric), "val/loss", reported)
    assert build_best(BestSettings(metric="test/f1"), "val/loss", reported).mode == "max"
    alike = {"val": {"loss": "min", "fine/top1": "max"}, "val_mask_all": {"loss": "min", "fine/top1": "max"}}
    with pytest.raises(SettingsError) as error:
        build_best(BestSettings(metric="val/fine/top"), "val/loss", alike)
    assert str(error.value) == (
        "best.metric is 'val/fine/top'; did you mean 'val/fine/top1'? it must be pass/metric out of: "
        "val/, val_mask_all/ with loss, fine/top1"
    )


def test_early_stop_by_values_and_by_steps():
    def stops_at(patience, values, every=1000):
        record = Best("val/loss", "min")
        rule = EarlyStop(EarlyStopSettings(patience=patience), record, 10_000, 1000)
        for number, value in enumerate(values, start=1):
            if rule.see("val", {"loss": value}, number * every, 1.0):
                return number
        return None

    assert stops_at("3 passes", [1.0] * 9) == 4
    assert stops_at("2000 steps", [1.0] * 9) == 3
    assert stops_at("2 epochs", [1.0] * 9) == 3
    assert stops_at("2000 steps", [5.0, 4.0, 3.0, 2.0]) is None


def test_a_scheduler_that_follows_the_loss_keeps_it_for_epochs_without_a_pass():
    def plateau():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)

    kept, scheduler = ForeignSchedule(plateau()), plateau()
    kept.see("val", {"loss": 2.0})
    kept.epoch_done()
    restored = ForeignSchedule(scheduler)
    restored.load(json.loads(json.dumps(kept.state())))
    restored.epoch_done()
    assert (scheduler.last_epoch, scheduler.optimizer.param_groups[0]["lr"]) == (2, pytest.approx(0.01))


def test_a_scheduler_without_a_state_goes_on_and_refuses_to_go_back():
    class Counting:
        steps = 0

        def step(self):
            self.steps += 1

    behind, ahead = StepSchedule(Counting()), StepSchedule(Counting())
    behind.factor(3)
    ahead.factor(5)
    behind.load(ahead.state())
    behind.factor(5)
    assert behind._scheduler.steps == 5
    with pytest.raises(RunError, match="no state to go back to"):
        ahead.load({"steps": 3, "values": {}})


def test_signals_ask_once_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    requests = StopRequests()
    with signals_ask(requests):
        assert requests.agreed(requests.flags()) is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert requests.agreed(requests.flags()) == ("told to stop by SIGTERM", 143)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_request_wins_and_others_hear_of_it():
    asking, other = StopRequests(), StopRequests()
    asking.ask("disk full", 170)
    asking.ask("late", 143)
    flags = [left + right for left, right in zip(asking.flags(), other.flags(), strict=True)]
    assert asking.agreed(flags) == ("disk full", 170)
    assert other.agreed(flags) == ("another rank asked (code 170)", 170)


def test_a_deadline_asks_for_a_stop():
    requests = StopRequests(deadline_seconds=0.0)
    assert requests.agreed(requests.flags()) == ("the deadline has come", 143)


@pytest.mark.parametrize(("deadline_seconds", "is_killed"), [(None, True), (3600.0, True), (5.0, False)])
def test_a_signal_to_another_rank_starts_our_grace_period_and_its_deadline_does_not(deadline_seconds, is_killed):
    requests = StopRequests(deadline_seconds, grace_seconds=30.0)
    assert requests.agreed([1.0, 0.0, 0.0, 0.0]) == ("another rank asked (code 143)", 143)
    assert (requests.seconds_left() is not None) == is_killed


def test_a_second_signal_does_not_interrupt_the_clean_up_after_the_first():
    requests = StopRequests()
    with requests.at_once():
        with pytest.raises(Stopped):
            requests.signalled("SIGTERM")
        requests.signalled("SIGTERM")
    assert requests.num_signals == 2


def test_watchdog_gives_up_only_when_nothing_moves():
    given_up = threading.Event()
    watchdog = Watchdog(WatchdogSettings(first_step_seconds=60, step_seconds=0.1), lambda age: given_up.set())
    with watchdog.watching():
        for _ in range(5):
            watchdog.beat()
            assert not given_up.wait(0.02)
        watchdog.first_step_done()
        assert given_up.wait(5)


def test_watchdog_can_be_switched_off():
    given_up = threading.Event()
    watchdog = Watchdog(WatchdogSettings(first_step_seconds=0, step_seconds=0), lambda age: given_up.set())
    with watchdog.watching():
        assert not given_up.wait(0.05)
