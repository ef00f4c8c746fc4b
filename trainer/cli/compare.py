"""`trainer compare KEY=A,B,C --seeds N`: the same training with several values of one setting, drawn together.

    for each value:   search of its learning rate with the first seed  ->  the other seeds at the best rate

Runs of one seed start from bit-equal weights and see the same batches, whatever the optimizer. Each is a run of the
store named `<base>-<value>-lr<rate>-s<seed>`, so the same command goes on where it was interrupted and shows the table
at once when all are complete. They run one after the other in this process; table and page are stored below
`compare/<base>/`. Runs of a comparison export no model and write no report (`trainer report RUN` does).
"""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.arguments import JsonOption
from trainer.cli.options import SettingsArguments
from trainer.cli.output import print_json, print_table
from trainer.config.digest import digest, matters
from trainer.config.settings import CommonSettings
from trainer.errors import RunError, SettingsError

if TYPE_CHECKING:
    from trainer.checkpoint.store import Store
    from trainer.report.comparison import Trial

RATE = "optim.lr"
GRID = (1 / 3, 1.0, 3.0)
"""Factors on the setting's own rate with which its search begins."""
MAX_RATES = 7
"""Rates of one setting at which the search gives up, wherever the best one lies."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LABEL_LENGTH = 32

VariantArgument = Annotated[
    str, typer.Argument(help="A setting and the values to compare, e.g. optim.name=adam,adamw,sgd.", metavar="KEY=A,B")
]
SeedsOption = Annotated[int, typer.Option(help="Seeds of each setting: `seed` and those that follow it.", min=1)]
RatesOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Learning rates to try, A,B,C for every setting or VALUE:A,B,C for one; may be repeated. Left out: a "
        "third, one and three times its own rate, and on until the best one is not the last.",
        metavar="RATES",
    ),
]
MetricOption = Annotated[
    str | None, typer.Option(help="`pass/metric` to compare by; left out: the one that chooses the best checkpoint.")
]
ReachOption = Annotated[
    float | None, typer.Option(help="Value whose step is sought; left out: one that all settings reach.")
]


def compare(
    given: SettingsArguments,
    variants: VariantArgument,
    seeds: SeedsOption = 1,
    rates: RatesOption = None,
    metric: MetricOption = None,
    reach: ReachOption = None,
    as_json: JsonOption = False,
) -> int:
    """Train with several values of one setting from the same start, and put table and curves side by side."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("compare trains its runs one after the other in one process; start it without torchrun")
    key, values = _parse_variants(variants)
    comparison = _Comparison(given, key, values, _parse_rates(rates or [], key, values), seeds, metric)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        comparison.train()
    comparison.present(reach, as_json)
    return 0


