"""What a Prometheus answers to the queries of a panel, with the dashboard's variables filled as Grafana would."""

import json
import math
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from charts.tools.dashboards.grafana import Json
from charts.tools.dashboards.promql import fill

Points = list[tuple[float, float]]
"""Seconds since the epoch, and a value."""


@dataclass(frozen=True)
class Source:
    """A Prometheus, a run, and the time range (seconds since the epoch)."""

    url: str
    run: str
    start: float
    end: float
    rate: str = "60s"
    """Grafana's `$__rate_interval`: four scrape intervals at least."""

    @property
    def step(self) -> float:
        """Seconds between two points of a curve."""
        return max(1.0, (self.end - self.start) / 240)

    def ask(self, panel: Json, index: int) -> list[tuple[str, Points]]:
        """Legend and points of each series of one query of a panel; a tile has one point."""
        target = panel["targets"][index]
        expr = self._fill(target["expr"])
        if target.get("instant"):
            found = self._get("query", query=expr, time=self.end)
            series = [(one["metric"], [one["value"]]) for one in found]
        else:
            found = self._get("query_range", query=expr, start=self.start, end=self.end, step=self.step)
            series = [(one["metric"], one["values"]) for one in found]
        return [(_legend(target, labels), [(at, float(value)) for at, value in points]) for labels, points in series]

    def table(self, panel: Json) -> list[Json]:
        """Labels of the series of a table's first query."""
        expr = self._fill(panel["targets"][0]["expr"])
        return [one["metric"] | {"value": one["value"][1]} for one in self._get("query", query=expr, time=self.end)]

    def moments(self, annotation: Json) -> list[float]:
        """Times of an annotation whose values are times."""
        found = self.ask({"targets": [{"expr": annotation["expr"]}]}, 0)
        return sorted({value / 1000 for _, points in found for _, value in points if value / 1000 > self.start})

    def _fill(self, expr: str) -> str:
        return fill(expr, {
            "namespace": ".*", "job": ".+", "run": self.run, "pod": ".*", "job_name": ".*", "gpu_price": "2.50",
            "__interval": f"{self.step:.0f}s", "__rate_interval": self.rate,
            "__range": f"{math.ceil(self.end - self.start)}s",
        })  # fmt: skip

    def _get(self, path: str, **parameters: Any) -> list[Json]:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=60) as answer:
            result: list[Json] = json.load(answer)["data"]["result"]
        return result


def _legend(target: Json, labels: Json) -> str:
    text = target.get("legendFormat", "")
    for name in {part.split("}}")[0] for part in text.split("{{")[1:]}:
        text = text.replace(f"{{{{{name}}}}}", labels.get(name, ""))
    return text.strip()
