"""PromQL of the dashboards: what is written once so that every panel means the same by "this run" and "the last value".

A pod that is made anew has a new address, so every attempt has series of its own, and those of a dead one stay within
the time range. `newest` picks those of the last attempt; `Scope.last` works for runs that have ended, too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

POD = "namespace, run, pod, instance"
"""What tells apart the series of two attempts."""
RUNS_OF_JOB = 'trainer_run_info{namespace=~"$namespace", job=~"$job"}'
"""What the choice of a run is made from."""
MINUTE = "1m"
"""Step in which hours are added up."""


@dataclass(frozen=True)
class Scope:
    """The runs that a dashboard is about: `run` is the matcher of the label `run`."""

    run: str

    def of(self, name: str, **labels: str) -> str:
        """A selector: `of("loss", pass_="val")`; with a value `~x|y` any of these, with `!x` all but this."""
        matchers = ['namespace=~"$namespace"', 'job=~"$job"', self.run]
        for label, value in labels.items():
            operator = {"~": "=~", "!": "!="}.get(value[0], "=")
            matchers.append(f'{label.rstrip("_")}{operator}"{value.lstrip("~!")}"')
        return f"trainer_{name}{{{', '.join(matchers)}}}"

    def now(self, name: str, by: str = "run", **labels: str) -> str:
        """The value as it is; no series once the pods are gone."""
        return f"max by ({by}) ({self.of(name, **labels)})"

    def lead(self, name: str, by: str, **labels: str) -> str:
        """As `now`, for what every pod exports: that of the run's first process."""
        return f"max by ({by}) ({self.of(name, **labels)} and on ({POD}) {self.of('exit_code')})"

    def last(self, name: str, by: str = "run", **labels: str) -> str:
        """The last value in the time range, of the newest attempt."""
        begun, lead = (f"last_over_time({self.of(one)}[$__range])" for one in ("start_timestamp_seconds", "exit_code"))
        newest = f"topk by (namespace, run) (1, {begun} and on ({POD}) {lead})"
        return f"max by ({by}) (last_over_time({self.of(name, **labels)}[$__range]) and on ({POD}) {newest})"

    def rate(self, name: str, by: str = "run", **labels: str) -> str:
        """Of a counter, a second."""
        return f"sum by ({by}) (rate({self.of(name, **labels)}[$__rate_interval]))"

    def increase(self, name: str, by: str = "run", range_: str = "$__rate_interval", **labels: str) -> str:
        """Of a counter, within the interval."""
        return f"sum by ({by}) (increase({self.of(name, **labels)}[{range_}]))"

    def counted(self, name: str, by: str = "run", **labels: str) -> str:
        """Sum of what the attempts in the time range counted.

        Not by increase(): what was counted before the first scrape would be missing, and a resume counts there.
        """
        return f"sum by ({by}) (max_over_time({self.of(name, **labels)}[$__range]))"

    def mean(self, name: str, by: str = "run") -> str:
        """Mean of a histogram."""
        return f"{self.rate(f'{name}_sum', by)} / {self.rate(f'{name}_count', by)}"

    def quantile(self, q: float, name: str) -> str:
        """Quantile of a histogram."""
        return f"histogram_quantile({q}, {self.rate(f'{name}_bucket', 'run, le')})"

    def state(self) -> str:
        """Exit code of the newest attempt; -1 while it runs, -2 when it was lost without a word."""
        ended, by = self.last("exit_code", "namespace, run"), "namespace, run"
        return f"({ended} >= 0) or {self.now('exit_code', by)} or ({ended} - 1)"

    def goodput(self, by: str) -> str:
        """Productive part of the wall clock, all attempts and the time between them."""
        productive = self.last("goodput_seconds_total", by, kind="productive")
        return f"{productive} / sum by ({by}) ({self.last('goodput_seconds_total', f'{by}, kind')})"

    def data_wait_ratio(self, by: str = "run") -> str:
        """Part of a step that is spent on waiting for data."""
        wait, step = (self.rate(f"{name}_sum", by) for name in ("data_wait_seconds", "step_duration_seconds"))
        return f"{wait} / ({wait} + {step})"

    def gpu_hours(self, by: str) -> str:
        """GPUs held, added up over the time range."""
        return f"sum by ({by}) (sum_over_time(({self.now('gpus', 'namespace, run')})[$__range:{MINUTE}])) / 60"


def of_pods(series: str, runs: str) -> str:
    """Series of another exporter, joined with `runs` by pod.

    Their labels are `exported_pod` and `exported_namespace` where Prometheus keeps its own (`honorLabels: false`).
    """
    for label in ("pod", "namespace"):
        series = f'label_replace({series}, "{label}", "$1", "exported_{label}", "(.+)")'
    return f"{series} * on (namespace, pod) group_left (run) max by (namespace, pod, run) ({runs})"


def fill(expr: str, values: Mapping[str, str]) -> str:
    """An expression with values in place of variables, as Grafana asks it; one without a value stands as its name."""
    return re.sub(r"\$\{?([A-Za-z_]\w*)\}?", lambda match: values.get(match[1], match[1]), expr)
