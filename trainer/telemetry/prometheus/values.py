"""What the metrics are now: plain numbers that the training thread sets and that a scrape turns into text.

    listener ─► Values.set, add, observe ─┐
    clock, memory, store ─► live values ──┴─► Collector ─► registry ─► /metrics

The contract is the cost: setting a value is an assignment in a dictionary, and all that is slow happens on the thread
of the scraper. One thread writes; readers take copies.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as CollectorBase

from trainer.telemetry.prometheus.catalogue import CATALOGUE, FAMILIES, Family

Labels = tuple[str, ...]
Numbers = Mapping[str, Mapping[Labels, float]]
"""Values by name of the family (without prefix) and label values (without `run`)."""

MAX_LABEL = 120
"""Characters of a label's value: names of runs have at most 100."""


class Values:
    """Numbers of all families; a name that is not in the catalogue is a KeyError."""

    def __init__(self) -> None:
        self.numbers: dict[str, dict[Labels, float]] = {
            family.name: {} for family in FAMILIES if family.kind != "histogram"
        }
        self.histograms: dict[str, dict[Labels, Distribution]] = {
            family.name: {} for family in FAMILIES if family.kind == "histogram"
        }

    def start(self, name: str, labels: Iterable[Labels] = ((),)) -> None:
        """Let counters and histograms exist from the first scrape on, so that their first increase is seen."""
        for key in labels:
            if name in self.histograms:
                self.histograms[name].setdefault(key, Distribution(CATALOGUE[name].buckets))
            else:
                self.numbers[name].setdefault(key, 0.0)

    def set(self, name: str, value: float | None, *labels: str) -> None:
        """Set a gauge; what is not finite (in events None) becomes NaN."""
        self.numbers[name][labels] = float(value) if value is not None and math.isfinite(value) else math.nan

    def add(self, name: str, amount: float, *labels: str) -> None:
        """Raise a counter."""
        numbers = self.numbers[name]
        numbers[labels] = numbers.get(labels, 0.0) + amount

    def observe(self, name: str, value: float, *labels: str, times: int = 1) -> None:
        """Take a value into a histogram, as often as it was seen."""
        self.histograms[name][labels].add(value, times)


class Distribution:
    """One histogram: how many values fell below each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._names = [*map(str, bounds), "+Inf"]
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Take a value `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Bounds as text with the number of values up to each, and the sum."""
        return list(zip(self._names, map(float, accumulate(self._counts.copy())), strict=True)), self._sum


class Collector(CollectorBase):
    """Makes the families of the catalogue out of values, whenever somebody scrapes; those without values are left out.

    `live` gives values that are read only when asked for.
    """

    def __init__(self, run: str, values: Values, live: Callable[[], Numbers]) -> None:
        self._run = (label_value(run),)
        self._values = values
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """The families in the order of the catalogue."""
        live = self._live()
        for family in FAMILIES:
            if family.kind == "histogram":
                made = self._histogram(family)
            else:
                made = self._plain(family, self._values.numbers[family.name].copy() | dict(live.get(family.name, {})))
            if made.samples:
                yield made

    def _plain(self, family: Family, numbers: Mapping[Labels, float]) -> Metric:
        make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        made = make(family.full_name, family.help, labels=family.label_names)
        for labels, number in numbers.items():
            made.add_metric(self._run + labels, number)
        return made

    def _histogram(self, family: Family) -> Metric:
        made = HistogramMetricFamily(family.full_name, family.help, labels=family.label_names)
        for labels, distribution in self._values.histograms[family.name].copy().items():
            buckets, total = distribution.read()
            made.add_metric(self._run + labels, buckets, total)
        return made


def label_value(text: object) -> str:
    """A text as the value of a label: on one line, and not longer than `MAX_LABEL` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_LABEL else line[: MAX_LABEL - 3] + "..."
