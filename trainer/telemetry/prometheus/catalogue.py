"""Every metric that a run exports, in the order of `/metrics`; code, dashboards, alerts and README keep to this list.

Names and labels are frozen by a test. All begin with `trainer_`, units are base units, and every series carries the
label `run`. What is not known yet has no series (the loss of a pass that never ran, a gradient norm before the first
log point); what is known not to be finite is NaN; counters and histograms are there from the start, with 0.
Counters begin at 0 with the process, but for those whose help says "of the run".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trainer.telemetry.events import REJECTIONS, TIME_KINDS

PREFIX = "trainer_"
RUN = "run"
"""The label that every series carries: the name of the run, so that pods and attempts of it can be brought together."""

DECLARED: tuple[str, ...] = ()
"""In place of a label's values: a closed set of the task (passes, `train`, names of metrics, terms of the loss)."""
FACT: tuple[str, ...] = ()
"""In place of a label's values: one value for the whole attempt."""

PHASES = ("start", "train", "validate", "checkpoint", "stop", "linger", "done")
"""What the attempt is doing.

`start` is everything before the first step, `stop` everything after the last one (publishing, export, report). The
last samples say `done` (complete, exit code 0) or `linger` (ended otherwise, waits for this scrape).
"""
RESULTS = ("ok", "error")
S3_OPERATIONS = ("put", "get", "head", "list", "delete", "multipart", "other")
DATA_ERRORS = ("skipped", "tolerated", "fatal")
"""Bad samples left out on request, known gaps of a public data set, and the one that ended the run."""
SEVERITIES = ("note", "warn", "stop")

STEP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WAIT_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
STALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG_BUCKETS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 21600.0)
UPLOAD_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

Kind = Literal["info", "gauge", "counter", "histogram"]


