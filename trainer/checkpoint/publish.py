"""Publishing: a checkpoint becomes durable and visible in the store while training goes on.

    training thread   submit: copy (the stall) --------------------------- poll: events
    publisher thread           `- owner? - data, hashed on the way - MANIFEST - hints - retention

One buffer: a newer request replaces the one that waits, or waits itself until the write under way is done. A medium
that fails is tried again with growing pauses; when that is of no use `error` holds why, and the engine stops.
"""

import hashlib
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from trainer.checkpoint.attempts import put_json
from trainer.checkpoint.crash import point
from trainer.checkpoint.manifest import MANIFEST_FILE, FileRecord, FolderName, Manifest, software, utc_now
from trainer.checkpoint.restore import BEST_HINT, LATEST_HINT
from trainer.checkpoint.retention import Retention, sweep
from trainer.checkpoint.run import CHECKPOINTS, Emit, Run
from trainer.checkpoint.state import HostBuffers, Snapshot, State
from trainer.checkpoint.store import Chunk
from trainer.errors import InfrastructureError, TrainerError
from trainer.telemetry.events import (
    CheckpointFailed,
    CheckpointPublished,
    CheckpointRetired,
    CheckpointTaken,
    Event,
    Noted,
)

_NICENESS = 10
"""Priority of the publishing thread: about a tenth of a core where training wants both."""


@dataclass(frozen=True)
class Retry:
    """How long a failing store is tried again. The default suits a disk, which rarely mends itself."""

    tries: int = 3
    first_seconds: float = 0.5
    longest_seconds: float = 30.0

    def pause_seconds(self, failures: int) -> float:
        """Doubled after each failure, between half and all of it at random (many pods, one store)."""
        whole = min(self.first_seconds * 2.0 ** (failures - 1), self.longest_seconds)
        return whole * random.uniform(0.5, 1.0)


@dataclass(eq=False)
class _Job:
    """One checkpoint on its way."""

    snapshot: Snapshot
    name: FolderName
    epoch: int
    sequence: int
    is_best: bool
    milestone: bool
    created: str
    begun: float
    is_started: bool = False
    """The thread is writing it; never while it waits for its turn or for the next try."""


