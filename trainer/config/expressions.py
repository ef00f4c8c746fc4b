"""Moments and curves as texts: amounts, triggers, curves and patience, in exact fractions.

    amount  := number | number "steps" | number "%" | number "epochs"              a bare number counts steps
    trigger := "every" amount ["from" amount] ["to" amount] | "at" amount {"," amount} | trigger "and end" | "never"
    curve   := value "@" amount {"," value "@" amount} ["linear" | "cosine" | "hold"]
    patience := amount | number "passes"

A number may be a decimal or a fraction (`100/3 %`); "each" is "every"; a colon may follow either ("at: 10%").
Everything is a pure function of (steps done, T = steps of the run, U = steps of an epoch), so nothing about past
firings is stored and a resumed run decides what the uninterrupted one would have. A wrong text is a ValueError.
Known answers: 5 % of T 120 is 6; "every 100/3 %" of T 100 fires at 34, 67, 100.
"""

import math
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from itertools import pairwise
from typing import Literal, NamedTuple, Self

from trainer.config.lengths import PerEpoch, in_epochs, in_steps, typical
from trainer.errors import SettingsError

UNITS = {"": "steps", "step": "steps", "steps": "steps", "%": "%", "epoch": "epochs", "epochs": "epochs"}
SHAPES: tuple[Literal["linear", "cosine", "hold"], ...] = ("linear", "cosine", "hold")

NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?(?:/[0-9]+)?"
_MEASURE = re.compile(rf"({NUMBER})\s*(\S*)")


class Lengths(NamedTuple):
    """What percentages and epochs are resolved against."""

    total_steps: int
    steps_per_epoch: PerEpoch


