"""A Prometheus of the cluster, asked from here."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from urllib.parse import urlencode

from tests.e2e.releases import Release, Values

PATIENCE = 300.0
"""Seconds for operator, kubelet and reloader to bring a monitor to Prometheus (up to 90 on an idle cluster)."""
LOOK_SECONDS = 1.0
WAITING: Values = {"runPolicy": {"suspend": True}}
POD_MONITOR: Values = {"monitoring": {"podMonitor": {"enabled": True}}}


class Prometheus:
    """The cluster's own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def api(self, path: str, **parameters: str):
        query = f"?{urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def ask(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series."""
        return [(one["metric"], float(one["value"][1])) for one in self.api("query", query=expression)["result"]]

    def wait_for(self, look: Callable[[], object], what: str, seconds: float = PATIENCE):
        """What `look` answers once that is true; Prometheus cannot be watched."""
        end, never = time.monotonic() + seconds, threading.Event()
        while not (answer := look()):
            assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
            never.wait(LOOK_SECONDS)
        return answer

    def until(self, expression: str, seconds: float = PATIENCE) -> list[tuple[dict[str, str], float]]:
        return self.wait_for(lambda: self.ask(expression), expression, seconds)

    def wait_for_monitor(self, kind: str, release: Release) -> None:
        wanted = f"{kind}/{release.namespace}/{release.name}/0"
        self.wait_for(lambda: wanted in self.api("scrape_pools")["scrapePools"], f"monitor {wanted}")

    def rules(self, release: Release) -> list[dict]:
        """Of the release's PrometheusRule, once Prometheus has it."""

        def found() -> list[dict]:
            mine = f"{release.namespace}-{release.name}"
            return [rule for one in self.api("rules")["groups"] if mine in one["file"] for rule in one["rules"]]

        return self.wait_for(found, f"rules of {release.name}")


def of(release: Release, name: str, **labels: str) -> str:
    """A selector over the last hour, so that pods that are gone count, too."""
    matchers = {"namespace": release.namespace, "run": release.name, **labels}
    return f"last_over_time({name}{{{','.join(f'{key}={json.dumps(value)}' for key, value in matchers.items())}}}[1h])"
