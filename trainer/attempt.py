"""One life of a run's processes: what it holds, and how its end is told, whatever ends it.

begin ─► opened run, listeners, metrics (`trainer.run`) ─► job ─► end: last records, last scrape, all let go
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.run import Run
from trainer.checkpoint.store import Counted
from trainer.config.prometheus import is_on
from trainer.config.settings import CommonSettings
from trainer.engine.clock import Clock
from trainer.engine.cursor import Cursor
from trainer.engine.job import Job
from trainer.engine.stop import StopRequests, signals_ask
from trainer.engine.world import World, is_peer_loss
from trainer.errors import PeerLostError, RunError, SupersededError
from trainer.tasks.registry import rules
from trainer.telemetry.bus import Bus
from trainer.telemetry.events import AttemptEnded, Noted, OutOfMemory, TimeAccounted
from trainer.telemetry.ledger import Ledger
from trainer.telemetry.reading import Record

if TYPE_CHECKING:
    from trainer.telemetry.prometheus.exporter import Exporter


@dataclass
class Attempt:
    """What the first rank holds besides the job; the other ranks have next to nothing."""

    stop: StopRequests
    world: World = field(default_factory=World)
    name: str = ""
    """Of the run, on every rank, once it is open."""
    id: str = ""
    """Of this attempt, likewise."""
    clock: Clock = field(default_factory=Clock)
    run: Run | None = None
    bus: Bus = field(default_factory=Bus)
    publisher: Publisher | None = None
    job: Job | None = None
    ledger: Ledger | None = None
    is_superseded: bool = False
    """A newer attempt owns the run: nothing more may be written, not even this attempt's own end."""
    history: list[Record] = field(default_factory=list)
    """Ledger records of earlier attempts."""
    exporter: "Exporter | None" = None
    """Metrics of this process; on the first process of each node."""

    def end(self, code: int, reason: str, *, has_lost_peer: bool = False) -> None:
        """Write the last record of the attempt, let go of everything, wait for the last scrape; safe at any time."""
        self.is_superseded = code == SupersededError.exit_code
        if self.run:
            self._end_run(self.run, code, reason, has_lost_peer)
        if self.exporter and not self.is_superseded:
            so_far = self.stop.num_signals
            self.exporter.leave(code, lambda: self.stop.num_signals > so_far, self.stop.seconds_left())
        elif self.exporter:
            self.exporter.close()

    def _end_run(self, run: Run, code: int, reason: str, has_lost_peer: bool) -> None:
        if self.publisher:
            self.publisher.close(self._share_of_grace())
            self.publisher.poll()
        if self.ledger:
            self.ledger.end_seconds = min(self.ledger.end_seconds, self._share_of_grace() or math.inf)
        cursor = self.job.cursor if self.job else Cursor()
        self.bus.emit(TimeAccounted(epoch=cursor.epoch, step=cursor.step, seconds=self.clock.account()))
        seconds = self.clock.wall_seconds
        self.bus.emit(AttemptEnded(epoch=cursor.epoch, step=cursor.step, code=code, reason=reason, seconds=seconds))
        self.bus.close()
        if not self.is_superseded and self.stop.seconds_left() != 0:
            run.end(code, reason, has_lost_peer=has_lost_peer)

    def _share_of_grace(self) -> float | None:
        """Half of the time that is left before this process is killed; None where nobody is going to."""
        left = self.stop.seconds_left()
        return None if left is None else left / 2


def begin_attempt(settings: CommonSettings, world: World | None = None) -> Attempt:
    """An attempt that has nothing yet but its clock."""
    stop = StopRequests(settings.run.deadline_seconds, settings.run.grace_seconds)
    return Attempt(stop=stop, world=world or World())


@contextmanager
def ends_recorded(attempt: Attempt, settings: CommonSettings) -> Iterator[None]:
    """Whatever ends the attempt is written to the store; errors leave as the ones a user should see."""
    with signals_ask(attempt.stop):
        try:
            yield
        except BaseException as error:
            known = translate(error, settings, attempt.world)
            if isinstance(error, torch.OutOfMemoryError):
                attempt.bus.emit(OutOfMemory(batch_size=settings.batch_size, accumulation=settings.accumulation))
            reason = str(known) or type(known).__name__
            attempt.end(getattr(known, "exit_code", 1), reason, has_lost_peer=isinstance(known, PeerLostError))
            if known is error:
                raise
            raise known from error
        attempt.end(0, "complete")


def translate(error: BaseException, settings: CommonSettings, world: World) -> BaseException:
    """The error a user should see in place of one of torch's, if it is one that users meet."""
    if isinstance(error, torch.OutOfMemoryError):
        return RunError(
            f"the GPU has no memory left at batch_size {settings.batch_size} with accumulation "
            f"{settings.accumulation}; raise accumulation or lower batch_size"
        )
    if world.size > 1 and is_peer_loss(error):
        return PeerLostError(f"lost another process of this run: {str(error).splitlines()[0]}")
    return error


def export_metrics(settings: CommonSettings, attempt: Attempt) -> None:
    """Metrics for Prometheus from the first process of each node; those of the run from its first rank alone."""
    chosen, world, run = settings.telemetry.prometheus, attempt.world, attempt.run
    if world.local_rank or not is_on(chosen):
        return
    from trainer.telemetry.prometheus.exporter import Exporter  # prometheus_client, which no other run pays for
    from trainer.telemetry.prometheus.live import Sources

    store = run.store if run else None
    has_gpu = world.device.type == "cuda"
    sources = Sources(
        account=attempt.clock.peek,
        last_beat=lambda: attempt.job.watchdog.last_beat if attempt.job else None,
        requests=lambda: (store.requests, store.failed_requests) if isinstance(store, Counted) else None,
        gpu=(world.device.index or torch.cuda.current_device()) if has_gpu else None,
    )

    def say(text: str) -> None:
        if run:
            attempt.bus.emit(Noted(text=text))
        else:
            print(text, file=sys.stderr)

    attempt.exporter = exporter = Exporter(chosen, attempt.name, sources, say)
    if exporter.port:
        say(f"metrics are served on port {exporter.port}")
    if run:
        listener = exporter.listener(
            rules=rules(settings.task) if settings.telemetry.warnings else (),
            history=attempt.history,
            num_gpus=world.size if has_gpu else 0,
            grace_seconds=settings.run.grace_seconds,
            warn=say,
        )
        attempt.bus.add(listener)
