"""The settings every task shares, section by section in the order of a run; a task adds data, model and loss.

Moments ("every 500 steps", "at 10%, 50%", "each 2 epochs", "never") and curves ("0 @ 0, 1 @ 10% linear") are texts in
the grammar of `config.expressions`; amounts are "500 steps", "10%", "2 epochs" or a bare number of steps.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from trainer.config.base import Section, setting
from trainer.config.expressions import Amount
from trainer.config.prometheus import PrometheusSettings
from trainer.config.resume import without_path
from trainer.config.s3 import S3Settings
from trainer.config.texts import AmountText, CurveText, PatienceText, TriggerText


class RunSettings(Section):
    """Which run a start belongs to and where its files live."""

    name: str | None = setting(None, flag="--run_name", matters=False, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run; without one the newest unfinished run of equal digest is resumed, else a new one is made."""
    store: str = setting("file://checkpoints", flag="--store", matters=False)
    """Where runs live: `file:///folder`, `file://folder` below the working directory, or `s3://bucket/prefix`."""
    resume: Literal["auto", "required", "never"] = setting("auto", flag="--resume", matters=False)
    """`required` refuses to start anew; `never` refuses to go on (the run must be new). Or a path: the folder of a run
    goes on (`run.store` and `run.name`), a file of weights begins a new one (`run.init_from`)."""
    resume_with_changes: bool = setting(False, flag="--resume-with-changes", matters=False)
    """Go on with a run whose settings differ in something that matters; the difference is printed and recorded."""
    init_from: str | None = setting(None)
    """Start from the weights of a checkpoint folder, `.safetensors` or `.pth` file (fine-tuning)."""
    init_allow: list[str] = setting([])
    """Patterns of parameter names that may be missing or of another shape in `init_from` (e.g. `fc.*`)."""
    deadline_seconds: float | None = setting(None, gt=0, matters=False)
    """Stop with a published checkpoint this long after the start of the attempt (exit 143)."""
    grace_seconds: float = setting(30.0, gt=0, matters=False)
    """Time between being told to stop (SIGTERM) and being killed; in a pod its `terminationGracePeriodSeconds`."""
    max_dead_attempts: int = setting(5, ge=1, matters=False)
    """Attempts in a row that were killed or lost a process, without a new checkpoint; the next start gives up (4)."""

    @model_validator(mode="before")
    @classmethod
    def _read_path(cls, values: Any) -> Any:
        return without_path(values) if isinstance(values, dict) else values


class ParameterGroup(Section):
    """Parameters that are trained in their own way; what is left out they have in common with all others."""

    match: list[str] = setting(min_length=1)
    """Patterns of parameter names (e.g. `trunk.*`); the first group that matches takes a parameter."""
    name: Literal["adam", "adamw", "sgd"] | None = setting(None)
    """Its own optimizer."""
    factor: float = setting(1.0, ge=0)
    """Multiplies `optim.lr`."""
    weight_decay: float | None = setting(None, ge=0)
    curve: CurveText | None = setting(None)
    """Its own course of the rate, in place of `schedule`."""


class OptimSettings(Section):
    """The optimizer; `adam` couples weight decay to the gradient (L2), `adamw` does not."""

    name: Literal["adam", "adamw", "sgd"] = setting("adam")
    lr: float = setting(1e-3, gt=0, flag="--lr")
    """Base learning rate; the schedule multiplies it."""
    weight_decay: float = setting(1e-4, ge=0, flag="--weight_decay")
    """Pull of the weights towards zero."""
    no_decay: list[str] = setting([])
    """Patterns of parameter names without weight decay (e.g. `*norm*`, `*.bias`)."""
    freeze: list[str] = setting([])
    """Patterns of parameter names that are not trained."""
    groups: list[ParameterGroup] = setting([])
    """Parameters with an optimizer, rate or curve of their own."""
    betas: tuple[float, float] = setting((0.9, 0.999))
    eps: float = setting(1e-8, gt=0)
    momentum: float = setting(0.9, ge=0, lt=1)
    """For `sgd` only."""
    nesterov: bool = setting(False)
    """For `sgd` only."""
    clip: float | None = setting(1.0, gt=0)
    """Largest global gradient norm; null switches clipping off."""
    lr_scaling: Literal["none", "sqrt", "linear"] = setting("none")
    """How the rate grows with `batch_size / reference_batch`."""
    reference_batch: int = setting(64, ge=1)

    @model_validator(mode="after")
    def _check_optimizer(self) -> "OptimSettings":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas must lie in [0, 1), got {list(self.betas)}")
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("optim.nesterov needs an optim.momentum above 0")
        return self


