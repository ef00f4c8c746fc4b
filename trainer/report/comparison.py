"""Several settings side by side: what their runs reached, how fast, and the curves in one picture.

    ledger of each run -> Trial -> rows(...) one a setting -> table, JSON, and a page with the picture

The rows count the trials of each setting's best rate, which every seed has; diverged runs are counted over all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from trainer.report.html import page
from trainer.report.view import RunView, column
from trainer.tasks.page import (
    NO_HEADLINE,
    Cell,
    Code,
    Draw,
    Floats,
    Line,
    Notice,
    Picture,
    Section,
    Table,
    Text,
    told_apart,
)
from trainer.telemetry.reading import Record, select


@dataclass(frozen=True)
class Trial:
    """One run of a comparison."""

    setting: str
    """The value that is compared."""
    rate: float
    seed: int
    run: str
    steps: Floats
    values: Floats
    """The compared metric after each of `steps`; finite."""
    speed: float | None
    """Median over log points, in `speed_unit` a second."""
    speed_unit: str
    is_diverged: bool
    caveat: str = ""
    """Why its values are no headline; empty if they may be one."""

    def best(self, mode: str) -> float | None:
        """The best value on the way; None where there is none, or the run diverged."""
        if self.is_diverged or not len(self.values):
            return None
        return float(self.values.min() if mode == "min" else self.values.max())

    def reached(self, value: float, mode: str) -> float | None:
        """The first step after which the metric is as good as `value`."""
        is_there = self.values <= value if mode == "min" else self.values >= value
        return float(self.steps[is_there][0]) if is_there.any() and not self.is_diverged else None


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and the deviation of a sample (0 for a single one)."""

    mean: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.deviation:.4f}" if self.deviation else f"{self.mean:.4f}"


@dataclass(frozen=True)
class Row:
    """One setting: its best rate, and what the runs of that rate gave."""

    setting: str
    rate: float
    num_seeds: int
    final: Spread | None
    """After the last step; None where a run diverged."""
    best: Spread | None
    steps_to_reach: float | None
    """Median over the seeds; None unless all of them came there."""
    speed: float | None
    num_diverged: int
    """Of all runs of the setting, those in search of the rate among them."""
    num_runs: int


def trial_of(records: Sequence[Record], metric: str, setting: str, rate: float, seed: int) -> Trial:
    """A run by its ledger; `metric` is `pass/metric`."""
    view, (pass_name, _, name) = RunView(records), metric.partition("/")
    walks = view.history(pass_name)
    values = column(walks, "metrics", name)
    is_finite = np.isfinite(values)
    speeds, unit = _speeds(view)
    return Trial(
        setting=setting,
        rate=rate,
        seed=seed,
        run=view.name,
        steps=column(walks, "step")[is_finite],
        values=values[is_finite],
        speed=float(np.median(speeds)) if len(speeds) else None,
        speed_unit=unit,
        is_diverged=has_diverged(records) or bool(len(values) and not is_finite[-1]),
        caveat=view.start.get("caveat", ""),
    )


def has_diverged(records: Sequence[Record]) -> bool:
    """Whether the run was given up because a loss or gradient was not finite."""
    ends = select(records, "AttemptEnded")
    return bool(ends) and ends[-1]["code"] == 4 and any(True for _ in select(records, "NonFinite"))


def best_rate(trials: Sequence[Trial], mode: str) -> float:
    """The rate of the best trial; the lowest one if all diverged."""
    sign = 1.0 if mode == "min" else -1.0

    def key(trial: Trial) -> tuple[float, float]:
        best = trial.best(mode)
        return (inf if best is None else sign * best), trial.rate

    return min(trials, key=key).rate