@dataclass(frozen=True)
class Amount:
    """A length of a run: a number of steps, per cent of all steps, or (fractional) epochs; never negative."""

    number: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "500 steps", "10%", "2.5 epochs" or "500"; zero is an amount, too."""
        number, unit = _measure(text)
        if unit not in UNITS:
            near = get_close_matches(unit, UNITS, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{text!r} has the unknown unit {unit!r}; there are steps, % and epochs{hint}")
        if number < 0:
            raise ValueError(f"{text!r} is negative")
        if unit == "%" and number > 100:
            raise ValueError(f"{text!r} is more than 100 %, the whole run")
        return cls(number, UNITS[unit])

    def steps(self, total_steps: int, steps_per_epoch: PerEpoch) -> Fraction:
        """The amount in steps, exactly (2.5 epochs of 10 steps are 25)."""
        if self.unit == "%":
            return self.number * total_steps / 100
        return in_steps(self.number, steps_per_epoch) if self.unit == "epochs" else self.number


class _Every(NamedTuple):
    """Firing points `first + k * period` up to `last` (None: open), k = 0, 1, ..., all times `scale`, as integers."""

    first: int
    period: int
    last: int | None
    scale: int

    def count(self, step: int) -> int:
        """How many firing points lie at or before `step`."""
        position = step * self.scale
        if self.last is not None:
            position = min(position, self.last)
        return (position - self.first) // self.period + 1 if position >= self.first else 0

    def steps(self, total_steps: int) -> set[int]:
        """The steps at which the count rises: the ceilings of the firing points."""
        points = range(self.first, self.first + self.count(total_steps) * self.period, self.period)
        return {-(-point // self.scale) for point in points}


@dataclass(frozen=True)
class Moments:
    """A trigger for known lengths; integers only, because the loop asks after every step."""

    every: _Every | None
    steps: frozenset[int]

    def due(self, step: int) -> bool:
        """Did the firing count rise with this step (the number of updates done, from 1)?"""
        if step in self.steps:
            return True
        return self.every is not None and self.every.count(step) > self.every.count(step - 1)

    def fires_between(self, first: int, last: int) -> bool:
        """Does it fire after some step beyond `first` and before `last`?"""
        rises = self.every is not None and self.every.count(last - 1) > self.every.count(first)
        return rises or any(first < step < last for step in self.steps)

    def firings(self, total_steps: int) -> list[int]:
        """All steps of a run after which it fires, in order."""
        steps = self.steps | (self.every.steps(total_steps) if self.every else set())
        return sorted(step for step in steps if 1 <= step <= total_steps)


@dataclass(frozen=True)
class Trigger:
    """When something happens: after the steps at which its firing count rises.

    Firing k of "every a" is at step ceil(k a); "from b" moves the count to b (first firing at b, then every a
    after it), "to c" ends it at c, inclusive. "and end" adds the last step of the run.
    """

    period: Amount | None = None
    start: Amount | None = None
    stop: Amount | None = None
    at: tuple[Amount, ...] = ()
    end: bool = False
    _resolved: dict[Lengths, Moments] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a trigger; ValueError for zero, negative or unknown amounts and anything beyond the grammar."""
        words = " ".join(text.lower().split())
        body, end = (words[: -len("and end")].rstrip(), True) if words.endswith("and end") else (words, False)
        if body == "never":
            return cls(end=end)
        keyword, _, rest = body.replace(":", " ", 1).partition(" ")
        if keyword == "at":
            return cls(at=tuple(_positive(part, text) for part in rest.split(",")), end=end)
        if keyword not in ("every", "each"):
            raise ValueError(
                f"{text!r} is no moment; write 'every 500 steps', 'at 10%, 50%', 'each 2 epochs' or 'never'"
            )
        match = re.fullmatch(r"(.*?)(?: from (.*?))?(?: to (.*?))?", rest.strip())
        assert match is not None, "every part of the pattern is optional"
        period, start, stop = match.groups()
        first = None if start is None else Amount.parse(start)
        last = None if stop is None else _positive(stop, text)
        if first and last and first.unit == last.unit and first.number > last.number:
            raise ValueError(f"{text!r} ends before it begins, so it would never fire; write 'never' for that")
        return cls(_positive(period, text), first, last, end=end)

    def resolve(self, total_steps: int, steps_per_epoch: PerEpoch) -> Moments:
        """The trigger for these lengths, kept, so that asking again costs a look-up."""
        lengths = Lengths(total_steps, steps_per_epoch)
        if lengths not in self._resolved:
            steps = {math.ceil(amount.steps(*lengths)) for amount in self.at} | ({total_steps} if self.end else set())
            every = None
            if self.period and self.period.unit == "epochs" and not isinstance(steps_per_epoch, int):
                steps |= _uneven(self.period, self.start, self.stop, lengths)
            elif self.period:
                every = _integers(self.period, self.start, self.stop, lengths)
            self._resolved[lengths] = Moments(every, frozenset(steps))
        return self._resolved[lengths]

    def due(self, step: int, total_steps: int, steps_per_epoch: PerEpoch) -> bool:
        """Does it fire after this step (the number of updates done, from 1)?"""
        return self.resolve(total_steps, steps_per_epoch).due(step)

    def firings(self, total_steps: int, steps_per_epoch: PerEpoch) -> list[int]:
        """All steps of the run after which it fires, in order."""
        return self.resolve(total_steps, steps_per_epoch).firings(total_steps)