class ScheduleSettings(Section):
    """The learning rate over the run, as a factor on `optim.lr`."""

    name: Literal["noam", "plateau", "cosine", "linear", "step", "wsd", "inverse_sqrt", "constant", "curve"] = setting(
        "plateau"
    )
    """`wsd` is warm-up, stable, decay (along half a cosine)."""
    warmup: AmountText = setting("0 steps")
    """Length of the linear warm-up before the schedule proper."""
    warmup_from: float = setting(0.0, ge=0)
    """Factor at step 0 of the warm-up."""
    floor: float = setting(0.0, ge=0)
    """Factor at the end of cosine, linear and wsd; smallest factor of plateau."""
    width: int | None = setting(None, ge=1)
    """For `noam`: the width d of the model; `translation` takes its own if this is null."""
    interval: AmountText = setting("30%")
    """For `step`: length between two multiplications of the rate."""
    stable: float = setting(0.8, ge=0, le=1)
    """For `wsd`: share of the steps after the warm-up that keep the full rate."""
    decay: float = setting(0.2, gt=0, le=1)
    """For `wsd`: share of them in which the rate then falls to the floor, where it stays."""
    curve: CurveText | None = setting(None)
    """For `curve`: the factor as an expression, e.g. `1 @ 0, 1 @ 50%, 0.01 @ 100% cosine`."""
    metric: str | None = setting(None)
    """For `plateau`: the `pass/metric` it watches; default the task's validation loss."""
    factor: float = setting(0.2, gt=0, lt=1)
    """For `plateau` and `step`: what the rate is multiplied with."""
    patience: int = setting(3, ge=0)
    """For `plateau`: values without improvement that are tolerated."""
    threshold: float = setting(1e-4, ge=0)
    """For `plateau`: relative improvement that counts."""

    @model_validator(mode="after")
    def _check_curve(self) -> "ScheduleSettings":
        if self.name == "curve" and self.curve is None:
            raise ValueError("schedule.name is curve, so schedule.curve must say it, e.g. '1 @ 0, 0.01 @ 100% cosine'")
        if self.name == "step" and Amount.parse(self.interval).number == 0:
            raise ValueError(f"schedule.interval is {self.interval!r}; it must be above zero")
        if self.name == "wsd" and self.stable + self.decay > 1:
            raise ValueError(f"schedule.stable {self.stable} and schedule.decay {self.decay} are more than 1 together")
        return self


class BalanceSettings(Section):
    """How much each term of the loss counts, for tasks whose loss has several."""

    kind: Literal["none", "fixed", "gradnorm", "inverse_density", "uncertainty"] = setting("none")
    """`fixed`: as `weights` say; `gradnorm`: by the norms of the gradients at the shared trunk; `inverse_density`: 1 /
    share of the samples that have the term; `uncertainty`: learned log-variances."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = setting({})
    """For `fixed`, and to start from with `gradnorm`, by name of the term; 1 for what is not named."""
    every: TriggerText = setting("every 100 steps")
    """When `gradnorm` and `uncertainty` measure and move the weights. They do so in the first step, too, because its
    losses are the reference of all later ones."""
    alpha: float = setting(1.0, ge=0)
    """For `gradnorm`: how strongly a term that has gained less than the others pulls; 0 only evens out the norms."""
    eta: float = setting(0.5, ge=0, le=1)
    """How far a measurement moves the weights; 0 only measures."""
    floor: float = setting(0.1, ge=0, lt=1)
    """For `gradnorm`: smallest weight; without one a solved term would draw all weight."""
    momentum: float = setting(0.9, ge=0, lt=1)
    """For `gradnorm`: share of the old value in the running means of losses and norms."""

    @model_validator(mode="after")
    def _check_every(self) -> "BalanceSettings":
        if self.kind in ("gradnorm", "uncertainty") and self.every.strip().lower() == "never":
            raise ValueError(f"balance.every is never, but {self.kind} must measure to weigh; take balance.kind fixed")
        return self


class EmaSettings(Section):
    """Exponential moving average of the weights, used in passes, best and export when on."""

    enabled: bool = setting(False)
    decay: float = setting(0.999, gt=0, lt=1)
    every: int = setting(1, ge=1)
    """Steps between updates of the average."""


class PrecisionSettings(Section):
    """Number formats and kernels."""

    amp: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto", flag="--precision")
    """`auto`: bf16 on CUDA (fp16 where the GPU has no bf16), fp32 on CPU and Apple."""
    tf32: bool = setting(True)
    """Allow TF32 in fp32 matrix products on CUDA."""
    compile: bool = setting(False, matters=False)
    """torch.compile the model."""
    init_scale: float = setting(65536.0, gt=0)
    """First loss scale of fp16."""


class BestSettings(Section):
    """Which checkpoint is the best."""

    metric: str | None = setting(None)
    """`pass/metric`, default the task's validation loss; an empty pass or NaN is never best."""
    mode: Literal["auto", "min", "max"] = setting("auto")
    """`auto` takes the direction that the task declares for the metric."""