@dataclass
class _Comparison:
    """The runs of one command."""

    given: SettingsArguments
    key: str
    values: list[str]
    rates: Mapping[str, list[float]]
    """Asked for, by value; a value without any is searched."""
    num_seeds: int
    asked_metric: str | None
    trials: "list[Trial]" = field(default_factory=list)
    metric: str = ""
    mode: str = "min"

    def __post_init__(self) -> None:
        from trainer.cli.runs import store_of

        first = self.given.load().settings
        own = {"key": self.key, "values": self.values, "settings": matters(first)}
        self.base = first.run.name or f"{first.task}-compare-{digest(own)[:8]}"
        self.store: Store = store_of(first)
        self.first_seed = first.seed
        for value in self.values:
            self._settings(value)  # whatever is wrong with one is said before the first run

    def train(self) -> None:
        """Every run there has to be."""
        from trainer.report.comparison import best_rate

        for value in self.values:
            found = self._search(value)
            rate = best_rate(found, self.mode)
            for seed in range(self.first_seed + 1, self.first_seed + self.num_seeds):
                found.append(self._train(value, rate, seed))
            self.trials += found

    def present(self, reach: float | None, as_json: bool) -> None:
        """The table on stdout, and as JSON and as a page in the store."""
        from trainer.report import comparison
        from trainer.report.draw import Pencil

        goal = comparison.common_reach(self.trials, self.mode) if reach is None else reach
        whole = comparison.record(self.key, self.metric, self.mode, self.trials, goal)
        text = comparison.comparison_page(self.base, self.key, self.metric, self.mode, self.trials, goal, Pencil())
        self.store.put(f"compare/{self.base}/compare.json", [json.dumps(whole, indent=1).encode()])
        self.store.put(f"compare/{self.base}/report.html", [text.encode()])
        if as_json:
            print_json(whole)
            return
        table = comparison.rows(self.trials, self.mode, goal)
        print()
        headings = comparison.heads(self.key, self.metric, goal, self.trials)
        print_table(headings, [comparison.cells(row) for row in table], right=frozenset(range(1, len(headings))))
        for text in comparison.caveats(self.trials):
            print(f"no headline: {text}")
        print(f"\nreport  {self.store.url}/compare/{self.base}/report.html")

    def _search(self, value: str) -> "list[Trial]":
        """The runs of the first seed, at every rate asked for, or at ever more until the best one has neighbours."""
        from trainer.report.comparison import best_rate

        if asked := self.rates.get(value):
            return [self._train(value, rate, self.first_seed) for rate in asked]
        own = self._settings(value).optim.lr
        if self.key == RATE:
            return [self._train(value, own, self.first_seed)]
        found = {rate: self._train(value, rate, self.first_seed) for rate in self._allowed(value, own, GRID)}
        while len(found) < MAX_RATES:
            best = best_rate(list(found.values()), self.mode)
            factor = {min(found): GRID[0], max(found): GRID[-1]}.get(best)
            further = self._allowed(value, best, (factor,)) if factor else []
            if not further:
                break
            found[further[0]] = self._train(value, further[0], self.first_seed)
        return [found[rate] for rate in sorted(found)]

    def _allowed(self, value: str, rate: float, factors: Sequence[float]) -> list[float]:
        """The rate times the factors (two digits), without those that the settings refuse."""
        found = []
        for factor in factors:
            try:
                found.append(self._settings(value, float(f"{rate * factor:.2g}")).optim.lr)
            except SettingsError:
                continue
        return found

    def _settings(self, value: str, rate: float | None = None, seed: int | None = None) -> CommonSettings:
        """The settings of one run; without a name until rate and seed are known."""
        overrides = [*self.given.overrides, f"{self.key}={value}"]
        flags = dict(self.given.flags)
        if rate is not None and self.key != RATE:
            flags = {flag: one for flag, one in flags.items() if flag != "--lr"}
            overrides = [one for one in overrides if one.partition("=")[0].strip() != RATE]
            overrides.append(f"{RATE}={rate!r}")
        settings = replace(self.given, overrides=overrides, flags=flags).load().settings
        settings.output.report, settings.output.export = False, []
        if seed is not None:
            settings.seed = seed
            label = _UNSAFE.sub("-", value)[:_LABEL_LENGTH]
            settings.run.name = f"{self.base}-{label}-lr{_UNSAFE.sub('-', f'{rate:g}')}-s{seed}"
        return settings

    def _train(self, value: str, rate: float, seed: int) -> "Trial":
        """One run, unless the store has it; one that diverged is a result, too."""
        from trainer.report.comparison import has_diverged, trial_of
        from trainer.run import train_settings
        from trainer.telemetry.reading import read_run

        settings = self._settings(value, rate, seed)
        name = settings.run.name or ""
        if not has_diverged(read_run(self.store, name)):
            print(f"{self.key}={value}, rate {rate:g}, seed {seed}: run {name}", flush=True)
            try:
                train_settings(settings)
            except RunError:
                if not has_diverged(read_run(self.store, name)):
                    raise
        records = read_run(self.store, name)
        self._learn_metric(records)
        return trial_of(records, self.metric, value, rate, seed)

    def _learn_metric(self, records: Sequence[Mapping[str, object]]) -> None:
        """Which metric it is and which way is better, as the first run tells it. Raises SettingsError."""
        if self.metric:
            return
        start = next(record for record in records if record["event"] == "RunStarted")
        metric = self.asked_metric or str(start["best_metric"])
        declared, passes = dict(start["metrics"]), list(start["passes"])  # type: ignore[call-overload]
        pass_name, _, name = metric.partition("/")
        if pass_name not in passes or name not in declared:
            raise SettingsError(
                f"--metric is {metric!r}; it must be pass/metric with a pass of {', '.join(passes)} and a metric of "
                f"{', '.join(declared)}"
            )
        self.metric, self.mode = metric, declared[name]


def _parse_variants(text: str) -> tuple[str, list[str]]:
    """Name and values out of `KEY=A,B,C`. Raises SettingsError."""
    key, _, rest = text.partition("=")
    values = [value.strip() for value in rest.split(",") if value.strip()]
    if not key.strip() or len(values) < 2:
        raise SettingsError(f"compare {text}: write a setting and two values or more, e.g. optim.name=adam,sgd")
    if len(set(values)) < len(values):
        raise SettingsError(f"compare {text}: a value stands there twice")
    return key.strip(), values


def _parse_rates(texts: Sequence[str], key: str, values: Sequence[str]) -> dict[str, list[float]]:
    """Rates by value out of `A,B,C` (for all) and `VALUE:A,B,C`, which wins. Raises SettingsError."""
    found: dict[str, list[float]] = {}
    for text in sorted(texts, key=lambda one: ":" in one):
        value, separator, numbers = text.rpartition(":")
        if key == RATE or (separator and value not in values):
            what = f"{RATE} is what is compared" if key == RATE else f"{value} is none of {', '.join(values)}"
            raise SettingsError(f"--rates {text}: {what}")
        try:
            rates = sorted({float(number) for number in numbers.split(",")})
        except ValueError:
            raise SettingsError(f"--rates {text}: write numbers, e.g. --rates sgd:0.03,0.1,0.3") from None
        found |= dict.fromkeys([value] if separator else values, rates)
    return found
