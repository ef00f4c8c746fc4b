"""A log point: the only place where running sums leave the device, and one reduction over the ranks."""

from trainer.config.lengths import steps_of
from trainer.engine.job import Job
from trainer.engine.meter import finite
from trainer.telemetry.events import EpochDone, StepDone, TimeAccounted


def log_point(job: Job, indices: list[list[int]] | None, ends_epoch: bool) -> None:
    """Emit the means of the interval, and those of the epoch when it ends. Every rank takes part."""
    meter, account = job.meter, job.clock.account()
    totals, norms = meter.read(), meter.norms()
    spent = {kind: seconds - job.last_log.get(kind, 0.0) for kind, seconds in account.items()}
    seconds = max(spent["productive"] + spent["redone"] + spent["data_wait"], 1e-9)
    job.last_log = account
    num_steps, num_samples, num_skipped = meter.num_steps, meter.num_samples, meter.num_skipped
    weights = job.balance.weights if job.balance else {}
    means = meter.close_interval(totals, seconds, weights)
    limit = job.settings.optim.clip
    job.emit(
        StepDone,
        num_steps=num_steps,
        seconds=seconds,
        loss=means.loss,
        metrics=means.metrics,
        terms=means.terms,
        weights=dict(weights),
        norms=dict(job.balance.norms) if job.balance else {},
        curves={name: curve.at(job.cursor.step - 1) for name, curve in job.curves.items()},
        learning_rate=job.rate,
        grad_norm=finite(norms[-1]) if norms else None,
        max_grad_norm=finite(max(norms)) if norms else None,
        clipped_share=sum(norm > limit for norm in norms) / len(norms) if norms and limit else 0.0,
        loss_scale=job.precision.scaler.get_scale() if job.precision.scaler else None,
        skipped_steps=num_skipped,
        samples=job.cursor.samples,
        samples_per_second=num_samples / seconds,
        data_wait_seconds=spent["data_wait"],
        seconds_left=seconds_left(job, account),
        epoch_progress=job.cursor.batch / steps_of(job.steps_per_epoch, job.cursor.epoch),
        sample_ids=indices,
    )
    if ends_epoch:
        means, seconds, num_samples = meter.close_epoch(weights)
        pace = num_samples / seconds
        job.emit(EpochDone, loss=means.loss, metrics=means.metrics, seconds=seconds, samples_per_second=pace)
    job.emit(TimeAccounted, seconds=account)


def seconds_left(job: Job, account: dict[str, float]) -> float | None:
    """Time to the end of the run at this attempt's pace so far, passes and checkpoints included."""
    done = job.cursor.step - job.first_step
    if done <= 0:
        return None
    spent = sum(account.values()) - account["startup"]
    return spent / done * (job.total_steps - job.cursor.step)