@dataclass(frozen=True)
class Course:
    """A curve for known lengths; integers only, because the loop asks before every step."""

    places: list[int]
    """Of its knots, times `scale`."""
    values: list[float]
    """At the knots."""
    scale: int
    shape: str

    @property
    def knots(self) -> list[int]:
        """Steps at which it changes its course, rounded up."""
        return [-(-place // self.scale) for place in self.places]

    def at(self, step: int) -> float:
        """The value for the step after `step` steps (the first step has 0 before it)."""
        position = step * self.scale
        right = bisect_right(self.places, position)
        if right in (0, len(self.places)) or self.shape == "hold":
            return self.values[max(right - 1, 0)]
        left = self.places[right - 1]
        share = (position - left) / (self.places[right] - left)
        if self.shape == "cosine":
            share = (1.0 - math.cos(math.pi * share)) / 2.0
        return self.values[right - 1] + (self.values[right] - self.values[right - 1]) * share


@dataclass(frozen=True)
class Curve:
    """A value over the run: knots, between them a line, half a cosine, or the value of the knot before.

    Before the first and after the last knot their values hold.
    """

    knots: tuple[tuple[Fraction, Amount], ...]
    shape: Literal["linear", "cosine", "hold"] = "linear"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "0 @ 0, 1 @ 10% linear"; knots must come in order, without two at one place."""
        words = " ".join(text.lower().split())
        shape = next((name for name in SHAPES if words.endswith(" " + name)), None)
        body = words.removesuffix(shape or "")
        knots = tuple(_knot(part, text) for part in body.split(","))
        for (_, left), (_, right) in pairwise(knots):
            if left.unit == right.unit and left.number >= right.number:
                raise ValueError(f"{text!r} has knots out of order: each must come after the one before it")
        return cls(knots, shape or "linear")

    def resolve(self, total_steps: int, steps_per_epoch: PerEpoch, name: str = "a curve") -> Course:
        """The curve for these lengths. SettingsError, with its `name`, if they put its knots out of order."""
        lengths = Lengths(total_steps, steps_per_epoch)
        exact = [amount.steps(*lengths) for _, amount in self.knots]
        if any(left >= right for left, right in pairwise(exact)):
            places = ", ".join(f"{float(place):g}" for place in exact)
            run = f"{lengths.total_steps} steps, {typical(lengths.steps_per_epoch)} an epoch"
            raise SettingsError(
                f"the knots of {name} are out of order in a run of {run}: they fall on steps {places}; use one unit "
                "or train longer"
            )
        scale = math.lcm(*(place.denominator for place in exact))
        values = [float(value) for value, _ in self.knots]
        return Course([int(place * scale) for place in exact], values, scale, self.shape)


@dataclass(frozen=True)
class Patience:
    """How long to wait for an improvement: an amount of training, or a number of values of the metric."""

    amount: Amount | None
    passes: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "5 epochs", "2000 steps", "10%" or "3 passes"; it must be above zero."""
        number, unit = _measure(text)
        if unit not in ("pass", "passes"):
            return cls(_positive(text, text), None)
        if number.denominator != 1 or number <= 0:
            raise ValueError(f"{text!r} must be a whole number of passes above zero")
        return cls(None, int(number))


def _measure(text: str) -> tuple[Fraction, str]:
    """Number and unit of a text, the unit as typed."""
    words = text.strip().lower()
    match = _MEASURE.fullmatch(words)
    if not match:
        raise ValueError(f"{text!r} is no amount; write '500 steps', '10%', '2.5 epochs' or a number of steps")
    return _fraction(match[1], text), match[2]


def _fraction(number: str, text: str) -> Fraction:
    """Decimal, exponent and a/b notation, exactly."""
    above, _, below = number.partition("/")
    if below and int(below) == 0:
        raise ValueError(f"{text!r} divides by zero")
    return Fraction(above) / int(below or 1)


def _positive(part: str, text: str) -> Amount:
    """An amount above zero within the expression `text`."""
    amount = Amount.parse(part)
    if amount.number == 0:
        raise ValueError(f"{text!r} has an amount of zero; write 'never' to switch a moment off")
    return amount


def _knot(part: str, text: str) -> tuple[Fraction, Amount]:
    """One `value @ amount` of the curve `text`."""
    value, separator, place = part.partition("@")
    if not separator or not re.fullmatch(NUMBER, value.strip()):
        raise ValueError(f"{text!r} is no curve; write '0 @ 0, 1 @ 10%' and then linear, cosine or hold")
    return _fraction(value.strip(), text), Amount.parse(place.strip())


def _integers(period: Amount, start: Amount | None, stop: Amount | None, lengths: Lengths) -> _Every:
    """Fractions brought to one denominator: a due test then costs well under a microsecond."""
    step = period.steps(*lengths)
    first = start.steps(*lengths) if start else Fraction(0)
    last = stop.steps(*lengths) if stop else None
    scale = math.lcm(step.denominator, first.denominator, last.denominator if last is not None else 1)
    return _Every(int(first * scale), int(step * scale), None if last is None else int(last * scale), scale)


def _uneven(period: Amount, start: Amount | None, stop: Amount | None, lengths: Lengths) -> set[int]:
    """Steps at which "every so many epochs" fires where epochs differ: its points lie evenly in epochs."""
    per_epoch = lengths.steps_per_epoch
    first = in_epochs(start.steps(*lengths), per_epoch) if start else period.number
    last = min(stop.steps(*lengths) if stop else math.inf, lengths.total_steps)
    found: set[int] = set()
    point = first
    while (place := in_steps(point, per_epoch)) <= last:
        step = math.ceil(place)
        found.add(step)
        # From the step on, so that a period below one step costs no more than a step.
        point = first + (math.floor((in_epochs(Fraction(step), per_epoch) - first) / period.number) + 1) * period.number
    return found
