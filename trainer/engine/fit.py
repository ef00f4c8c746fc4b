"""The loop.

    restore ─► owed passes ─►
      step … step ─► log? ─► passes due ─► best? early stop? ─► checkpoint? ─► stop?
    ─► last checkpoint published ─► passes with the best weights

Everything that is due is a pure function of the cursor, and owed passes are part of it, so the loop starts in the
same way whether the run is new, was stopped, or was killed at any instruction.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.checkpoint import crash
from trainer.data.prefetch import Prefetcher
from trainer.engine.checkpoints import (
    RESCUE_SHARE,
    checkpoint,
    go_on_from_checkpoint,
    publish_all,
    roll_back,
    warm_buffers,
)
from trainer.engine.job import Job
from trainer.engine.logpoint import log_point
from trainer.engine.memory import collect, collector_by_hand, empty_cache, freeze_objects, keep_freed_memory
from trainer.engine.passes import run_owed_passes
from trainer.engine.profile import end_profile, profile_step
from trainer.engine.source import StepBatch
from trainer.engine.step import Mailbox, Verdict, train_step, warm_up
from trainer.errors import RunError, SupersededError
from trainer.telemetry.events import Balanced, NonFinite, Noted, Stopping


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: 0 and the length reached, or the code and reason of a stop."""

    code: int
    reason: str


def fit(job: Job) -> Outcome:
    """Train from wherever the run is to its end, or until all ranks agree to stop.

    Raises the errors of `trainer.errors`; whatever happened before one is in the store up to the last checkpoint.
    """
    keep_freed_memory(job.world.device)
    with job.watchdog.watching(), collector_by_hand():
        go_on_from_checkpoint(job)
        if job.is_done and not job.cursor.owed:
            job.emit(Noted, text=f"the run has its {job.total_steps} steps already; nothing to train")
        catch_up(job)
        while not (job.is_done or job.stopping):
            job.rolled_back = False
            # Anew after a rollback: what is still under way is the verdict of a step that never was.
            mailbox = Mailbox(is_late=job.world.device.type == "cuda" and job.guard.policy != "skip")
            for batch in incoming(job):
                verdict = None if job.cursor.step in job.cursor.left_out else train_step(job, mailbox, batch)
                advance(job, batch)
                heed(job, verdict)
                finish_step(job, mailbox, batch)
                if job.stopping or job.rolled_back:
                    break
            catch_up(job)
        end_profile(job)
        return leave_loop(job)


def catch_up(job: Job) -> None:
    """Passes that a checkpoint owes, and the end of the epoch behind them, before anything is trained on it."""
    if job.cursor.owed and not job.stopping:
        at_boundary(job, is_due=False, ends_epoch=job.cursor.batch == 0)


def incoming(job: Job) -> Iterator[StepBatch]:
    """Batches from the cursor on; the time spent waiting for them is charged to `data_wait`."""
    batches = Prefetcher(job.source.walk(job.cursor, job.settings.num_epochs), job.prefetch_depth)
    is_first = job.clock.kind == "startup"
    try:
        while not job.is_done:
            if not is_first:
                job.clock.switch("data_wait")
            with job.phase("data wait"):
                chunk = next(batches)
            if is_first:
                warm_up(job, chunk[0])
            for batch in chunk:
                if job.clock.kind != job.work:
                    job.clock.switch(job.work)
                yield batch
                if is_first:
                    is_first = False
                    freeze_objects()
                    warm_buffers(job)
                    job.watchdog.first_step_done()
                if job.is_done:
                    break
    finally:
        batches.close()


def advance(job: Job, batch: StepBatch) -> None:
    """Move the cursor behind the step and note what became due."""
    cursor = job.cursor
    cursor.step += 1
    cursor.samples += batch.num_samples
    cursor.epoch, cursor.batch = (cursor.epoch + 1, 0) if batch.ends_epoch else (cursor.epoch, cursor.batch + 1)
    cursor.owed += [name for name, moments in job.moments.passes.items() if moments.due(cursor.step)]
    if job.settings.telemetry.sample_ids and batch.indices is not None:
        job.sample_ids.append(batch.indices.tolist())
    profile_step(job)
    job.watchdog.beat()


