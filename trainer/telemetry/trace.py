"""The ledger as the warning rules see it: log points, passes and the run, folded record by record.

A fold, so that the same rules serve a training that goes on and a report afterwards: `Trace.of(records)` is a pure
function of the records. A `Resumed` takes back what was said of later steps, as `reading.effective` does.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trainer.telemetry.events import Metrics

Record = dict[str, Any]

MIN_WINDOW_STEPS = 200
BEST_MEAN_STEPS = 200
"""Steps of the mean whose lowest value `exploding` compares with."""

KEPT_PUBLISHES = 100
KEPT_STEPS = 5_000
PRUNE_EVERY = 1_000
"""A long run would fill the memory with log points that no rule looks at any more."""


@dataclass
class Evaluation:
    """One pass with what training said meanwhile: mean training metrics since the last walk of the same pass."""

    step: int
    metrics: Metrics
    training: Metrics


@dataclass
class Trace:
    """What happened so far; `steps` are the `StepDone` records in order, `passes` the evaluations by pass."""

    started: Record = field(default_factory=dict)
    steps: list[Record] = field(default_factory=list)
    passes: dict[str, list[Evaluation]] = field(default_factory=dict)
    nonfinite: list[Record] = field(default_factory=list)
    publish_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_PUBLISHES))
    """Of the newest checkpoints."""
    first_steps: set[int] = field(default_factory=set)
    """Steps of the first log point of each attempt: warm-up of caches and kernels is in them."""
    first_loss: float | None = None
    """Of the first log point of the run."""
    best_mean_loss: float | None = None
    """Lowest mean over 200 steps."""
    step: int = 0
    skipped: list[tuple[int, int]] = field(default_factory=list)
    """Step and number of the skipped updates of each log point that had some."""
    _recent: deque[tuple[int, float]] = field(default_factory=deque)
    _recent_steps: int = 0
    _recent_sum: float = 0.0
    _fresh: bool = True
    _windows: dict[tuple[int, int], list[Record]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Trace":
        """The trace of records in order."""
        trace = cls()
        for record in records:
            trace.add(record)
        return trace

    def add(self, record: Record) -> None:
        """Take in the next record; those of other kinds change nothing."""
        self._windows.clear()
        match record["event"]:
            case "StepDone":
                self._add_step(record)
            case "PassDone" if not record["is_final"]:
                self._add_pass(record)
            case "RunStarted":
                self.started, self._fresh = record, True
            case "Resumed":
                self._take_back(record["step"])
            case "NonFinite":
                self.nonfinite.append(record)
            case "CheckpointPublished":
                self.publish_seconds.append(record["seconds"])
                return  # its step is the checkpoint's, which training has left behind
        self.step = record["step"]

    @property
    def num_skipped(self) -> int:
        """Updates left out so far: steps that did not advance the schedule."""
        return sum(number for _, number in self.skipped)

    @property
    def window_steps(self) -> int:
        """The window of the rules: 200 steps or 1 % of the run, the larger one."""
        return max(MIN_WINDOW_STEPS, int(self.started.get("total_steps", 0)) // 100)

    def window(self, num_steps: int, *, skip_steps: int = 0) -> list[Record]:
        """The newest log points that cover `num_steps` steps, without the last `skip_steps`; empty if too few."""
        key = (num_steps, skip_steps)
        if key not in self._windows:  # most rules look at the same one
            self._windows[key] = _cut_window(self.steps, num_steps, skip_steps)
        return self._windows[key]

    def evaluations(self) -> list[Evaluation]:
        """Those of the pass that chooses the best checkpoint."""
        return self.passes.get(self.best_metric[0], [])

    @property
    def best_metric(self) -> tuple[str, str]:
        """Pass and name of the metric that chooses the best checkpoint."""
        name, _, metric = self.started.get("best_metric", "").partition("/")
        return name, metric

    @property
    def accuracy_name(self) -> str | None:
        """The first metric that the task declares as better when higher."""
        declared: dict[str, str] = self.started.get("metrics", {})
        return next((name for name, mode in declared.items() if mode == "max"), None)

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the run by its dotted name, `optim.clip`."""
        value: Any = self.started.get("config", {})
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None else value

    def _add_step(self, record: Record) -> None:
        if self.steps and record["step"] <= self.steps[-1]["step"]:
            self._take_back(record["step"] - record["num_steps"])  # began anew, without a checkpoint
        self.steps.append(record)
        if record["skipped_steps"]:
            self.skipped.append((record["step"], record["skipped_steps"]))
        if self._fresh:
            self.first_steps.add(record["step"])
            self._fresh = False
        if len(self.steps) % PRUNE_EVERY == 0:
            oldest = record["step"] - max(3 * self.window_steps, KEPT_STEPS)
            self.steps = [kept for kept in self.steps if kept["step"] > oldest]
        if record["loss"] is not None:
            self.first_loss = record["loss"] if self.first_loss is None else self.first_loss
            self._recent.append((record["num_steps"], record["loss"]))
            self._update_best()

    def _update_best(self) -> None:
        num_steps, loss = self._recent[-1]
        self._recent_steps += num_steps
        self._recent_sum += num_steps * loss
        while self._recent_steps - self._recent[0][0] >= BEST_MEAN_STEPS:
            num_steps, loss = self._recent.popleft()
            self._recent_steps -= num_steps
            self._recent_sum -= num_steps * loss
        if self._recent_steps >= BEST_MEAN_STEPS:
            mean = self._recent_sum / self._recent_steps
            self.best_mean_loss = mean if self.best_mean_loss is None else min(mean, self.best_mean_loss)

    def _add_pass(self, record: Record) -> None:
        walks = self.passes.setdefault(record["name"], [])
        since = walks[-1].step if walks else 0
        meanwhile = list(_newest_first(self.steps, since))
        names = {"loss", *(name for step in meanwhile for name in step["metrics"])}
        training = {name: mean_of(meanwhile, name) for name in names}
        walks.append(Evaluation(record["step"], record["metrics"], training))

    def _take_back(self, step: int) -> None:
        self.steps = [record for record in self.steps if record["step"] <= step]
        self.skipped = [(at, number) for at, number in self.skipped if at <= step]
        self.passes = {name: [walk for walk in walks if walk.step <= step] for name, walks in self.passes.items()}
        self._recent.clear()
        self._recent_steps, self._recent_sum = 0, 0.0
        self._fresh = True


def value_of(record: Record, name: str) -> float | None:
    """A value of a log point: the loss or a metric by its name."""
    value = record["metrics"].get(name) if name != "loss" else record["loss"]
    return None if value is None else float(value)


def mean_of(records: Iterable[Record], name: str) -> float | None:
    """Mean of a training metric over log points, each with as much weight as it has steps."""
    total = num_steps = 0.0
    for record in records:
        value = value_of(record, name)
        if value is not None:
            total += value * record["num_steps"]
            num_steps += record["num_steps"]
    return total / num_steps if num_steps else None


def _cut_window(steps: list[Record], num_steps: int, skip_steps: int) -> list[Record]:
    found: list[Record] = []
    covered = skipped = 0
    for record in reversed(steps):
        if skipped < skip_steps:
            skipped += record["num_steps"]
            continue
        found.append(record)
        covered += record["num_steps"]
        if covered >= num_steps:
            return found[::-1]
    return []


def _newest_first(steps: list[Record], since: int) -> Iterable[Record]:
    for record in reversed(steps):
        if record["step"] <= since:
            return
        yield record
