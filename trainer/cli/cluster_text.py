"""What `trainer status` and `trainer wait` print for people."""

import time
from collections.abc import Iterator, Sequence

from trainer.cli.output import print_table
from trainer.kube.cluster import Object
from trainer.kube.codes import in_words
from trainer.kube.pods import PodState, seconds
from trainer.kube.progress import Progress
from trainer.kube.status import INSTANCE_LABEL, JobStatus, summed_up
from trainer.telemetry.summary import Summary
from trainer.telemetry.text import duration, metrics_text, number, rate


def show_jobs(jobs: Sequence[Object], namespace: str) -> None:
    """One line a job."""
    if not jobs:
        print(f"no jobs of the trainer in namespace {namespace}; `trainer submit` makes one")
        return
    rows = [
        (
            (now := summed_up(job)).name,
            now.state,
            sum(now.replicas.values()),
            (job["metadata"].get("labels") or {}).get(INSTANCE_LABEL, "-"),
            _ago(job["metadata"]["creationTimestamp"]),
        )
        for job in jobs
    ]
    print_table(("job", "state", "pods", "run", "age"), rows, right=frozenset({2}))


def show_status(now: JobStatus, progress: Progress) -> None:
    """A job on one screen."""
    print(f"{now.name} in namespace {now.namespace}: {now.state} for {_ago(now.since)}")
    if now.code and any(pod.code == now.code for pod in now.pods):
        print(f"ended with {in_words(now.code)}")
    elif now.reason:
        print(now.reason)
    for line in _progress(progress):
        print(line)
    if now.pods:
        print_table(("pod", "state", "restarts", "node", "why"), [_row(pod) for pod in now.pods])
    elif now.state == "Suspended":
        print(f"no pods while it is stopped; `trainer resume {now.name}` goes on")
    for line in now.warnings:
        print(f"note: {line}")


def end_text(now: JobStatus) -> str:
    """How a job ended, in one line."""
    if now.state == "Succeeded":
        return f"{now.name}: Succeeded"
    why = next((f"{pod.replica} {pod.why}" for pod in now.pods if pod.code == now.code and pod.why), now.reason)
    return f"{now.name}: {now.state}, {why}"


def _row(pod: PodState) -> tuple[object, ...]:
    codes = ", ".join(map(str, dict.fromkeys(pod.earlier_codes)))
    restarts = f"{pod.restarts} ({codes})" if codes else pod.restarts
    return pod.replica, pod.state, restarts, pod.node or "-", pod.why


def _progress(progress: Progress) -> Iterator[str]:
    """The run behind the job."""
    where = f"run {progress.run} in {progress.store}" if progress.run else "run"
    if progress.summary is None:
        yield f"{where}: {progress.problem}"
        if "s3.endpoint" in progress.problem:
            yield "  from here it may have another address: --set s3.endpoint=URL"
    else:
        yield f"{where}: {_place(progress.summary)}"
        yield from _metrics(progress.summary)
    if progress.log_line:
        yield f"last line of its log: {progress.log_line}"


def _place(run: Summary) -> str:
    if run.status == "empty":
        return "nothing is recorded yet"
    left = f", {duration(run.seconds_left)} left" if run.seconds_left else ""
    epoch = f"epoch {min(run.epoch + 1, run.num_epochs)} of {run.num_epochs}"
    end = "" if run.code is None else f" ({in_words(run.code)})"
    attempts = f"attempt {run.num_attempts} {run.status}{end}"
    return f"step {run.step} of {run.total_steps}, {epoch}{left}; {attempts}"


def _metrics(run: Summary) -> Iterator[str]:
    if run.loss is not None:
        yield f"  train  loss {number(run.loss)}, {rate(run.samples_per_second)} samples/s"
    for name, metrics in run.passes.items():
        yield f"  {name}  {metrics_text(metrics, list(metrics)[:4])}"
    if run.best:
        yield f"  best {run.best.metric} {number(run.best.value)} at step {run.best.step}"
    if run.caveat:
        yield f"  no headline: {run.caveat}"
    if run.checkpoint:
        yield f"  newest checkpoint {run.checkpoint}"


def _ago(stamp: str) -> str:
    return duration(max(0.0, time.time() - seconds(stamp)))
