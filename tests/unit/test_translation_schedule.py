"""Check 4 of translation.md 16: the Noam curve, and warm-ups that do not fit the run."""

import pytest
from pydantic import ValidationError

from trainer.config.notes import notes
from trainer.config.settings import ScheduleSettings
from trainer.config.translation import TranslationSettings
from trainer.engine.schedule import Schedule
from trainer.errors import SettingsError

KNOWN = {
    1: 1.746928e-7, 100: 1.746928e-5, 1_000: 1.746928e-4, 2_000: 3.493856e-4, 4_000: 6.987712e-4, 8_000: 4.941059e-4,
    16_000: 3.493856e-4, 100_000: 1.397542e-4,
}  # fmt: skip


def schedule(total=200_000, **settings):
    return Schedule(ScheduleSettings(**{"name": "noam", "width": 512, **settings}), total, 1000, "val/nll", "min")


@pytest.mark.parametrize(("step", "rate"), KNOWN.items())
def test_check_4_known_values(step, rate):
    assert schedule(warmup="4000 steps").factor(step - 1) == pytest.approx(rate, rel=1e-6)


def test_check_4_peak_and_first_step():
    noam = schedule(warmup="400 steps", width=64)
    assert max(map(noam.factor, range(2000))) == noam.factor(399) == pytest.approx((64 * 400) ** -0.5)
    assert noam.factor(0) > 0
    assert schedule(warmup="0 steps").factor(0) == pytest.approx(512**-0.5)


def test_the_curve_is_a_function_of_the_cursor_alone():
    noam = schedule(warmup="4000 steps")
    assert noam.state() == {}
    assert [noam.factor(updates) for updates in (9, 3, 9)] == [noam.factor(9), noam.factor(3), noam.factor(9)]


def test_noam_needs_the_width_of_a_model():
    with pytest.raises(SettingsError, match=r"schedule.width must say the width of the model"):
        schedule(width=None)


@pytest.mark.parametrize("name", ["noam", "cosine", "inverse_sqrt"])
def test_a_warm_up_longer_than_the_run_is_said_and_one_of_ten_times_the_run_refused(name):
    assert schedule(100, name=name, warmup="100 steps").remark is None
    remark = schedule(100, name=name, warmup="101 steps").remark
    assert remark is not None
    assert "101 steps, longer than the run of 100" in remark
    assert schedule(100, name=name, warmup="1000 steps").remark is not None
    with pytest.raises(SettingsError, match=r"schedule.warmup is 1,001 steps, more than 10 times the 100 of the run"):
        schedule(100, name=name, warmup="1001 steps")


@pytest.mark.parametrize(("name", "optimizer", "rate", "is_refused"), [
    ("noam", "adam", 1.0, False), ("cosine", "adam", 1.0, True), ("constant", "adamw", 0.2, True),
    ("cosine", "adam", 0.1, False), ("cosine", "sgd", 1.0, False),
])  # fmt: skip
def test_a_factor_without_its_curve_is_refused_with_a_hint(name, optimizer, rate, is_refused):
    values = {"schedule": {"name": name}, "optim": {"name": optimizer, "lr": rate}}
    if not is_refused:
        TranslationSettings.model_validate(values)
        return
    with pytest.raises(ValidationError, match=r"a factor for schedule.name: noam"):
        TranslationSettings.model_validate(values)


def test_a_width_without_noam_is_said():
    values = {"schedule": {"name": "cosine", "width": 64}, "optim": {"lr": 1e-3}}
    assert any("schedule.width has no effect" in line for line in notes(TranslationSettings.model_validate(values)))
    assert not any("schedule.width" in line for line in notes(TranslationSettings()))
