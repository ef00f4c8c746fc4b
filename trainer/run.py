"""One attempt of a run, from settings to exit code: what every door that trains goes through.

    settings ─► world ─► run (store, attempt), listeners ─► data, task ─► job ─► fit ─► finish ─► end of the attempt

Whatever happens, the end of the attempt is in the store, unless the process was killed. A run with a name is opened
before its data, so that a complete one fetches nothing and one that never survives its data gives up. A start without
a name asks for its data first: what has none makes no run.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trainer.attempt import Attempt, begin_attempt, ends_recorded, export_metrics
from trainer.checkpoint.attempts import get_json
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.opening import open_run
from trainer.checkpoint.outage import Retry
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.run import COMPLETE_FILE, Run
from trainer.checkpoint.spool import Spool, spool_folder
from trainer.checkpoint.stores import open_store
from trainer.config.digest import digest, matters
from trainer.config.notes import notes
from trainer.config.settings import CheckpointSettings, CommonSettings
from trainer.engine.describe import remarks, run_started
from trainer.engine.fit import fit
from trainer.engine.job import Job
from trainer.engine.setup import Parts, assemble, build_parts
from trainer.engine.task import Task, caveat_of
from trainer.engine.world import World, join_world
from trainer.errors import InfrastructureError, RunError, Stopped, SupersededError, TrainerError
from trainer.finish import finish
from trainer.tasks.registry import load, rules
from trainer.tasks.remote import fetch
from trainer.telemetry.events import Event, Metrics, Noted, SamplesLeftOut
from trainer.telemetry.ledger import Ledger
from trainer.telemetry.listeners import listeners
from trainer.telemetry.reading import highest, read_run, select

_LEDGER_SECONDS = 5.0
"""How long a checkpoint waits for the records before it; a store that takes none would not take it either."""
_STOPS: dict[int, type[TrainerError]] = {
    error.exit_code: error for error in (Stopped, InfrastructureError, SupersededError, RunError)
}


@dataclass(frozen=True)
class Finished:
    """A complete run: its name, its results by pass, and its files by kind (first rank only)."""

    run: str
    results: dict[str, Metrics] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    caveat: str = ""
    """Why the results are no headline; empty if they may be one."""


def train_settings(settings: CommonSettings) -> Finished:
    """Train the task of the settings. Raises the errors of `trainer.errors`, Stopped among them."""
    attempt = begin_attempt(settings)
    try:
        with ends_recorded(attempt, settings):
            with attempt.stop.at_once():
                attempt.world = join_world(settings)
            if settings.run.name and (done := open_on_first(settings, attempt)):
                return done
            with attempt.stop.at_once():
                task = make_task(settings, attempt.world)
            return go_through(task, settings, attempt)
    finally:
        attempt.world.leave()


def train_task(task: Task, settings: CommonSettings, world: World, parts: Parts | None = None) -> Finished:
    """One attempt of a task whose data are open; `parts` are what a caller of `train(...)` brings along."""
    attempt = begin_attempt(settings, world)
    with ends_recorded(attempt, settings):
        return go_through(task, settings, attempt, parts)


def make_task(settings: CommonSettings, world: World) -> Task:
    """The task with its data; the first rank opens them first, because opening may pack them into a cache."""
    if fetch(settings):
        world.wait_for_slowest()
    create = load(settings.task).create
    task: Task | None = create(settings) if world.is_first else None
    world.wait_for_all()
    return task or create(settings)


def open_on_first(settings: CommonSettings, attempt: Attempt, model_name: str = "") -> Finished | None:
    """The first rank opens the run; the result if it is complete already, on every rank."""
    if attempt.world.is_first:
        open_attempt(settings, attempt, model_name)
    run = attempt.run
    shared = (run.name, run.attempt, run.is_complete) if run else None
    attempt.name, attempt.id, is_complete = attempt.world.share(shared)
    if is_complete:
        return complete_already(settings, attempt)
    export_metrics(settings, attempt)
    return None


def go_through(task: Task, settings: CommonSettings, attempt: Attempt, parts: Parts | None = None) -> Finished:
    """The attempt proper."""
    world = attempt.world
    if not attempt.name and (done := open_on_first(settings, attempt, task.model_name)):
        return done
    if attempt.run:
        attempt.publisher = make_publisher(attempt, attempt.run, settings.checkpoint, world.size)
    if settings.run.init_from and world.share(bool(select(attempt.history, "CheckpointPublished"))):
        settings.run.init_from = None  # the run has weights of its own, and the file may be gone
    parts = parts or build_parts(task, settings, world)
    job = assemble(
        task, settings, world, parts, attempt.bus, attempt.run, attempt.publisher, attempt.clock, attempt.stop
    )
    attempt.job = job
    job.highest_step = highest(attempt.history)
    introduce(job, attempt)
    outcome = fit(job)
    if outcome.code:
        raise _STOPS[outcome.code](outcome.reason)
    results, paths = finish(job, attempt.ledger)
    return Finished(attempt.name, results, paths, caveat_of(task))


def introduce(job: Job, attempt: Attempt) -> None:
    """Say what is trained, and what a user should know once."""
    started = run_started(job, attempt.name, attempt.id)
    refuse_other_data(job, attempt, started.info)
    if attempt.exporter:
        attempt.exporter.describe(started)
    job.events.emit(started)
    for text in [*notes(job.settings), *remarks(job)]:
        job.emit(Noted, text=text)
    left_out: dict[str, int] = getattr(job.task, "left_out", {})
    if any(left_out.values()):
        job.emit(SamplesLeftOut, num_skipped=left_out["skipped"], num_tolerated=left_out["tolerated"])


def refuse_other_data(job: Job, attempt: Attempt, info: dict[str, Any]) -> None:
    """A run that was found by its name, before its data, is compared with them here, on every rank.

    Raises RunError as for other settings: once there is a checkpoint, unless `run.resume_with_changes` asks for it.
    """
    before = [one["info"] for one in select(attempt.history, "RunStarted")][-1:]
    pairs = [(one.get(name), info.get(name)) for one in before for name in ("data_digest", "tree_digest")]
    changed = ", ".join(f"digest {old} before, {new} now" for old, new in pairs if old and new and old != new)
    if not job.world.share(bool(changed and select(attempt.history, "CheckpointPublished"))):
        return
    if not job.settings.run.resume_with_changes:
        raise RunError(
            f"run {attempt.name} in {job.settings.run.store} was trained on other data ({changed}). Choose another "
            "run.name, or go on with these by --resume-with-changes"
        )
    job.emit(Noted, text=f"run {attempt.name} goes on with other data ({changed})")


def complete_already(settings: CommonSettings, attempt: Attempt) -> Finished:
    """Nothing is left to do; where everything is stands in COMPLETE."""
    if attempt.run is None:
        return Finished(attempt.name)
    record = get_json(attempt.run.store, attempt.run.key(COMPLETE_FILE)) or {}
    where = f"run {attempt.name} in {settings.run.store}"
    print(f"{where} is complete already; more num_epochs or max_steps go on with it")
    return Finished(attempt.name, paths=record.get("paths", {}), caveat=record.get("caveat", ""))


def open_attempt(settings: CommonSettings, attempt: Attempt, model_name: str) -> None:
    """Open the store, find or make the run, and set up who listens. First rank only.

    `model_name` becomes part of the name of a run that has none.
    """
    store = open_store(settings.run.store, settings.s3)
    flat = matters(settings)
    early: list[Event] = []
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    attempt.run = open_run(
        store,
        name=settings.run.name,
        default_name=f"{settings.task}-{model_name}-{stamp}",
        task=settings.task,
        config=settings.model_dump(mode="json"),
        matters=flat,
        digest=digest(flat),
        resume=settings.run.resume,
        resume_with_changes=settings.run.resume_with_changes,
        max_dead_attempts=settings.run.max_dead_attempts,
        length={"num_epochs": settings.num_epochs, "max_steps": settings.max_steps},
        events=early.append,
    )
    run = attempt.run
    if run.is_complete:
        return
    attempt.history = read_run(store, run.name)
    found = listeners(
        settings.telemetry,
        put=lambda key, data: None if attempt.is_superseded else store.put(run.key(key), [data]),
        emit=attempt.bus.emit,
        run=run.name,
        attempt=run.attempt,
        folder=store.path / run.name if isinstance(store, FileStore) else None,
        rules=rules(settings.task),
        history=attempt.history,
    )
    attempt.bus.add(*found)
    for event in early:  # said before anybody could listen
        attempt.bus.emit(event)
    attempt.ledger = next(listener for listener in found if isinstance(listener, Ledger))


def make_publisher(attempt: Attempt, run: Run, settings: CheckpointSettings, world_size: int) -> Publisher:
    """The publisher for a store of any kind, after what an earlier attempt could not publish is in the store.

    The ledger is stored before each checkpoint: whoever goes on from it finds every record up to it.
    """
    bus, ledger = attempt.bus, attempt.ledger
    folder = spool_folder(settings.spool, run.store)
    spool = Spool(folder, run) if folder else None
    for name in spool.publish_left_behind() if spool else []:
        bus.emit(Noted(text=f"checkpoint {name} was published from the spool in {folder}"))
    return Publisher(
        run,
        keep_last=settings.keep_last,
        keep_best=settings.keep_best,
        emit=bus.emit,
        world_size=world_size,
        retry=Retry() if run.store.has_locks else Retry(tries=None, outage_seconds=settings.outage_seconds),
        spool=spool,
        settle=lambda: ledger and ledger.flush(_LEDGER_SECONDS),
    )
