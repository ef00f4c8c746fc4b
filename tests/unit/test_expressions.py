"""The grammar of moments and curves, against the known answers of the task reference (hierarchy, section 4)."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.expressions import Amount, Curve, Patience, Trigger
from trainer.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "total", "per_epoch", "steps"),
    [
        ("5 %", 120, 10, 6),
        ("5%", 120, 10, 6),
        ("2.5 epochs", 1000, 10, 25),
        ("1 epoch", 1000, 7, 7),
        ("500 steps", 10, 1, 500),
        ("500", 10, 1, 500),
        ("1 step", 10, 1, 1),
        ("100/3 %", 100, 10, Fraction(100, 3)),
        ("0.1 %", 10, 1, Fraction(1, 100)),
        ("1e3 steps", 1, 1, 1000),
        ("0 steps", 100, 10, 0),
        (" 2  EPOCHS ", 100, 10, 20),
    ],
)
def test_02_an_amount_is_exact(text, total, per_epoch, steps):
    assert Amount.parse(text).steps(total, per_epoch) == steps


@pytest.mark.parametrize(
    ("text", "total", "per_epoch", "firings"),
    [
        ("every 100/3 %", 100, 10, [34, 67, 100]),
        ("every 50 steps", 1880, 47, list(range(50, 1851, 50))),
        ("each 2 epochs", 50, 10, [20, 40]),
        ("each 2 epochs and end", 50, 10, [20, 40, 50]),
        ("every: 500 steps", 1200, 10, [500, 1000]),
        ("at: 10%", 120, 10, [12]),
        ("at 10%, 50, 1 epoch", 120, 30, [12, 30, 50]),
        ("at 12.5%", 20, 5, [3]),
        ("every 1/2 steps", 3, 1, [1, 2, 3]),
        ("every 100 from 50 to 350", 1000, 10, [50, 150, 250, 350]),
        ("every 100 steps from 0", 300, 10, [100, 200, 300]),
        ("every 10 to 25", 100, 10, [10, 20]),
        ("every 10 from 50% to 1 epochs and end", 100, 70, [50, 60, 70, 100]),
        ("every 7", 6, 3, []),
        ("never", 100, 10, []),
        ("never and end", 100, 10, [100]),
    ],
)
def test_02_a_trigger_fires_where_its_count_rises(text, total, per_epoch, firings):
    assert Trigger.parse(text).firings(total, per_epoch) == firings


def test_02_three_times_ten_per_cent_of_ten_is_three():
    """In floating point 3 * 0.1 * 10 rounds up to 4."""
    assert math.ceil(3 * 0.1 * 10) == 4
    assert Trigger.parse("every 10%").firings(10, 10)[2] == 3


@given(
    numerator=st.integers(1, 400),
    denominator=st.integers(1, 13),
    start=st.integers(0, 90),
    total=st.integers(1, 120),
)
def test_03_firing_k_of_every_a_from_b_is_at_the_ceiling(numerator, denominator, start, total):
    period = Fraction(numerator, denominator)
    points = (math.ceil(start + k * period) for k in range(total * denominator + 2))
    expected = sorted({point for point in points if 1 <= point <= total})
    assert Trigger.parse(f"every {numerator}/{denominator} from {start}").firings(total, 10) == expected


def test_a_trigger_is_asked_again_for_other_lengths():
    trigger = Trigger.parse("at 50%")
    assert trigger.due(5, 10, 1)
    assert not trigger.due(5, 20, 1)
    assert trigger.due(10, 20, 1)
    assert trigger == Trigger.parse("at 50%")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("every 0 %", "zero"),
        ("every 0", "zero"),
        ("at 0", "zero"),
        ("every 120 %", "more than 100 %"),
        ("every 5 parsecs", "unknown unit 'parsecs'"),
        ("every 5 epoch5", "did you mean 'epoch"),
        ("every -5", "negative"),
        ("every 5 every 6", "no amount"),
        ("every 5, at 6", "no amount"),
        ("every 5 and end and end", "no amount"),
        ("every 5 to 0", "zero"),
        ("every 5 from 50% to 20%", "ends before it begins"),
        ("every 1/0", "divides by zero"),
        ("every", "no amount"),
        ("at 1,,2", "no amount"),
        ("often", "no moment"),
        ("", "no moment"),
        ("5 steps", "no moment"),
    ],
)
def test_02_a_wrong_trigger_says_what_is_wrong(text, says):
    with pytest.raises(ValueError, match=says) as error:
        Trigger.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 @ 0, 0 @ 100%", {0: 1.0, 25: 0.75, 100: 0.0}),
        ("0 @ 10, 1 @ 20 linear", {0: 0.0, 10: 0.0, 15: 0.5, 20: 1.0, 99: 1.0}),
        ("1 @ 0, 0 @ 100% cosine", {0: 1.0, 50: 0.5, 25: (1 + math.cos(math.pi / 4)) / 2, 100: 0.0}),
        ("1 @ 0, 2 @ 30%, 3 @ 6 epochs hold", {0: 1.0, 29: 1.0, 30: 2.0, 59: 2.0, 60: 3.0, 100: 3.0}),
        ("0.5@0", {0: 0.5, 100: 0.5}),
        ("-1 @ 1/3 %, 1 @ 100/3 %", {0: -1.0, 17: pytest.approx(2 * (17 - 1 / 3) / 33 - 1)}),
    ],
)
def test_a_curve_runs_through_its_knots(text, values):
    course = Curve.parse(text).resolve(100, 10)
    for step, value in values.items():
        assert course.at(step) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 @ 50, 2 @ 10", "out of order"),
        ("1 @ 50, 2 @ 50", "out of order"),
        ("1 @ 120%", "more than 100 %"),
        ("1 @ 5 parsecs", "unknown unit"),
        ("x @ 5", "no curve"),
        ("1", "no curve"),
        ("", "no curve"),
        ("1 @ 0, wobble", "no curve"),
        ("1 @ -3", "negative"),
    ],
)
def test_02_a_wrong_curve_says_what_is_wrong(text, says):
    with pytest.raises(ValueError, match=says):
        Curve.parse(text)


def test_knots_in_mixed_units_are_checked_against_the_run():
    curve = Curve.parse("1 @ 5 epochs, 0 @ 50%")
    assert curve.resolve(200, 10).at(75) == 0.5
    with pytest.raises(SettingsError, match=r"knots of mask\.all are out of order in a run of 60 steps"):
        curve.resolve(60, 10, "mask.all")


def test_patience_counts_training_or_values():
    assert Patience.parse("3 passes") == Patience(None, 3)
    assert Patience.parse("1 pass").passes == 1
    assert Patience.parse("5 epochs") == Patience(Amount(Fraction(5), "epochs"), None)
    assert Patience.parse("2000").amount == Amount(Fraction(2000), "steps")


@pytest.mark.parametrize("text", ["0 passes", "1.5 passes", "-1 passes", "0 steps", "3 parsecs", "soon"])
def test_a_wrong_patience_is_refused(text):
    with pytest.raises(ValueError):
        Patience.parse(text)


def test_passes_are_no_unit_of_other_amounts():
    with pytest.raises(ValueError, match="unknown unit 'passes'"):
        Amount.parse("3 passes")
