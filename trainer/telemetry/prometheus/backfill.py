"""The metrics of a run out of its ledger, with timestamps: what was never scraped can be in Prometheus all the same.

    recording = replay(read_run(store, run), run)
    for part in recording.text(): file.write(part)         promtool tsdb create-blocks-from openmetrics FILE DATA

The records go through the same listener as the events did, on a clock that is set to their moments. Samples are what a
Prometheus would have seen that scraped at each event of the run (an epoch, a pass, a checkpoint, ...; `QUIET` ones
aside) and every so many seconds between two of them. Steps that were done again count as the later attempt did them.

Time is monotonic within an attempt, whatever its machine's clock did meanwhile, and no attempt begins before the end of
the last one. What a ledger does not hold is left out: memory, requests to the store, the time of the very last step.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.openmetrics.exposition import generate_latest

from trainer.telemetry import events
from trainer.telemetry.events import (
    TIME_KINDS,
    AttemptEnded,
    Balanced,
    Event,
    PassDone,
    PassStarted,
    StepDone,
    TimeAccounted,
)
from trainer.telemetry.prometheus.info import set_info
from trainer.telemetry.prometheus.listener import MetricsListener
from trainer.telemetry.prometheus.live import Live, Sources, WallClock
from trainer.telemetry.prometheus.values import Collector, Values
from trainer.telemetry.reading import Record, effective
from trainer.telemetry.rules import Finding, Severity
from trainer.telemetry.trace import Trace

EVERY_SECONDS = 60.0
"""Between two samples of what does not change; Prometheus takes a series for gone after five minutes."""
QUIET = (StepDone, Balanced, TimeAccounted, PassStarted)
"""Events that come too often to give each a sample of every series."""
NOT_RECORDED = "trainer_host_memory_resident_bytes"
"""It would be the memory of the process that reads the ledger."""
END = b"# EOF\n"

_KIND_AFTER: dict[str, str] = {
    "StepDone": "productive",
    "PassStarted": "evaluation",
    "PassDone": "productive",
    "Stopping": "idle",
}
"""What the time goes to once an event has happened."""

Labels = tuple[tuple[str, str], ...]


class _Line(NamedTuple):
    """Values of one series; the times are those of its group."""

    name: str
    labels: dict[str, str]
    values: "array[float]"


class _Group:
    """Series that belong together: one, or all buckets, count and sum of a histogram."""

    def __init__(self) -> None:
        self.times = array("q")
        """Milliseconds since the epoch."""
        self.lines: dict[tuple[str, Labels], _Line] = {}


class Recording:
    """Samples of many moments, in the order of time within each series."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._groups: dict[str, dict[Labels, _Group]] = {}

    def take(self, metrics: Iterable[Metric], seconds: float) -> None:
        """Add what these show at a moment; a second time in the same millisecond replaces the first."""
        now = round(seconds * 1000)
        for metric in metrics:
            self._families.setdefault(metric.name, metric)
            groups = self._groups.setdefault(metric.name, {})
            for sample in metric.samples:
                labels = tuple(sample.labels.items())
                group = groups.setdefault(tuple(label for label in labels if label[0] != "le"), _Group())
                if not group.times or group.times[-1] != now:
                    group.times.append(now)
                line = group.lines.setdefault((sample.name, labels), _Line(sample.name, sample.labels, array("d")))
                del line.values[len(group.times) - 1 :]
                line.values.append(sample.value)

    def text(self, labels: Mapping[str, str] | None = None) -> Iterator[bytes]:
        """OpenMetrics text, a family at a time; `labels` are put on every series."""
        for name, family in self._families.items():
            metric = Metric(name, family.documentation, family.type)
            for group in self._groups[name].values():
                lines = [(line.name, {**(labels or {}), **line.labels}, line.values) for line in group.lines.values()]
                for index, milliseconds in enumerate(group.times):
                    for sample_name, together, values in lines:
                        metric.add_sample(sample_name, together, values[index], timestamp=milliseconds / 1000)
            text: bytes = generate_latest(_One(metric))  # type: ignore[no-untyped-call]  # of the library
            yield text.removesuffix(END)
        yield END

    @property
    def label_names(self) -> set[str]:
        """Labels that its series have."""
        return {label for line in self._lines() for label in line.labels}

    @property
    def num_series(self) -> int:
        """Series of all families."""
        return sum(1 for _ in self._lines())

    @property
    def num_samples(self) -> int:
        """Samples of all series."""
        return sum(len(line.values) for line in self._lines())

    def _lines(self) -> Iterator[_Line]:
        return (line for groups in self._groups.values() for group in groups.values() for line in group.lines.values())