def heed(job: Job, verdict: Verdict | None) -> None:
    """Act on what all ranks know about a step: stop, leave it out, or go back."""
    if verdict is None:
        return
    # On CUDA two verdicts may come in one step; the second must not take back what the first decided.
    job.stopping = job.stopping or job.stop.agreed(verdict.flags if job.world.size > 1 else job.stop.flags())
    if verdict.is_finite:
        job.early_stop.see_norm(verdict.norm)
    if verdict.is_finite or job.precision.scaler:
        return
    action = job.guard.decide()
    indices = verdict.batch.indices
    job.emit(
        NonFinite,
        what=f"gradient norm {verdict.norm} in step {verdict.step}",
        policy=action,
        used=job.guard.used,
        budget=job.guard.budget,
        sample_ids=[] if indices is None else indices.tolist(),
    )
    if action == "stop":
        reason = f"the gradient of step {verdict.step} was not finite; lower optim.lr or add warm-up"
        job.stopping = (reason, RunError.exit_code)
        job.is_spoilt = True
    elif action == "rollback":
        roll_back(job, verdict.step)


def finish_step(job: Job, mailbox: Mailbox, batch: StepBatch) -> None:
    """What may be due after a step: new weights of loss terms, log point, checkpoint, passes, stop."""
    if job.rolled_back:
        return
    step = job.cursor.step
    is_due = job.moments.checkpoint.due(step) or job.moments.milestone.due(step)
    is_boundary = batch.ends_epoch or job.is_done or is_due or bool(job.cursor.owed)
    is_logged = job.moments.log.due(step) or batch.ends_epoch or job.is_done
    if is_boundary or is_logged or job.stopping:
        # Nothing may be kept, judged or told before the last verdict is in.
        heed(job, mailbox.collect())
        if job.rolled_back:
            return
    if job.balance and job.balance.is_due(step) and step - 1 not in job.cursor.left_out:
        job.emit(Balanced, weights=dict(job.balance.weights), norms=dict(job.balance.norms))
    if is_logged or job.stopping:
        log_point(job, job.taken_sample_ids(), batch.ends_epoch)
    if job.publisher:
        job.publisher.poll()
        if job.publisher.error:
            job.stop.ask(str(job.publisher.error), job.publisher.error.exit_code)
    if is_boundary:
        with job.phase("passes and checkpoints"):
            at_boundary(job, is_due, batch.ends_epoch)


def at_boundary(job: Job, is_due: bool, ends_epoch: bool) -> None:
    """Owed passes and checkpoints: once before the passes, so that a kill in them costs no step, once for a best.

    An epoch ends when nothing of it is owed any more, also in a run that stops here: what is published then must know.
    """
    owes = bool(job.cursor.owed)
    if is_due and owes and not (job.is_done or job.stopping):
        checkpoint(job)
    has_new_best = run_owed_passes(job)
    if ends_epoch and not job.cursor.owed:
        job.schedule.epoch_done()
        crash.point("after_epoch")
    if not job.stopping and (has_new_best or job.is_done or (is_due and not owes)):
        checkpoint(job)
    if owes and not job.stopping:
        collect()
        empty_cache(job.world.device, job.settings.empty_cache)


def leave_loop(job: Job) -> Outcome:
    """Publish what is not yet published, wait for the first rank, and say how it ended."""
    job.clock.switch("idle")
    if job.stopping is None:
        publish_all(job)
        return Outcome(0, "complete")
    reason, code = job.stopping
    job.emit(Stopping, reason=reason, code=code)
    if code != SupersededError.exit_code and not job.is_spoilt:
        checkpoint(job, timeout=job.stop.seconds_left(RESCUE_SHARE))
        publish_all(job)
    job.world.wait_for_all()
    return Outcome(code, reason)