@dataclass(frozen=True)
class Family:
    """One metric: its name without the prefix, as it stands in a query (a histogram's without `_bucket`, `_sum`)."""

    kind: Kind
    name: str
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Labels beside `run`, each with its values, `DECLARED` or `FACT`."""
    buckets: tuple[float, ...] = ()
    everywhere: bool = False
    """Exported by the first process of every pod; all else by the run's first process alone."""

    @property
    def full_name(self) -> str:
        """Name of the family in `/metrics`."""
        return PREFIX + self.name

    @property
    def label_names(self) -> tuple[str, ...]:
        """All labels in order, `run` first."""
        return (RUN, *self.labels)

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the samples, as queries use them."""
        if self.kind != "histogram":
            return (self.full_name,)
        return tuple(f"{self.full_name}_{part}" for part in ("bucket", "sum", "count"))


def _info(name: str, text: str, *labels: str) -> Family:
    return Family("info", name, text, dict.fromkeys(labels, FACT), everywhere=True)


def _gauge(name: str, text: str, everywhere: bool = False, /, **labels: tuple[str, ...]) -> Family:
    return Family("gauge", name, text, {_label(label): values for label, values in labels.items()}, (), everywhere)


def _counter(name: str, text: str, /, **labels: tuple[str, ...]) -> Family:
    return Family("counter", name, text, {_label(label): values for label, values in labels.items()})


def _histogram(name: str, text: str, buckets: tuple[float, ...], /, **labels: tuple[str, ...]) -> Family:
    return Family("histogram", name, text, {_label(label): values for label, values in labels.items()}, buckets)


def _label(name: str) -> str:
    """`pass` is a word of Python and comes as `pass_`."""
    return name.rstrip("_")


FAMILIES: tuple[Family, ...] = (
    _info("build_info", "What is running: versions of the trainer, torch and CUDA, and the commit of the image.",
          "version", "git_sha", "torch", "cuda"),
    _info("run_info", "What is trained, by which attempt, on what; always 1.",
          "attempt", "task", "model", "dataset", "world_size", "precision", "device"),
    # Is it alive?
    _gauge("phase", "1 for what the attempt is doing now, 0 for the others.", True, phase=PHASES),
    _gauge("start_timestamp_seconds", "When the attempt began.", True),
    _gauge("last_step_timestamp_seconds", "When a step or a batch of an evaluation pass last ended.", True),
    _gauge("host_memory_resident_bytes", "Resident memory of the process that exports.", True),
    _gauge("cuda_memory_allocated_bytes", "GPU memory in tensors, on the GPU of the process that exports.", True),
    _gauge("cuda_memory_reserved_bytes", "GPU memory that torch holds, in use or cached.", True),
    _gauge("cuda_memory_max_allocated_bytes", "Peak of GPU memory in tensors since the last evaluation pass.", True),
    _gauge("gpus", "GPUs that the run uses; 0 on a CPU."),
    _gauge("attempts", "How many-th attempt of the run this is, from 1."),
    _gauge("resumed", "1 if this attempt went on from a checkpoint, else 0."),
    _gauge("resume_epoch", "Epochs that were done when this attempt went on."),
    _gauge("exit_code", "Exit code of the attempt; -1 while it goes on."),
    _counter("preemptions_total", "Attempts of the run that were told to stop (exit code 143)."),
    _counter("oom_total", "GPU out of memory."),
    # How far?
    _gauge("epoch", "Epochs done."),
    _gauge("epochs_target", "Epochs of the whole run."),
    _gauge("step", "Steps (optimizer updates) done."),
    _gauge("steps_target", "Steps of the whole run."),
    _gauge("progress_ratio", "Part of the run that is done, 0 to 1; 1 as well when an early stop has ended it."),
    _gauge("eta_seconds", "Time to the end of the run at the pace of this attempt so far."),
    # Does it learn?
    _gauge("loss", "Loss: of training the mean since the last log point, of a pass its newest value.", pass_=DECLARED),
    _gauge("metric", "Metrics of the task: of training the mean since the last log point, of a pass the newest value.",
           pass_=DECLARED, name=DECLARED),
    _gauge("epoch_loss", "Training loss, mean over the last whole epoch."),
    _gauge("epoch_metric", "Metrics of training, mean over the last whole epoch.", name=DECLARED),
    _gauge("best_metric", "Best value so far of the metric that chooses the best checkpoint.",
           pass_=DECLARED, name=DECLARED),
    _gauge("result", "Metrics of the last passes, with the best weights, once the training is over.",
           pass_=DECLARED, name=DECLARED),
    _gauge("term_loss", "Each term of the training loss before it is weighed, mean since the last log point; no series "
           "for a loss of one term.", term=DECLARED),
    _gauge("term_weight", "Weight of each term of the loss, where they are balanced.", term=DECLARED),
    _gauge("term_grad_norm", "Gradient norm of each term at what all share, running mean of what the balance measured.",
           term=DECLARED),
    _gauge("learning_rate", "Learning rate of the last step."),
    _gauge("grad_norm", "Gradient norm before clipping, of the last step of a log point."),
    _gauge("clipped_ratio", "Part of the steps since the last log point whose gradient was clipped."),
    _gauge("loss_scale", "Scale of the fp16 loss scaler; no series without one."),
    _counter("nonfinite_total", "Losses or gradients that were NaN or infinite."),
    _counter("skipped_steps_total", "Steps whose update was left out (loss scaler or non-finite gradient)."),
    _counter("warnings_total", "Warning signs by name.", name=DECLARED, severity=SEVERITIES),
    # Where does the time go?
    _counter("samples_total", "Samples that went through the model.", pass_=DECLARED),
    _counter("steps_total", "Steps trained, those that were done again included."),
    _counter("epochs_completed_total", "Epochs ended."),
    _counter("passes_total", "Evaluation passes ended.", pass_=DECLARED),
    _counter("redone_steps_total", "Steps of the run that were trained again after a restart or a rollback."),
    _counter("goodput_seconds_total", "Wall clock of the run by kind, all attempts and the time between them; goodput "
             "is productive over the sum.", kind=TIME_KINDS),
    _histogram("step_duration_seconds", "Step without waiting for data; the mean between two log points, once a step.",
               STEP_BUCKETS),
    _histogram("data_wait_seconds", "Wait of a step for its data; the mean between two log points, once a step.",
               WAIT_BUCKETS),
    _histogram("epoch_duration_seconds", "Training time of an epoch (this attempt's part of it).", LONG_BUCKETS),
    _histogram("pass_duration_seconds", "Evaluation pass.", LONG_BUCKETS, pass_=DECLARED),
    _counter("data_errors_total", "Bad samples found in the data set of the run.", kind=DATA_ERRORS),
    # Is it safe?
    _gauge("last_checkpoint_success_timestamp_seconds", "When a checkpoint of the run last became durable."),
    _gauge("checkpoint_interval_seconds", "Mean time between the checkpoints of this attempt; 0 before the second."),
    _gauge("checkpoint_size_bytes", "Size of the last checkpoint taken."),
    _gauge("store_outage_seconds", "How long the store has refused checkpoints; 0 when it does not."),
    _gauge("grace_needed_seconds", "Step, copy and upload of a checkpoint, the slowest of the last 20."),
    _gauge("grace_available_seconds", "Time between being told to stop and being killed."),
    _histogram("checkpoint_stall_seconds", "Time that training stood still for a checkpoint.", STALL_BUCKETS),
    _histogram("checkpoint_upload_duration_seconds", "From the copy of a checkpoint until it was durable.",
               UPLOAD_BUCKETS),
    _counter("checkpoint_uploads_total", "Tries to publish a checkpoint.", result=RESULTS),
    _counter("checkpoint_upload_bytes_total", "Bytes of published checkpoints."),
    _counter("checkpoint_rejected_total", "Checkpoints that failed verification and were stepped over.",
             reason=REJECTIONS),
    _counter("checkpoints_replaced_total", "Checkpoints that a newer one replaced before they were published."),
    _counter("s3_requests_total", "Requests to the store of the run, where it is S3, retries included.",
             op=S3_OPERATIONS, result=RESULTS),
)  # fmt: skip

CATALOGUE: Mapping[str, Family] = {family.name: family for family in FAMILIES}
"""The families by name without prefix."""