def replay(records: Sequence[Record], run: str, every_seconds: float = EVERY_SECONDS) -> Recording:
    """The metrics of a run at every moment that counts; `records` are all there are, as `read_run` gives them."""
    recording = Recording()
    kept = {id(record) for record in effective(records)}
    history: list[Record] = []
    end = float("-inf")
    for _, group in groupby(records, key=lambda record: record["attempt"]):
        attempt = list(group)
        origin = max(attempt[0]["wall"], end) - attempt[0]["mono"]
        moments = [(origin + record["mono"], record) for record in attempt]
        begun = max(end, min(at - _startup(record) for at, record in moments))
        life = _Life(run, begun, attempt, history)
        _follow(life, [(at, record) for at, record in moments if id(record) in kept], recording, every_seconds)
        history += attempt
        end = life.now
    return recording


def _follow(life: "_Life", moments: Sequence[tuple[float, Record]], recording: Recording, every_seconds: float) -> None:
    """Lead one attempt through its records, and look at it whenever a sample is due."""
    last = life.now
    recording.take(life.metrics(), last)
    for at, record in moments:
        while last + every_seconds < at:
            last = life.now = last + every_seconds
            recording.take(life.metrics(), last)
        life.now = max(life.now, at)
        event = event_of(record)
        if event is None:
            continue
        life.see(event)
        if not isinstance(event, QUIET):
            last = life.now
            recording.take(life.metrics(), last)


class _Life:
    """The metrics of one attempt at the moment `now` (seconds since the epoch)."""

    def __init__(self, run: str, begun: float, attempt: Sequence[Record], history: Sequence[Record]) -> None:
        self.now = begun
        self._kind, self._account = "startup", dict.fromkeys(TIME_KINDS, 0.0)
        self._beat: float | None = None
        self._values = Values()
        sources = Sources(account=lambda: (self._kind, self._account), last_beat=lambda: self._beat)
        self._live = Live(sources, wall=WallClock(lambda: self.now, lambda: self.now))
        self._collector = Collector(run, self._values, self._live)
        warned = {(record["name"], record["severity"]) for record in attempt if record["event"] == "Warned"}
        started: Record = next((record for record in attempt if record["event"] == "RunStarted"), {})
        is_on_gpu = str(started.get("device", "")).startswith("cuda")
        about_run = started.get("config", {}).get("run", {})
        self._listener = MetricsListener(
            self._values,
            self._live,
            rules=[_Told(*one) for one in sorted(warned)],
            history=list(history),
            num_gpus=started["world_size"] if is_on_gpu else 0,
            grace_seconds=about_run.get("grace_seconds"),
            warn=lambda _text: None,  # the run has said it
        )

    def see(self, event: Event) -> None:
        """One event has happened."""
        self._kind = _KIND_AFTER.get(type(event).__name__, self._kind)
        match event:
            case events.RunStarted():
                set_info(self._values, event)
            case TimeAccounted():
                self._account = dict.fromkeys(TIME_KINDS, 0.0) | event.seconds
            case StepDone() | PassDone():
                self._beat = self.now
            case AttemptEnded():
                self._live.end("done" if event.code == 0 else "linger")
        self._listener.on_event(event)

    def metrics(self) -> Iterator[Metric]:
        """What a scrape would get."""
        return (metric for metric in self._collector.collect() if metric.name != NOT_RECORDED)


@dataclass(frozen=True)
class _Told:
    """A rule that has spoken: its name is known, what it looked at is not."""

    name: str
    severity: Severity

    def check(self, trace: Trace) -> Finding | None:  # noqa: ARG002  # a Rule is asked this way
        """It has nothing more to say."""
        return None


@dataclass(frozen=True)
class _One:
    """A registry of one family."""

    metric: Metric

    def collect(self) -> list[Metric]:
        """That family."""
        return [self.metric]


def event_of(record: Record) -> Event | None:
    """The event that a record was; None for one that this version does not know, or knows with other fields."""
    kind = getattr(events, record["event"], None)
    if not isinstance(kind, type) or not issubclass(kind, Event):
        return None
    known = {field.name for field in fields(kind)}
    try:
        return kind(**{name: value for name, value in record.items() if name in known})
    except TypeError:
        return None


def _startup(record: Record) -> float:
    """How long before this record its attempt began, where it tells."""
    return sum(record["seconds"].values()) if record["event"] == "TimeAccounted" else 0.0
