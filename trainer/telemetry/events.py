"""What happens in a run, as data: the only words between the engine and everything that shows or stores it.

The engine and the checkpoint room emit these; the ledger, the progress bar and every other listener receive them.
Values are plain (numbers, text, lists, dicts), so that an event is one JSON line of the ledger. Seconds and bytes
are in the names. `metrics` are means of sums over counts; a value that does not exist is None, never NaN.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

Metrics = dict[str, float | None]

TIME_KINDS = ("productive", "data_wait", "evaluation", "checkpoint_stall", "startup", "redone", "idle")
"""The seven kinds of the time account; their sum is the wall clock (design 9)."""

REJECTIONS = ("manifest", "missing", "size", "digest", "unreadable")
"""What can be wrong with a checkpoint: its manifest, a file that is gone, of wrong size or digest, or not readable."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events: where the run was (epoch from 0, optimizer updates done) when it happened."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """An attempt is set up and about to train; says everything a report needs about the run itself."""

    run: str
    attempt: str
    task: str
    model: str
    world_size: int
    device: str
    precision: str
    seed: int
    num_parameters: int
    num_samples: int
    steps_per_epoch: int
    total_steps: int
    num_epochs: int
    batch_size: int
    passes: dict[str, int]
    """Samples of each pass by its name."""
    metrics: dict[str, str]
    """The closed set of metric names the task declares, each `min` or `max`."""
    best_metric: str
    config: dict[str, Any]
    config_digest: str
    versions: dict[str, str]
    environment: dict[str, Any]
    info: dict[str, Any] = field(default_factory=dict)
    """What the task says of itself: class names, schema, split sizes."""
    caveat: str = ""
    """Why the metrics are no headline, in a sentence; empty if they may be one."""


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """The attempt goes on from a checkpoint; `redone_steps` were trained before and are trained again."""

    checkpoint: str
    redone_steps: int


@dataclass(frozen=True, kw_only=True)
class CheckpointRejected(Event):
    """A checkpoint failed verification and was stepped over."""

    checkpoint: str
    reason: str
    kind: str = "unreadable"
    """One of `REJECTIONS`."""


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """A log point: means over the `num_steps` steps since the last one (this step included)."""

    num_steps: int
    seconds: float
    """Wall time of the interval without evaluation and checkpoint stalls."""
    loss: float | None
    """Sum of the loss terms, each with its weight of this moment."""
    metrics: Metrics
    learning_rate: float
    grad_norm: float | None
    """Norm before clipping, of the last step."""
    max_grad_norm: float | None
    clipped_share: float
    loss_scale: float | None
    """Of the fp16 scaler; None without one."""
    skipped_steps: int
    samples: int
    samples_per_second: float
    data_wait_seconds: float
    update_ratio: float | None = None
    """Norm of the last update over norm of the weights, where measured."""
    seconds_left: float | None = None
    terms: Metrics = field(default_factory=dict)
    """Un-weighed mean of each loss term by its name; empty for a loss of one term."""
    weights: dict[str, float] = field(default_factory=dict)
    """Of the loss terms, where they are balanced."""
    norms: dict[str, float] = field(default_factory=dict)
    """Of their gradients at the shared trunk, as running means of what was measured."""
    curves: dict[str, float] = field(default_factory=dict)
    """Values that follow curves of the settings, by name, as in the last step."""
    epoch_progress: float = 0.0
    sample_ids: list[list[int]] | None = None
    """Global sample indices of each step of the interval, only on request."""


@dataclass(frozen=True, kw_only=True)
class Balanced(Event):
    """The loss terms were measured in this step, and weighed anew for the steps after it."""

    weights: dict[str, float]
    norms: dict[str, float] = field(default_factory=dict)
    """Of the gradients of the terms at the shared trunk, as running means; empty for a rule that needs none."""


@dataclass(frozen=True, kw_only=True)
class EpochDone(Event):
    """One walk over the training set ended; means over the whole epoch (this attempt's part of it).

    The cursor stands behind it: `epoch` is the number of epochs done.
    """

    loss: float | None
    metrics: Metrics
    seconds: float
    samples_per_second: float


@dataclass(frozen=True, kw_only=True)
class PassStarted(Event):
    """An evaluation pass begins."""

    name: str
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class PassDone(Event):
    """An evaluation pass ended; `detail` is the task's own (confusion, calibration), only for best and final ones."""

    name: str
    num_samples: int
    seconds: float
    metrics: Metrics
    is_best: bool = False
    is_final: bool = False
    """Run with the best weights after training, for the table of results."""
    peak_memory_bytes: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CheckpointTaken(Event):
    """The state was copied; training stood still for `stall_seconds`."""

    stall_seconds: float
    size_bytes: int
    replaced: bool = False
    """A checkpoint that was still waiting gave way to this one."""


@dataclass(frozen=True, kw_only=True)
class CheckpointPublished(Event):
    """The checkpoint is durable and visible in the store."""

    checkpoint: str
    size_bytes: int
    seconds: float
    is_best: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckpointFailed(Event):
    """Publishing failed; whether it will be tried again."""

    checkpoint: str
    reason: str
    will_retry: bool
    outage_seconds: float = 0.0
    """Since the first failure of this outage."""
    age_seconds: float = 0.0
    """Since the last checkpoint became durable in the store, or since the attempt began."""


@dataclass(frozen=True, kw_only=True)
class CheckpointRetired(Event):
    """Retention removed checkpoints."""

    checkpoints: list[str]


@dataclass(frozen=True, kw_only=True)
class NonFinite(Event):
    """A loss or gradient was NaN or infinite; `sample_ids` are the samples of that global batch."""

    what: str
    policy: str
    used: int
    budget: int
    sample_ids: list[int]


@dataclass(frozen=True, kw_only=True)
class SamplesLeftOut(Event):
    """Bad samples that the data set of the run goes without."""

    num_skipped: int
    """Left out on request (the policy for bad samples is `skip`)."""
    num_tolerated: int
    """Known gaps of a public data set."""


@dataclass(frozen=True, kw_only=True)
class OutOfMemory(Event):
    """The GPU has no memory left; the attempt ends."""

    batch_size: int
    accumulation: int


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """A warning sign: one line with a likely cause; severity is note, warn or stop."""

    name: str
    severity: str
    text: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Noted(Event):
    """A plain fact a user should see once (what was ignored, what was resolved anew)."""

    text: str


@dataclass(frozen=True, kw_only=True)
class TimeAccounted(Event):
    """Seconds of this attempt so far by kind of `TIME_KINDS`; cumulative."""

    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Profiled(Event):
    """The profile of some steps is done."""

    num_steps: int
    seconds: float
    """Wall time of these steps."""
    phases: dict[str, float]
    """Seconds of each part of a step; together they are `seconds`."""
    operators: list[tuple[str, int, float, float]]
    """Name, calls, own seconds on the CPU and on the device; most of the latter (or, on a CPU, the former) first."""
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stopping(Event):
    """All ranks agreed to stop after this step."""

    reason: str
    code: int


@dataclass(frozen=True, kw_only=True)
class ArtifactWritten(Event):
    """A file a person may want: `kind` is model, report, classification_report, diagnostics, trace …"""

    kind: str
    path: str


@dataclass(frozen=True, kw_only=True)
class AttemptEnded(Event):
    """The last record of an attempt; an attempt without one was killed."""

    code: int
    reason: str
    seconds: float


class Listener(Protocol):
    """Receives every event on the first rank, in order, on the training thread; must be quick."""

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
        ...

    def close(self) -> None:
        """Flush and let go; called once."""
        ...