class EarlyStopSettings(Section):
    """When to stop before the end; off unless a limit is set. The run is complete then, with its best weights."""

    patience: PatienceText | None = setting(None)
    """Longest time without improvement: `5 epochs`, `2000 steps`, or `3 passes` (values of the metric)."""
    metric: str | None = setting(None)
    """Default: the metric of `best`. All of this is looked at when a pass has brought a new value of it."""
    mode: Literal["auto", "min", "max"] = setting("auto")
    """`auto` takes the direction that the task declares for the metric."""
    min_delta: float = setting(0.0, ge=0)
    """Gain that counts; strictly more than this."""
    max_loss: float | None = setting(None, gt=0)
    """Stop when the `loss` of that pass is above this."""
    min_lr: float | None = setting(None, gt=0)
    """Stop when the learning rate has fallen below this (never during warm-up)."""
    max_grad_norm: float | None = setting(None, gt=0)
    """Stop when a gradient norm since the last value was above this (before clipping)."""


class NonFiniteSettings(Section):
    """What happens when a loss or gradient is NaN or infinite."""

    policy: Literal["stop", "skip", "rollback"] = setting("stop")
    """`stop` ends with 4; `skip` leaves the update out; `rollback` returns to the last good checkpoint and leaves
    out the offending step there."""
    budget: int = setting(10, ge=1)
    """Skips or rollbacks before the run ends with 4."""


class CheckpointSettings(Section):
    """When checkpoints are taken and which are kept."""

    every: TriggerText = setting("every 1 epochs and end", matters=False)
    keep_last: int = setting(3, ge=2, matters=False)
    """At least 2: the newest may still be in flight."""
    milestones: TriggerText = setting("never", matters=False)
    """Checkpoints at these moments are kept for good."""
    keep_best: bool = setting(True, matters=False)
    outage_seconds: float = setting(3600.0, gt=0, matters=False)
    """How long a store over the network may fail before the run stops with 170; training goes on meanwhile."""
    spool: str = setting("auto", matters=False)
    """Folder on this machine for checkpoints that such a store does not take; `auto`: in the system's temporary
    folder, `off`: none."""


class WatchdogSettings(Section):
    """Ends a process that no longer makes steps: dumps all stacks and exits 170."""

    step_seconds: float = setting(600.0, ge=0, matters=False)
    """Longest time without a step or evaluation batch; 0 switches it off."""
    first_step_seconds: float = setting(1800.0, ge=0, matters=False)
    """The same until the first step of an attempt is done (compile, first rendezvous)."""


class TelemetrySettings(Section):
    """What a run shows while it goes on."""

    log_every: TriggerText = setting("every 20 steps", matters=False)
    """Log points: losses and rates are read from the device only there."""
    progress: Literal["auto", "bar", "lines", "off"] = setting("auto", matters=False)
    """`auto`: a bar on a terminal, plain lines elsewhere."""
    sample_ids: bool = setting(False, matters=False)
    """Write the sample indices of every step to the ledger."""
    tensorboard: Literal["auto", "on", "off"] = setting("auto", matters=False)
    """`auto`: on when the extra is installed."""
    wandb: Literal["disabled", "offline", "online"] = setting("disabled", matters=False)
    wandb_project: str = setting("trainer", matters=False)
    segment_seconds: float = setting(60.0, gt=0, matters=False)
    """Longest time before a ledger segment is closed and stored."""
    warnings: bool = setting(True, matters=False)
    """Look for warning signs while training."""
    prometheus: PrometheusSettings = setting(PrometheusSettings())
    rules: dict[str, str] = setting({}, matters=False)
    """Other thresholds of warning signs by name, `exploding: "factor=2, num_steps=50"`, or `off`."""


