"""The profile of an attempt: counts its steps, and puts table and trace where people find them."""

import tempfile
from pathlib import Path

from trainer.checkpoint.store import chunks_of
from trainer.engine.job import Job
from trainer.engine.phases import Profiler
from trainer.errors import TrainerError
from trainer.telemetry.events import ArtifactWritten, Noted, Profiled

FOLDER = "profile"
"""Of a run, for the traces of its attempts."""


def profile_step(job: Job) -> None:
    """Count a step, if there is a profile, and show it after the last measured one."""
    if job.profiler is None or job.profiler.is_done:
        return
    # Beginning and ending a measurement takes torch up to a second, which is no step's time.
    with job.clock.during("idle"):
        job.profiler.step_done()
        if job.profiler.is_done:
            _show(job, job.profiler)


def end_profile(job: Job) -> None:
    """Show what there is when the steps end before the profile does."""
    if job.profiler is None or job.profiler.is_done:
        return
    with job.clock.during("idle"):
        job.profiler.stop()
        _show(job, job.profiler)


def _show(job: Job, profiler: Profiler) -> None:
    """The table as an event, the trace as a file of the run; training goes on if the store does not take it."""
    result = profiler.result()
    if result is None:
        job.emit(Noted, text="nothing was profiled: the attempt had no more steps than profile.wait and profile.warmup")
        return
    job.emit(
        Profiled,
        num_steps=result.num_steps,
        seconds=result.seconds,
        phases=result.phases,
        operators=result.operators,
        peak_memory_bytes=result.peak_memory_bytes,
    )
    if job.run is None:
        return
    key = job.run.key(f"{FOLDER}/trace-{job.run.attempt}.json")
    with tempfile.TemporaryDirectory(prefix="trainer-profile-") as scratch:
        path = Path(scratch, "trace.json")
        profiler.write_trace(path)
        try:
            job.run.store.put(key, chunks_of(path))
        except TrainerError as error:
            job.emit(Noted, text=f"the trace of the profile is lost: {error}")
            return
    job.emit(ArtifactWritten, kind="trace", path=f"{job.run.store.url.removeprefix('file://')}/{key}")
