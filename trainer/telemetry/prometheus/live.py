"""Values that are read when somebody scrapes: what must be right between two events, and in pods without events.

Everything here is asked for on a scraper's thread while the training goes on: it only looks, and waits for nobody.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer.telemetry.events import TIME_KINDS
from trainer.telemetry.prometheus.catalogue import PHASES, S3_OPERATIONS
from trainer.telemetry.prometheus.values import Labels, Numbers

_PHASE_OF_KIND = {
    "startup": "start",
    "productive": "train",
    "redone": "train",
    "data_wait": "train",
    "evaluation": "validate",
    "checkpoint_stall": "checkpoint",
    "idle": "stop",
}
_OPERATIONS = {
    "PutObject": "put",
    "CopyObject": "put",
    "GetObject": "get",
    "HeadObject": "head",
    "HeadBucket": "head",
    "ListObjectsV2": "list",
    "ListMultipartUploads": "list",
    "DeleteObject": "delete",
    "DeleteObjects": "delete",
    "CreateMultipartUpload": "multipart",
    "UploadPart": "multipart",
    "CompleteMultipartUpload": "multipart",
    "AbortMultipartUpload": "multipart",
}
_CLOCK_STEP_SECONDS = 0.5
"""A clock of the machine that moved by more was set; less is drift, and following it would make timestamps tremble."""


class WallClock:
    """Time of day of monotonic moments; when the machine's clock is set, those of the past move with it."""

    def __init__(self, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._now, self.monotonic = now, monotonic
        self._offset = now() - monotonic()

    def at(self, moment: float) -> float:
        """Seconds since the epoch of a moment of `time.monotonic`."""
        offset = self._now() - self.monotonic()
        if abs(offset - self._offset) > _CLOCK_STEP_SECONDS:
            self._offset = offset
        return moment + self._offset

    def moment(self, wall: float) -> float:
        """The inverse, for what another attempt wrote down."""
        return wall - self.at(0.0)


@dataclass
class Sources:
    """Where live values come from; each is called from other threads."""

    account: Callable[[], tuple[str, dict[str, float]]]
    """The running kind of time and this attempt's seconds by kind."""
    last_beat: Callable[[], float | None] = lambda: None
    """When something last moved (`time.monotonic`)."""
    requests: Callable[[], tuple[Mapping[str, int], Mapping[str, int]] | None] = lambda: None
    """Requests to the store by operation, all and failed ones; None for a store without any."""
    gpu: int | None = None
    """Number of the GPU of this process."""


@dataclass
class Live:
    """Reads the sources into numbers of the catalogue."""

    sources: Sources
    earlier: dict[str, float] | None = None
    """The time account of earlier attempts; None where this process does not speak for the run."""
    wall: WallClock = field(default_factory=WallClock)
    moments: dict[str, float] = field(default_factory=dict)
    """Monotonic moments of timestamps, by name of the family."""
    outage_since: float | None = None
    """When the store began to refuse (monotonic)."""
    begun: float = field(init=False)
    """When the attempt began (monotonic)."""
    _ended: tuple[str, dict[str, float]] | None = None
    """Phase and account of an attempt that is over."""

    def __post_init__(self) -> None:
        self.begun = self.wall.monotonic() - sum(self.sources.account()[1].values())
        self.moments["start_timestamp_seconds"] = self.begun

    def end(self, phase: str) -> None:
        """The attempt is over: from here on its time stands still."""
        if self._ended is None:
            self._ended = phase, self.sources.account()[1]

    def __call__(self) -> Numbers:
        """All live values."""
        kind, account = self.sources.account()
        phase, account = self._ended or (_PHASE_OF_KIND[kind], account)
        moments = {**self.moments, "last_step_timestamp_seconds": self.sources.last_beat()}
        numbers: dict[str, dict[Labels, float]] = {
            "phase": {(name,): float(name == phase) for name in PHASES},
            **{name: {(): self.wall.at(moment)} for name, moment in moments.items() if moment is not None},
            **{name: {(): float(size)} for name, size in memory_bytes(self.sources.gpu).items()},
        }
        if self.earlier is not None:
            numbers["goodput_seconds_total"] = {(name,): self.earlier[name] + account[name] for name in TIME_KINDS}
            since = self.outage_since
            numbers["store_outage_seconds"] = {(): 0.0 if since is None else self.wall.monotonic() - since}
            numbers["s3_requests_total"] = request_numbers(self.sources.requests())
        return numbers


def request_numbers(counts: tuple[Mapping[str, int], Mapping[str, int]] | None) -> dict[Labels, float]:
    """Requests by operation and result; empty for a store that is no S3."""
    if counts is None:
        return {}
    # Requests that are under way count as ok: failed ones are looked at first, so no number is ever negative.
    failed, sent = by_operation(counts[1]), by_operation(counts[0])
    return {
        (operation, result): float(failed[operation] if result == "error" else sent[operation] - failed[operation])
        for operation in S3_OPERATIONS
        for result in ("ok", "error")
    }


def by_operation(counts: Mapping[str, int]) -> Counter[str]:
    """The SDK's operations as the few of the catalogue."""
    found: Counter[str] = Counter()
    for name, count in dict(counts).items():
        found[_OPERATIONS.get(name, "other")] += count
    return found


def memory_bytes(gpu: int | None = None) -> dict[str, int]:
    """Memory of this process by family: resident (on Linux), and on its GPU if it has one."""
    found: dict[str, int] = {}
    statm = Path("/proc/self/statm")
    if statm.is_file():
        found["host_memory_resident_bytes"] = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if gpu is not None:
        import torch

        stats = torch.cuda.memory_stats_as_nested_dict(gpu)
        if stats:  # before CUDA's first use there are none
            found["cuda_memory_allocated_bytes"] = stats["allocated_bytes"]["all"]["current"]
            found["cuda_memory_reserved_bytes"] = stats["reserved_bytes"]["all"]["current"]
            found["cuda_memory_max_allocated_bytes"] = stats["allocated_bytes"]["all"]["peak"]
    return found