def by_setting(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """The trials of each setting, in the order in which they first come."""
    return {name: [one for one in trials if one.setting == name] for name in dict.fromkeys(t.setting for t in trials)}


def chosen(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """Those of one setting that stand for it: all seeds of the rate that was best with the first seed."""
    rate = best_rate([one for one in trials if one.seed == trials[0].seed], mode)
    return [one for one in trials if one.rate == rate]


def rows(trials: Sequence[Trial], mode: str, reach: float | None) -> list[Row]:
    """One row a setting, in the order of the trials."""
    return [_row(own, chosen(own, mode), mode, reach) for own in by_setting(trials).values()]


def common_reach(trials: Sequence[Trial], mode: str) -> float | None:
    """The value that the worst run just reaches, so that all have a number of steps; diverged ones do not count."""
    bests = [one.best(mode) for own in by_setting(trials).values() for one in chosen(own, mode)]
    known = [best for best in bests if best is not None]
    return (max(known) if mode == "min" else min(known)) if known else None


def caveats(trials: Sequence[Trial]) -> list[str]:
    """Why the values are no headline, each reason once with the settings that have it if not all do."""
    reasons = {one.caveat: None for one in trials if one.caveat}
    found = []
    for reason in reasons:
        own = list(dict.fromkeys(one.setting for one in trials if one.caveat == reason))
        found.append(reason if len(own) == len(by_setting(trials)) else f"{', '.join(own)}: {reason}")
    return found


def picture(trials: Sequence[Trial], mode: str, metric: str, draw: Draw) -> Picture:
    """Every setting in one picture: the mean over its seeds, and each seed behind it."""
    lines = []
    for number, (setting, own) in enumerate(by_setting(trials).items()):
        color, is_dashed = told_apart(number, draw.colors)
        best = [one for one in chosen(own, mode) if len(one.values)]
        label = f"{setting} (lr {best[0].rate:g})" if best else setting
        if len(best) > 1:
            lines += [Line(label, one.steps, one.values, color, faint=True) for one in best]
        lines += [Line(label, *_mean(best), color, dashed=is_dashed, points=True)] if best else []
    caption = f"{metric}, mean over seeds; single ones behind it. Each setting at its best rate."
    return draw.lines(lines, alt=caption, caption=caption, x_label="step", y_label=metric, wide=True)


def heads(key: str, metric: str, reach: float | None, trials: Sequence[Trial]) -> list[str]:
    """The heads of the table."""
    goal, unit = "-" if reach is None else f"{reach:.4g}", trials[0].speed_unit
    return [key, "rate", "seeds", f"final {metric}", "best", f"steps to {goal}", f"{unit}/s", "diverged"]


def cells(row: Row) -> list[str]:
    """A row of the table as texts."""
    return [
        row.setting,
        f"{row.rate:g}",
        str(row.num_seeds),
        "-" if row.final is None else str(row.final),
        "-" if row.best is None else str(row.best),
        "-" if row.steps_to_reach is None else f"{row.steps_to_reach:,.0f}",
        "-" if row.speed is None else f"{row.speed:,.0f}",
        f"{row.num_diverged} of {row.num_runs}",
    ]


def comparison_page(
    title: str, key: str, metric: str, mode: str, trials: Sequence[Trial], reach: float | None, draw: Draw
) -> str:
    """One page with the table, the curves, and every run by name."""
    table = Table(heads(key, metric, reach, trials), [[*cells(row)] for row in rows(trials, mode, reach)])
    about = Text(
        "Runs of one seed start from the same weights and see the same batches. Each setting stands at its best rate, "
        "which was looked for with the first seed; deviations are those of a sample of seeds."
    )
    runs: list[list[Cell]] = [
        [one.setting, one.rate, one.seed, Code(one.run), one.best(mode), "yes" if one.is_diverged else ""]
        for one in trials
    ]
    every = Table((key, "rate", "seed", "run", f"best {metric}", "diverged"), runs)
    sections = [
        Section("Comparison", [about, table, picture(trials, mode, metric, draw)]),
        Section("Runs", [every]),
    ]
    reasons = [Notice("warn", text, NO_HEADLINE) for text in caveats(trials)]
    return page(title, [Text(f"{len(trials)} runs", muted=True), *reasons], sections, title)


def record(key: str, metric: str, mode: str, trials: Sequence[Trial], reach: float | None) -> dict[str, Any]:
    """The comparison as JSON."""
    return {
        "key": key,
        "metric": metric,
        "mode": mode,
        "reach": reach,
        "caveats": caveats(trials),
        "settings": [asdict(row) for row in rows(trials, mode, reach)],
        "runs": [{**asdict(one), "steps": one.steps.tolist(), "values": one.values.tolist()} for one in trials],
    }


def _row(own: Sequence[Trial], best: Sequence[Trial], mode: str, reach: float | None) -> Row:
    steps = [None if reach is None else one.reached(reach, mode) for one in best]
    known = [step for step in steps if step is not None]
    speeds = [one.speed for one in best if one.speed is not None]
    return Row(
        setting=own[0].setting,
        rate=best[0].rate,
        num_seeds=len(best),
        final=_spread([float(one.values[-1]) if one.best(mode) is not None else None for one in best]),
        best=_spread([one.best(mode) for one in best]),
        steps_to_reach=median(known) if known and len(known) == len(best) else None,
        speed=median(speeds) if speeds else None,
        num_diverged=sum(one.is_diverged for one in own),
        num_runs=len(own),
    )


def _speeds(view: RunView) -> tuple[Floats, str]:
    """Of every log point: tokens a second where the task counts them, else samples."""
    tokens = column(view.steps, "metrics", "tokens_per_sec")
    is_known = np.isfinite(tokens)
    return (tokens[is_known], "tokens") if is_known.any() else (column(view.steps, "samples_per_second"), "samples")


def _spread(values: Sequence[float | None]) -> Spread | None:
    """None where one of the values is missing: a mean over the rest would flatter."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    return Spread(fmean(known), stdev(known) if len(known) > 1 else 0.0)


def _mean(trials: Sequence[Trial]) -> tuple[Floats, Floats]:
    """Steps and mean values over the trials, at the steps that all of them have."""
    steps = sorted(set.intersection(*(set(one.steps.tolist()) for one in trials)))
    values = [[dict(zip(one.steps, one.values, strict=True))[step] for step in steps] for one in trials]
    return np.array(steps), np.mean(np.array(values, dtype=np.float64), axis=0)
