"""What follows the last step: results with the best weights, exported model, report, COMPLETE.

Nothing here can lose a trained model: what an export or a report lacks is said, and the run is complete without it.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainer.checkpoint import crash
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.outage import Result, patiently
from trainer.checkpoint.restore import Restored, load_checkpoint
from trainer.checkpoint.run import Run
from trainer.checkpoint.store import Store, chunks_of
from trainer.engine.checkpoints import load_weights
from trainer.engine.job import Job
from trainer.engine.passes import final_passes
from trainer.engine.task import caveat_of
from trainer.errors import InfrastructureError, TrainerError
from trainer.tasks.exporting import write_beside
from trainer.tasks.registry import TASKS, load
from trainer.telemetry.events import ArtifactWritten, Metrics, Noted
from trainer.telemetry.ledger import Ledger

NUM_CHECKED_SAMPLES = 32
"""Real samples on which an exported model is compared with the original."""
_FLUSH_SECONDS = 30.0
Paths = dict[str, str]


def finish(job: Job, ledger: Ledger | None) -> tuple[dict[str, Metrics], Paths]:
    """Results by pass and the paths of what was written by kind; every rank takes part in the passes."""
    crash.point("before_finish")
    best = patient(job, best_checkpoint)
    load_weights(job, best)
    results = final_passes(job)
    paths: Paths = {}
    if job.run and best and ledger:
        steps = [lambda: export(job, best, results), lambda: report(job, ledger)]
        if job.foreign:
            steps.append(lambda: plain_weights(job, best))
        for step in steps:
            paths |= said_if_it_fails(job, step)
        record = {"step": job.cursor.step, "epoch": job.cursor.epoch, "best": job.best.state(), "paths": paths}
        caveat = caveat_of(job.task)
        patient(job, lambda run: run.complete(record | ({"caveat": caveat} if caveat else {})))
    crash.point("after_finish")
    return results, paths


def patient(job: Job, work: Callable[[Run], Result]) -> Result | None:
    """Work with the store as long as a checkpoint would be tried, or until told to stop; first rank only."""
    if job.run is None or job.publisher is None:
        return None
    run = job.run
    return patiently(job.publisher.retry, lambda: work(run), lambda: job.stop.code is not None)


def best_checkpoint(run: Run) -> Restored:
    """The best checkpoint; the newest if no pass ever measured the metric."""
    found = load_checkpoint(run.store, run.name, "best") or load_checkpoint(run.store, run.name, "latest")
    assert found is not None, "a run that reached its end has a checkpoint"
    return found


def said_if_it_fails(job: Job, step: Callable[[], Paths]) -> Paths:
    """Paths of what the step wrote; an error that a retry will not mend becomes a note."""
    try:
        paths = patient(job, lambda _: step()) or {}
    except TrainerError as error:
        if isinstance(error, InfrastructureError) and job.run and not job.run.store.has_locks:
            raise  # the next attempt does it, as the run is not complete yet
        job.emit(Noted, text=f"left out: {error}")
        return {}
    for kind, path in paths.items():
        job.emit(ArtifactWritten, kind=kind, path=path)
    return paths


def export(job: Job, best: Restored, results: dict[str, Metrics]) -> Paths:
    """Write the model in the formats of `output.export` into the store, below `export/`."""
    formats = job.settings.output.export
    if job.task.name not in TASKS or not formats or job.run is None:
        return {}
    paths: Paths = {}
    with tempfile.TemporaryDirectory(prefix="trainer-export-") as scratch:
        written = load(job.task.name, "export").export_model(
            job.settings,
            job.task.info(),
            best.tensors.get("ema", best.tensors["model"]),
            Path(scratch),
            formats,
            samples=job.task.samples(NUM_CHECKED_SAMPLES),  # type: ignore[attr-defined]  # of tasks that export
            epoch=max(1, best.epoch),
            metrics=results,
        )
        written += write_beside(best.files, Path(scratch))
        for one in written:
            key = job.run.key(f"export/{one.path.relative_to(scratch).as_posix()}")
            job.run.store.put(key, chunks_of(one.path))
            paths[f"model ({one.kind})"] = location(job.run.store, key)
            if one.max_difference is not None:
                text = f"{one.kind}: largest difference of a logit to torch {one.max_difference:.1e}"
                job.emit(Noted, text=f"{text} over {one.num_samples} real samples")
    return paths


def report(job: Job, ledger: Ledger) -> Paths:
    """Build the report out of the ledger and put it into the store, below `report/`."""
    if not job.settings.output.report or job.run is None:
        return {}
    from trainer.report.build import write_report

    ledger.flush(_FLUSH_SECONDS)
    page, *_ = write_report(job.run.store, job.run.name)
    return {"report": location(job.run.store, page)}


def plain_weights(job: Job, best: Restored) -> Paths:
    """The best weights of `train(...)` as people know them: a tensors-only `.pth` in a folder with a time stamp.

    Beside it lie the diagnostics picture and the classification table, if the model gives class logits.
    """
    assert job.run is not None
    store = job.run.store
    top = store.path if isinstance(store, FileStore) else Path("checkpoints").absolute()
    folder = top / f"checkpoint_{time.strftime('%b%d_%H-%M-%S')}-{job.task.model_name}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{max(1, best.epoch)}.pth"
    torch.save({"model": best.tensors.get("ema", best.tensors["model"])}, path)
    for entry in store.entries(job.run.key("report/")):
        if entry.key.endswith("-Model_Diagnostics.jpg"):
            Path(f"{path}-Model_Diagnostics.jpg").write_bytes(store.get(entry.key))
        elif entry.key.endswith("classification_report.csv"):
            Path(f"{path} - classification_report.csv").write_bytes(store.get(entry.key))
    return {"weights": str(path)}


def location(store: Store, key: str) -> str:
    """A path for a file store, relative to the working directory if it lies below; else the URL."""
    if not isinstance(store, FileStore):
        return f"{store.url}/{key}"
    path = store.path / key
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
