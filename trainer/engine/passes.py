"""What follows from passes: owed ones are run, and their metrics decide best, plateau and early stop."""

from contextlib import nullcontext

from trainer.checkpoint import crash
from trainer.engine.evaluate import run_pass
from trainer.engine.job import Job
from trainer.engine.task import Pass
from trainer.errors import Stopped
from trainer.telemetry.events import Metrics, Noted, PassDone, TimeAccounted


def run_owed_passes(job: Job) -> bool:
    """Run every owed pass in the task's order; True when one of them brought a new best.

    A pass that is interrupted by a stop stays owed: the next attempt runs it before it trains on.
    """
    has_new_best = False
    for a_pass in job.passes:
        if job.stopping or a_pass.name not in job.cursor.owed:
            continue
        crash.point("before_pass")
        metrics, is_best = measure(job, a_pass)
        if metrics is None:
            break
        job.cursor.owed.remove(a_pass.name)
        has_new_best |= is_best
        follow(job, a_pass.name, metrics)
        crash.point("after_pass")
    return has_new_best


def measure(job: Job, a_pass: Pass, is_final: bool = False) -> tuple[Metrics | None, bool]:
    """Run one pass on the weights that count (the average if there is one) and emit it; None when interrupted."""
    with nullcontext() if is_final or not job.ema else job.ema.swapped_in():
        done = run_pass(job, a_pass)
    if done is None:
        return None, False
    result, seconds, peak = done
    is_best = not is_final and bool(job.best.see(a_pass.name, result.metrics, job.cursor.step))
    job.emit(
        PassDone,
        name=a_pass.name,
        num_samples=len(a_pass.data),
        seconds=seconds,
        metrics=result.metrics,
        is_best=is_best,
        is_final=is_final,
        peak_memory_bytes=peak,
        detail=result.detail if is_best or is_final else result.always,
    )
    job.emit(TimeAccounted, seconds=job.clock.account())
    return result.metrics, is_best


def follow(job: Job, name: str, metrics: Metrics) -> None:
    """Let the schedule and the early stop see the metrics; equal on all ranks, so all decide alike."""
    job.schedule.see(name, metrics)
    reason = job.early_stop.see(name, metrics, job.cursor.step, job.rate)
    if reason and not job.is_done:
        job.emit(Noted, text=f"early stop: {reason}")
        job.ends_early = True


def final_passes(job: Job) -> dict[str, Metrics]:
    """All passes with the weights now in the model, for the table of results. Raises Stopped when told to stop."""
    results: dict[str, Metrics] = {}
    for a_pass in job.passes:
        metrics, _ = measure(job, a_pass, is_final=True)
        if metrics is None:
            reason = job.stopping[0] if job.stopping else "told to stop"
            raise Stopped(f"{reason}; the weights are published, the next start finishes the run")
        results[a_pass.name] = metrics
    return results
