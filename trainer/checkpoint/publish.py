"""Publishing: a checkpoint becomes durable and visible in the store while training goes on.

    training thread   submit: copy (the stall) --------------------------- poll: events
    publisher thread           `- owner? - commit (data, manifest) - hints - retention
                               `- the store fails: into the spool, and from there when it answers again

One buffer: a newer request replaces the one that waits, or waits itself until the write under way is done. A store
over the network that fails is tried again with growing pauses while the newest checkpoint lies in the spool; when that
has gone on for too long `error` holds why, and the engine stops.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from trainer.checkpoint.attempts import put_json
from trainer.checkpoint.commit import Content, commit
from trainer.checkpoint.crash import point
from trainer.checkpoint.lease import Lease
from trainer.checkpoint.manifest import MANIFEST_FILE, FolderName, utc_now
from trainer.checkpoint.outage import Outage, Retry
from trainer.checkpoint.restore import BEST_HINT, LATEST_HINT, Rejected
from trainer.checkpoint.retention import Kept, Retention, sweep
from trainer.checkpoint.run import CHECKPOINTS, Emit, Run
from trainer.checkpoint.spool import Spool
from trainer.checkpoint.state import HostBuffers, State
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
SILENCE_SECONDS = 20.0
"""A store over the network that takes nothing for so long loses the buffer to the next checkpoint."""
HURRIED_SILENCE_SECONDS = 2.0
"""The same for a process that will be killed soon."""
_SLICE_SECONDS = 0.25


@dataclass(eq=False)
class _Job:
    """A checkpoint in the buffer."""

    content: Content
    lease: Lease
    is_started: bool = False
    """The thread is reading it; never while it waits for its turn or for the next try."""
    may_be_lost: bool = False
    """The store failed and may fail for long: a newer one takes its place whatever it is, training must go on."""


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
        spool: Spool | None = None,
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        """`settle` stores what must be there before a checkpoint is: else a run killed behind it has a gap."""
        self.error: TrainerError | None = None
        """Why nothing more can be published; the engine looks at it after every step."""
        self.retry = retry or Retry()
        self._run = run
        self._keep_best = keep_best
        self._emit = emit
        self._world_size = world_size
        self._retention = Retention(run, keep_last, keep_best)
        self._outage = Outage(self.retry)
        self._spool = spool
        self._settle = settle
        self._has_spooled = False
        self._is_hung = False
        """The thread is still in a request for a checkpoint that lost the buffer."""
        self._buffers = HostBuffers()
        self._events: deque[Event] = deque()
        self._names: set[FolderName] = set()
        self._told: set[FolderName] = set()
        """Checkpoints of which it was said that the spool cannot take them."""
        self._changed = threading.Condition()
        self._job: _Job | None = None
        self._is_swept = False
        self._is_closing = False
        self._durable_at = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    @property
    def age_seconds(self) -> float:
        """Time since the last checkpoint became durable in the store (or since the start)."""
        return time.monotonic() - self._durable_at

    def warm(self, state: State) -> None:
        """Make the buffers for a state beforehand, so that the first checkpoint stalls no longer than the others."""
        with self._changed:
            self._changed.wait_for(lambda: self._job is None)
        self._buffers.warm(state)

    def submit(
        self, state: State, *, step: int, epoch: int, is_best: bool = False, milestone: bool = False,
        timeout: float | None = None, hurries: Callable[[], bool] = lambda: False,
    ) -> bool:  # fmt: skip
        """Copy a state and have it published; returns after the copy. Raises what made publishing impossible.

        A checkpoint that still waits gives way, unless it is a milestone or the best and this is not. One that a
        silent store holds up goes to the spool. False, and nothing is taken, when the write under way does not end
        within `timeout` seconds, or `hurries` (asked while waiting) says that there is no time.
        """
        begun = time.perf_counter()
        deadline = begun + timeout if timeout is not None else float("inf")
        replaced = self._make_room(is_best, deadline, hurries)
        if self.error:
            raise self.error
        if replaced is None:
            return False
        snapshot = self._buffers.copy(state)
        name, lease = self._new_name(step), Lease()
        content = Content(
            name=name, epoch=epoch, sequence=len(self._names), cursor=snapshot.cursor, world_size=self._world_size,
            created=utc_now(), begun=time.perf_counter(), is_best=is_best, milestone=milestone,
            files=lambda: lease.of(snapshot.files()), check=lease.check,
        )  # fmt: skip
        with self._changed:
            self._job = _Job(content, lease)
            self._changed.notify_all()
        stall = time.perf_counter() - begun
        self._emit(
            CheckpointTaken(
                epoch=epoch, step=step, stall_seconds=stall, size_bytes=snapshot.size_bytes, replaced=replaced
            )
        )
        return True

    def poll(self) -> None:
        """Deliver what the thread has to tell; on the training thread, where listeners run."""
        while self._events:
            self._emit(self._events.popleft())
        while self._run.store.notices:
            self._emit(Noted(text=self._run.store.notices.popleft()))

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything taken is published (True), impossible (see `error`), or the time is over."""
        with self._changed:
            self._changed.wait_for(self._is_idle, timeout)
            done = self._is_idle() and self.error is None
        self.poll()
        return done

    def rescue(self) -> str:
        """Put what could not be published in time into the spool; says in words where the newest checkpoint is now."""
        with self._changed:
            job = self._job
        if self._spool is None:
            return "it is lost, the next attempt goes on from the one before"
        try:
            if job is not None:
                self._spool.keep(job.content)
        except InfrastructureError as error:
            return f"it is lost, the spool failed too ({error})"
        return f"it waits in {self._spool.folder}, from where the next attempt on this machine publishes it"

    def close(self, timeout: float | None = None) -> None:
        """Let a write under way finish, try once more what failed, end the thread (or leave it after `timeout`)."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        self.poll()

    def _is_idle(self) -> bool:
        return self.error is not None or (self._job is None and self._is_swept and not self._has_spooled)

    def _make_room(self, is_best: bool, deadline: float, hurries: Callable[[], bool]) -> bool | None:
        """Wait for the buffer; True when another checkpoint gave way, None when there is no time to wait."""

        def is_free() -> bool:
            job = self._job
            if self.error or job is None:
                return True
            if job.is_started:
                return False
            return job.may_be_lost or (not job.content.milestone and (is_best or not job.content.is_best))

        given_up: Content | None = None
        while True:
            with self._changed:
                if self._changed.wait_for(is_free, _SLICE_SECONDS):
                    if self._job is not None and self.error is None:
                        given_up, self._job = self._job.content, None
                        self._changed.notify_all()
                    break
                job = self._job
            if job and self._is_held_up(job, deadline):
                given_up = self._take_away(job)
                break
            if hurries() or time.perf_counter() > deadline:
                return None
        if given_up and (given_up.milestone or (given_up.is_best and not is_best)) and not self._has_spooled:
            kind = "milestone" if given_up.milestone else "best"
            self._emit(Noted(text=f"the {kind} {given_up.name} is lost: the store failed and there is no spool"))
        return given_up is not None

    def _is_held_up(self, job: _Job, deadline: float) -> bool:
        """Whether a store that may be away for long is silent."""
        limit = SILENCE_SECONDS if deadline == float("inf") else HURRIED_SILENCE_SECONDS
        is_silent = self._is_hung or time.monotonic() - job.lease.touched > limit
        return self.retry.tries is None and is_silent

    def _take_away(self, job: _Job) -> Content:
        """The buffer from a checkpoint under way, which goes to the spool; the thread learns of it when it is back."""
        self._keep_aside(job.content)
        job.lease.end()
        with self._changed:
            self._is_hung = True
            if self._job is job:
                self._job = None
        return job.content

    def _new_name(self, step: int) -> FolderName:
        name = FolderName(step, self._run.id.number, self._run.id.suffix)
        while name in self._names:
            name = FolderName(step, name.number, name.suffix, name.again + 1)
        self._names.add(name)
        return name

    def _work(self) -> None:
        """The thread: never ends before `close`, whatever fails."""
        _give_way()
        self._guarded(self._prepare)
        while self._wait():
            self._guarded(self._publish_what_waits)
            with self._changed:
                self._changed.notify_all()

    def _wait(self) -> bool:
        """Wait for a checkpoint, or the moment to try the store again; False when nothing is left to do at the end."""
        with self._changed:
            self._is_swept, self._is_hung = True, False
            self._changed.notify_all()
            pause = self._outage.seconds_to_next_try() if self._has_spooled else None
            self._changed.wait_for(lambda: self._job or self._is_closing, pause)
            return bool(self._job or not self._is_closing or (self._has_spooled and self.error is None))

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
            self._job, self._has_spooled = None, False
            self._changed.notify_all()

    def _prepare(self) -> None:
        """What dead attempts left: in the store it goes, of no use to stop training for."""
        try:
            sweep(self._run)
        except InfrastructureError as error:
            self._events.append(Noted(text=f"leftovers of earlier attempts could not be removed: {error}"))

    def _publish_what_waits(self) -> None:
        job = self._job
        if job is not None and not (self._outage.is_on and self._into_spool(job)):
            self._publish_from_buffer(job)
        if self._has_spooled and (self._is_closing or self._outage.seconds_to_next_try() <= 0):
            self._publish_from_spool()

    def _publish_from_buffer(self, job: _Job) -> None:
        """Until it is published, replaced, in the spool, or given up (which raises)."""
        while self._take(job):
            try:
                self._publish(job.content)
                self._free(job)
                return
            except InfrastructureError as error:
                job.may_be_lost = self.retry.tries is None
                gives_up = self._note_failure(job.content, error)
                is_spooled = self._into_spool(job)
                if gives_up:
                    self._discard(job.content)
                    self._give_up(error)
                if is_spooled:
                    return
            self._pause(job)

    def _publish_from_spool(self) -> None:
        """Everything there, oldest first, so that hints only ever move on; back to waiting if the store still fails."""
        assert self._spool is not None
        for name in self._spool.waiting():
            try:
                content = self._spool.content(name)
            except Rejected as error:
                self._events.append(Noted(step=name.step, text=f"checkpoint {name} in the spool is damaged: {error}"))
                self._spool.drop(name)
                continue
            try:
                self._publish(content)
            except InfrastructureError as error:
                if self._note_failure(content, error):
                    self._give_up(error)
                return
            self._spool.drop(name)
        with self._changed:
            self._has_spooled = False

    def _take(self, job: _Job) -> bool:
        """Mark a job as being read; False when it was replaced meanwhile."""
        with self._changed:
            job.is_started = self._job is job
            job.lease.touched = time.monotonic()
            return job.is_started

    def _free(self, job: _Job) -> None:
        """The buffer may be used again."""
        with self._changed:
            if self._job is job:
                self._job = None
            self._changed.notify_all()

    def _pause(self, job: _Job) -> None:
        """Wait before the next try; ends early when the job is replaced or the publisher closes."""
        with self._changed:
            job.is_started = False
            self._changed.notify_all()
            seconds = self._outage.seconds_to_next_try()
            self._changed.wait_for(lambda: self._job is not job or self._is_closing, seconds)

    def _into_spool(self, job: _Job) -> bool:
        """Put a checkpoint into the spool and free the buffer; False when there is none or it fails."""
        if self._spool is None or not self._take(job) or not self._keep_aside(job.content):
            return False
        self._free(job)
        return True

    def _keep_aside(self, content: Content) -> bool:
        """Put a checkpoint into the spool; False when there is none or it fails."""
        if self._spool is None:
            return False
        try:
            self._spool.keep(content)
        except InfrastructureError as error:
            if content.name not in self._told:
                self._told.add(content.name)
                self._tell(content, Noted, text=f"the spool cannot take checkpoint {content.name}: {error}")
            return False
        with self._changed:
            self._has_spooled = True
        return True

    def _note_failure(self, content: Content, error: InfrastructureError) -> bool:
        """Count it and tell of it; True when the store has failed for too long, or there is no time left."""
        self._outage.failed()
        gives_up = self._is_closing or self._outage.lasts_too_long
        self._tell(
            content, CheckpointFailed, checkpoint=str(content.name), reason=str(error), will_retry=not gives_up,
            outage_seconds=self._outage.seconds, age_seconds=self.age_seconds,
        )  # fmt: skip
        return gives_up

    def _give_up(self, error: InfrastructureError) -> NoReturn:
        """Whatever the store said, a later start may find it mended: the code is that of infrastructure."""
        where = f"; the newest checkpoint waits in {self._spool.folder}" if self._has_spooled and self._spool else ""
        raise InfrastructureError(f"{error}{where}") from error

    def _publish(self, content: Content) -> None:
        """The protocol: owner, commit, hints, retention."""
        self._run.check_owner()
        self._settle()
        point("before_write")
        manifest = commit(self._run.store, self._run.name, content)
        self._durable_at = time.monotonic()
        seconds = time.perf_counter() - content.begun
        name = str(content.name)
        self._tell(
            content, CheckpointPublished, checkpoint=name, size_bytes=manifest.size_bytes, seconds=seconds,
            is_best=content.is_best,
        )  # fmt: skip
        if lasted := self._outage.over():
            self._tell(content, Noted, text=f"the store answers again after {lasted:.0f} s; {name} is published")
        self._follow_up(content)

    def _follow_up(self, content: Content) -> None:
        """Hints and retention; the checkpoint is published, so a failing store is only told of."""
        try:
            point("before_hints")
            self._hint(content, LATEST_HINT)
            if content.is_best and self._keep_best:
                point("between_hints")
                self._hint(content, BEST_HINT)
            point("after_hints")
            retired = self._retention.apply(Kept(content.name, content.is_best, content.milestone))
        except InfrastructureError as error:
            self._tell(content, Noted, text=f"checkpoint {content.name} is published, what follows it failed: {error}")
            return
        if retired:
            self._tell(content, CheckpointRetired, checkpoints=retired)

    def _hint(self, content: Content, hint: str) -> None:
        record = {"run": self._run.name, "checkpoint": str(content.name), "step": content.name.step}
        put_json(self._run.store, self._run.key(hint), record)

    def _discard(self, content: Content) -> None:
        """Give the space of a publish that failed for good back, if the store is one that can be full and lets us."""
        if not self._run.store.has_locks:
            return
        folder = self._run.key(f"{CHECKPOINTS}{content.name}/")
        try:
            keys = [entry.key for entry in self._run.store.entries(folder)]
            if folder + MANIFEST_FILE not in keys:
                self._run.store.delete(keys)
        except InfrastructureError as error:
            self._tell(
                content, Noted, text=f"what was written of checkpoint {content.name} could not be removed: {error}"
            )

    def _tell(self, content: Content, kind: type[Event], **values: Any) -> None:
        self._events.append(kind(epoch=content.epoch, step=content.name.step, **values))


def _give_way() -> None:
    """Lower this thread's priority: hashing and writing may take longer, the steps beside it should not.

    Linux only, where priorities are those of threads; elsewhere the whole process would be slowed down.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
