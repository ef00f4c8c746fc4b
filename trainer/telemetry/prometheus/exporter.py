"""The metrics of one process, from its first moment to the last scrape.

    exporter = Exporter(settings, run, sources, warn)      opens the port, or warns
    bus.add(exporter.listener(...))                        on the first rank: everything that events say
    exporter.describe(event)                               what is running
    exporter.leave(code, ...)                              final push and scrape, port closed

Nothing here raises: without metrics the training is the same.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry

from trainer.config.prometheus import IN_POD, PrometheusSettings
from trainer.telemetry.events import RunStarted
from trainer.telemetry.prometheus.info import set_info
from trainer.telemetry.prometheus.listener import MetricsListener
from trainer.telemetry.prometheus.live import Live, Sources
from trainer.telemetry.prometheus.push import forget, push
from trainer.telemetry.prometheus.server import serve
from trainer.telemetry.prometheus.values import Collector, Values, label_value
from trainer.telemetry.reading import Record
from trainer.telemetry.rules import Rule

LINGER_SECONDS = 60.0
"""In a pod, where nothing is set: four scrapes of the usual interval."""
TOLD_TO_STOP_SECONDS = 5.0
"""Longest wait of a process that was told to stop, and no more than half of what is left of its grace period."""


class Exporter:
    """A registry of its own, so that several runs may follow each other in one process."""

    def __init__(self, settings: PrometheusSettings, run: str, sources: Sources, warn: Callable[[str], None]) -> None:
        self.settings = settings
        self.values = Values()
        self.live = Live(sources)
        self.registry = CollectorRegistry()
        self.registry.register(Collector(run, self.values, self.live))
        self._run = label_value(run)
        self._pushes = False
        self._served = serve(self.registry, settings, warn)
        self.port = self._served.port if self._served else None
        """Where the metrics are served; None where that failed."""

    def listener(
        self,
        *,
        rules: Iterable[Rule],
        history: Sequence[Record],
        num_gpus: int,
        grace_seconds: float | None,
        warn: Callable[[str], None],
    ) -> MetricsListener:
        """The listener that speaks for the whole run; first rank only. Deletes what an earlier attempt has pushed."""
        forget(self.settings, self._run, warn)
        self._pushes = True
        return MetricsListener(
            self.values,
            self.live,
            rules=rules,
            history=history,
            num_gpus=num_gpus,
            grace_seconds=grace_seconds,
            warn=warn,
        )

    def describe(self, event: RunStarted) -> None:
        """Say what is running."""
        set_info(self.values, event)

    def leave(self, code: int, is_stopping: Callable[[], bool], seconds_left: float | None) -> None:
        """Push the final values, wait for a scrape of them, and let go of the port; safe to call twice.

        `is_stopping` ends the wait; `seconds_left` is what remains until this process is killed, None if nobody will.
        """
        self.live.end("done" if code == 0 else "linger")
        served, self._served = self._served, None
        try:
            if self._pushes:
                push(self.registry, self.settings, self._run, _say)
            seconds = linger_seconds(self.settings, seconds_left)
            if served and self._pushes and seconds:
                served.linger(is_stopping, seconds)
        except Exception as error:
            _say(f"the final metrics may be lost: {type(error).__name__}: {error}")
        finally:
            self._pushes = False
            if served:
                served.close()

    def close(self) -> None:
        """Let go of the port at once: another attempt speaks for the run."""
        served, self._served = self._served, None
        if served:
            served.close()


def linger_seconds(
    settings: PrometheusSettings, seconds_left: float | None, environ: Mapping[str, str] = os.environ
) -> float:
    """Longest wait for the last scrape."""
    seconds = settings.linger_seconds
    if seconds is None:
        seconds = LINGER_SECONDS if IN_POD in environ else 0.0
    return seconds if seconds_left is None else min(seconds, TOLD_TO_STOP_SECONDS, seconds_left / 2)


def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