class ProfileSettings(Section):
    """Where the time of some steps goes: a table of phases and operators, and a trace file in Chrome's format."""

    enabled: bool = setting(False, matters=False)
    wait: int = setting(5, ge=0, matters=False)
    """Steps of an attempt before anything is measured; the first ones are no like of the others."""
    warmup: int = setting(2, ge=0, matters=False)
    """Steps in which torch's profiler runs already but keeps nothing."""
    active: int = setting(10, ge=1, matters=False)
    """Steps that are measured."""
    operators: int = setting(15, ge=1, matters=False)
    """Operators that are listed, those of most time of their own."""


class OutputSettings(Section):
    """What is made at the end."""

    report: bool = setting(True, matters=False)
    """Write the HTML report, the diagnostics image and the classification table."""
    export: list[Literal["pth", "onnx"]] = setting(["pth", "onnx"], matters=False)
    """Formats of the exported model."""


class CommonSettings(Section):
    """Everything that is the same for every task; a task's settings class adds `task`, `data`, `model`, `loss`."""

    short_flags: ClassVar[dict[str, str]] = {}
    """Further short forms on the command line that a task brings along, and the settings they stand for."""

    task: str = setting("")
    """What is trained; a task's own class narrows it to its name."""
    seed: int = setting(42, ge=0, flag="--seed")
    """Of everything random: weights, order, augmentation, dropout."""
    num_epochs: int = setting(1, ge=1, flag="--num_epochs", matters=False)
    """Length of the run; may grow between attempts, so it is not in the digest."""
    max_steps: int | None = setting(None, ge=1, flag="--max_steps", matters=False)
    """Ends the run earlier than `num_epochs` does."""
    batch_size: int = setting(64, ge=1, flag="--batch_size")
    """The global batch: samples of one step over all ranks."""
    accumulation: int = setting(1, ge=1, flag="--accumulation", matters=False)
    """Micro-batches a rank splits its share of a step into; saves memory, changes no mathematics."""
    eval_batch_size: int | None = setting(None, ge=1, matters=False)
    """Samples of one evaluation batch on a rank; default `batch_size`."""
    prefetch: int = setting(2, ge=0, matters=False)
    """Steps whose batches are made ahead in a thread; 0 makes them in line."""
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", flag="--device", matters=False)
    """`auto`: CUDA if there is one, else Apple's, else the CPU."""
    threads: int | None = setting(None, ge=1, matters=False)
    """CPU threads of a process; default what torch finds, divided by the local processes."""
    strategy: Literal["ddp"] = setting("ddp", matters=False)
    process_timeout_seconds: float = setting(600.0, gt=0, matters=False)
    """Longest wait of a collective before the attempt ends with 170."""
    empty_cache: Literal["auto", "pass", "never"] = setting("auto", matters=False)
    """When CUDA's cache is emptied; `auto`: after a pass if less than a tenth of the memory is free."""
    cache: str = setting("~/.cache/trainer", matters=False)
    """Folder of this machine for data sets fetched from a store; the processes here share it, and what no run is
    using may be removed."""
    run: RunSettings = setting(RunSettings())
    s3: S3Settings = setting(S3Settings())
    optim: OptimSettings = setting(OptimSettings())
    schedule: ScheduleSettings = setting(ScheduleSettings())
    balance: BalanceSettings = setting(BalanceSettings())
    ema: EmaSettings = setting(EmaSettings())
    precision: PrecisionSettings = setting(PrecisionSettings())
    passes: dict[str, TriggerText] = setting({})
    """Moments of evaluation passes by name, in place of the task's own (`val: every 500 steps`)."""
    best: BestSettings = setting(BestSettings())
    early_stop: EarlyStopSettings = setting(EarlyStopSettings())
    nonfinite: NonFiniteSettings = setting(NonFiniteSettings())
    checkpoint: CheckpointSettings = setting(CheckpointSettings())
    watchdog: WatchdogSettings = setting(WatchdogSettings())
    telemetry: TelemetrySettings = setting(TelemetrySettings())
    profile: ProfileSettings = setting(ProfileSettings())
    output: OutputSettings = setting(OutputSettings())
