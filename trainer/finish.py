"""What follows the last step: results with the best weights, exported model, report, COMPLETE."""

from torch import Tensor

from trainer.checkpoint import crash
from trainer.checkpoint.restore import load_checkpoint
from trainer.checkpoint.run import Run
from trainer.engine.checkpoints import load_weights
from trainer.engine.job import Job
from trainer.engine.passes import final_passes
from trainer.telemetry.events import Metrics


def finish(job: Job) -> tuple[dict[str, Metrics], dict[str, str]]:
    """Evaluate the best weights, export, report, mark the run complete; every rank takes part in the passes."""
    crash.point("before_finish")
    weights = best_weights(job.run) if job.run else None
    load_weights(job, weights)
    results = final_passes(job)
    paths: dict[str, str] = {}
    if job.run:
        job.run.complete({"step": job.cursor.step, "epoch": job.cursor.epoch, "best": job.best.state()})
    crash.point("after_finish")
    return results, paths


def best_weights(run: Run) -> dict[str, Tensor]:
    """Weights of the best checkpoint (their average where there is one); of the newest if no pass ever ran."""
    found = load_checkpoint(run.store, run.name, "best") or load_checkpoint(run.store, run.name, "latest")
    assert found is not None, "a finished run has a checkpoint"
    return found.tensors.get("ema", found.tensors["model"])