class Publisher:
    """Takes states from the training thread and publishes them on a thread of its own, one at a time."""

    def __init__(
        self,
        run: Run,
        *,
        keep_last: int,
        keep_best: bool,
        emit: Emit,
        world_size: int = 1,
        retry: Retry | None = None,
    ) -> None:
        self.error: TrainerError | None = None
        """Why nothing more can be published; the engine looks at it after every step."""
        self._run = run
        self._keep_best = keep_best
        self._emit = emit
        self._world_size = world_size
        self._retry = retry or Retry()
        self._retention = Retention(run, keep_last, keep_best)
        self._buffers = HostBuffers()
        self._events: deque[Event] = deque()
        self._names: set[FolderName] = set()
        self._changed = threading.Condition()
        self._job: _Job | None = None
        self._is_swept = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def warm(self, state: State) -> None:
        """Make the buffers for a state beforehand, so that the first checkpoint stalls no longer than the others."""
        with self._changed:
            self._changed.wait_for(lambda: self._job is None)
        self._buffers.warm(state)

    def submit(
        self, state: State, *, step: int, epoch: int, is_best: bool = False, milestone: bool = False,
        replace: bool = True,
    ) -> None:  # fmt: skip
        """Copy a state and have it published; returns after the copy. Raises what made publishing impossible.

        With `replace` a checkpoint that still waits gives way, unless it is a milestone or the best and this is not.
        """
        begun = time.perf_counter()
        replaced = self._make_room(is_best, replace)
        if self.error:
            raise self.error
        snapshot = self._buffers.copy(state)
        name = self._new_name(step)
        job = _Job(snapshot, name, epoch, len(self._names), is_best, milestone, utc_now(), time.perf_counter())
        with self._changed:
            self._job = job
            self._changed.notify_all()
        stall = time.perf_counter() - begun
        self._emit(
            CheckpointTaken(
                epoch=epoch, step=step, stall_seconds=stall, size_bytes=snapshot.size_bytes, replaced=replaced
            )
        )

    def poll(self) -> None:
        """Deliver what the thread has to tell; on the training thread, where listeners run."""
        while self._events:
            self._emit(self._events.popleft())

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything taken is published (True), impossible (see `error`), or the time is over."""
        with self._changed:
            self._changed.wait_for(self._is_idle, timeout)
            done = self._is_idle() and self.error is None
        self.poll()
        return done

    def close(self, timeout: float | None = None) -> None:
        """Let a write under way finish, try once more what failed, end the thread (or leave it after `timeout`)."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        self.poll()

    def _is_idle(self) -> bool:
        return self.error is not None or (self._job is None and self._is_swept)

    def _make_room(self, is_best: bool, replace: bool) -> bool:
        """Wait for the buffer; True when a waiting checkpoint gave way."""

        def gives_way() -> bool:
            job = self._job
            return bool(job and replace and not job.is_started and not job.milestone and (is_best or not job.is_best))

        with self._changed:
            self._changed.wait_for(lambda: self.error or self._job is None or gives_way())
            replaced = self._job is not None and self.error is None
            if replaced:
                self._job = None
                self._changed.notify_all()
        return replaced

    def _new_name(self, step: int) -> FolderName:
        name = FolderName(step, self._run.id.number, self._run.id.suffix)
        while name in self._names:
            name = FolderName(step, name.number, name.suffix, name.again + 1)
        self._names.add(name)
        return name

    def _work(self) -> None:
        """The thread: never ends before `close`, whatever fails."""
        _give_way()
        self._guarded(self._sweep)
        while True:
            with self._changed:
                self._is_swept = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._job or self._is_closing)
                job = self._job
            if job is None:
                return
            self._guarded(partial(self._publish_with_retries, job))
            with self._changed:
                if self._job is job:
                    self._job = None

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except TrainerError as error:
            self._fail(error)
        except Exception as error:  # a defect: training must hear of it, else it would go on without checkpoints
            failure = TrainerError(f"publishing failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(failure)

    def _fail(self, error: TrainerError) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def _sweep(self) -> None:
        """What dead attempts left; of no use to stop training for."""
        try:
            sweep(self._run)
        except InfrastructureError as error:
            self._events.append(Noted(text=f"leftovers of earlier attempts could not be removed: {error}"))

    def _publish_with_retries(self, job: _Job) -> None:
        failures = 0
        while self._take(job):
            try:
                self._publish(job)
                return
            except InfrastructureError as error:
                failures += 1
                will_retry = failures < self._retry.tries and not self._is_closing
                reason, name = str(error), str(job.name)
                self._tell(job, CheckpointFailed, checkpoint=name, reason=reason, will_retry=will_retry)
                if not will_retry:
                    self._discard(job)
                    raise
            self._pause(job, failures)

    def _take(self, job: _Job) -> bool:
        """Mark a job as being written; False when it was replaced meanwhile."""
        with self._changed:
            job.is_started = self._job is job
            return job.is_started

    def _pause(self, job: _Job, failures: int) -> None:
        """Wait before the next try; ends early when the job is replaced or the publisher closes."""
        with self._changed:
            job.is_started = False
            self._changed.notify_all()
            seconds = self._retry.pause_seconds(failures)
            self._changed.wait_for(lambda: self._job is not job or self._is_closing, seconds)

    def _publish(self, job: _Job) -> None:
        """The protocol: owner, data, manifest, hints, retention."""
        self._run.check_owner()
        point("before_write")
        files = self._put_files(job)
        point("after_data")
        manifest = Manifest(
            step=job.name.step, epoch=job.epoch, attempt=job.name.attempt, sequence=job.sequence,
            world_size=self._world_size, files=files, cursor=job.snapshot.cursor, created=job.created,
            is_best=job.is_best, milestone=job.milestone, versions=software(),
        )  # fmt: skip
        point("before_manifest")
        self._run.store.put(self._key(job, MANIFEST_FILE), [manifest.to_bytes()])
        point("after_manifest")
        seconds = time.perf_counter() - job.begun
        self._tell(
            job, CheckpointPublished, checkpoint=str(job.name), size_bytes=manifest.size_bytes, seconds=seconds,
            is_best=job.is_best,
        )  # fmt: skip
        self._follow_up(job)

    def _put_files(self, job: _Job) -> dict[str, FileRecord]:
        files: dict[str, FileRecord] = {}
        for name, chunks in job.snapshot.files():
            if files:
                point("between_files")
            meter = _Meter(chunks)
            self._run.store.put(self._key(job, name), meter)
            files[name] = FileRecord(meter.size_bytes, meter.hasher.hexdigest())
        return files

    def _follow_up(self, job: _Job) -> None:
        """Hints and retention; the checkpoint is published, so a failing store is only told of."""
        try:
            point("before_hints")
            self._hint(job, LATEST_HINT)
            if job.is_best and self._keep_best:
                point("between_hints")
                self._hint(job, BEST_HINT)
            point("after_hints")
            retired = self._retention.apply()
        except InfrastructureError as error:
            self._tell(job, Noted, text=f"checkpoint {job.name} is published, what follows it failed: {error}")
            return
        if retired:
            self._tell(job, CheckpointRetired, checkpoints=retired)

    def _hint(self, job: _Job, hint: str) -> None:
        record = {"run": self._run.name, "checkpoint": str(job.name), "step": job.name.step}
        put_json(self._run.store, self._run.key(hint), record)

    def _discard(self, job: _Job) -> None:
        """Give the space of a publish that failed for good back, if the store lets us."""
        try:
            prefix = f"{CHECKPOINTS}{job.name}/"
            keys = [entry.key for entry in self._run.store.entries(self._run.key(prefix))]
            if self._key(job, MANIFEST_FILE) not in keys:
                self._run.store.delete(keys)
        except InfrastructureError as error:
            self._tell(job, Noted, text=f"what was written of checkpoint {job.name} could not be removed: {error}")

    def _key(self, job: _Job, file: str) -> str:
        return self._run.key(f"{CHECKPOINTS}{job.name}/{file}")

    def _tell(self, job: _Job, kind: type[Event], **values: Any) -> None:
        self._events.append(kind(epoch=job.epoch, step=job.name.step, **values))


def _give_way() -> None:
    """Lower this thread's priority: hashing and writing may take longer, the steps beside it should not.

    Linux only, where priorities are those of threads; elsewhere the whole process would be slowed down.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class _Meter:
    """Passes chunks through, hashing and counting them: the data are read once for digest and write."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = chunks
        self.hasher = hashlib.sha256()
        self.size_bytes = 0

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            if self.size_bytes:
                point("mid_write")
            self.hasher.update(chunk)
            self.size_bytes += len(chunk)
            yield chunk
