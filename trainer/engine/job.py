"""Everything one attempt works with, in one place; the engine's verbs take it as their first argument."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.run import Run
from trainer.checkpoint.state import State
from trainer.config.expressions import Course, Moments
from trainer.config.lengths import PerEpoch
from trainer.config.settings import CommonSettings
from trainer.engine.balance import Balance
from trainer.engine.best import Best, EarlyStop
from trainer.engine.clock import Clock
from trainer.engine.cursor import Cursor
from trainer.engine.ema import Ema
from trainer.engine.meter import Meter
from trainer.engine.nonfinite import NonFiniteGuard
from trainer.engine.optim import load_optimizer, optimizer_tensors
from trainer.engine.phases import UNPROFILED, Profiler
from trainer.engine.precision import Precision
from trainer.engine.source import Source
from trainer.engine.stop import StopRequests
from trainer.engine.task import Pass, Task
from trainer.engine.watchdog import Watchdog
from trainer.engine.world import World
from trainer.errors import RunError
from trainer.telemetry.events import Event


class Emitter(Protocol):
    """Takes events on the first rank."""

    def emit(self, event: Event) -> None:
        """Hand one event to the listeners."""
        ...


class Scheduler(Protocol):
    """What the loop asks of a learning-rate schedule."""

    def factor(self, updates: int) -> float | None:
        """Factor on the base rates for the next step; None leaves the optimizer's rates alone."""
        ...

    def see(self, name: str, metrics: dict[str, float | None]) -> None:
        """A pass is done."""
        ...

    def epoch_done(self) -> None:
        """An epoch and the passes that became due with it are done."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        ...


@dataclass
class Timetable:
    """When things are due, resolved against the length of the run."""

    log: Moments
    checkpoint: Moments
    milestone: Moments
    passes: dict[str, Moments]


@dataclass
class Job:
    """One attempt. `run` and `publisher` exist on the first rank only."""

    task: Task
    settings: CommonSettings
    world: World
    events: Emitter
    run: Run | None
    publisher: Publisher | None
    model: nn.Module
    module: nn.Module
    """The wrapped model that gives the loss (`engine.wrap`)."""
    optimizer: torch.optim.Optimizer
    base_rates: list[float]
    rate_curves: list[Course | None]
    """What takes the place of the schedule, for each parameter group of the optimizer."""
    curves: Mapping[str, Course]
    """Values of the task that follow curves, by name; for the ledger."""
    schedule: Scheduler
    balance: Balance | None
    """Weights of the loss terms; without one all are 1."""
    precision: Precision
    ema: Ema | None
    source: Source
    passes: Sequence[Pass]
    best: Best
    early_stop: EarlyStop
    guard: NonFiniteGuard
    moments: Timetable
    steps_per_epoch: PerEpoch
    total_steps: int
    stop: StopRequests
    watchdog: Watchdog
    clock: Clock
    meter: Meter
    cursor: Cursor = field(default_factory=Cursor)
    rate: float = 0.0
    """Learning rate of the step under way, or of the last one."""
    stopping: tuple[str, int] | None = None
    """Reason and exit code once all ranks agreed to stop."""
    ends_early: bool = False
    """The early stop ended the run: its length is the step it has reached."""
    is_spoilt: bool = False
    """The weights are not finite and must not be published."""
    rolled_back: bool = False
    """The cursor went back; the loop must ask its source anew."""
    highest_step: int = 0
    """Farthest step that the run is known to have reached before, in an earlier attempt or before a rollback."""
    first_step: int = 0
    """Step at which this attempt began."""
    last_log: dict[str, float] = field(default_factory=dict)
    """The time account at the last log point."""
    last_checkpoint: tuple[Any, ...] | None = None
    """What the last checkpoint held, so that the same state is not published twice."""
    sample_ids: list[list[int]] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(init=False)
    """All that get gradients; kept, because walking the modules for them costs 30 us a step."""
    foreign: bool = False
    """Model, optimizer and loaders came from outside through `train(...)`."""
    profiler: Profiler | None = None
    """Times the phases of some steps, if that was asked for; first rank only."""

    def __post_init__(self) -> None:
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    @property
    def is_done(self) -> bool:
        """Whether the run has reached its length."""
        return self.ends_early or self.cursor.step >= self.total_steps

    @property
    def work(self) -> str:
        """What a step counts as in the time account: steps that were trained before are `redone`."""
        return "redone" if self.cursor.step < self.highest_step else "productive"

    @property
    def prefetch_depth(self) -> int:
        """Steps made ahead; a DataLoader from outside draws from the global generators, so it runs in line."""
        return 0 if self.foreign else self.settings.prefetch

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A named part of a step for the profile; without one it costs about 0.2 us."""
        return self.profiler.phase(name) if self.profiler else UNPROFILED

    def taken_sample_ids(self) -> list[list[int]] | None:
        """Sample indices of the steps since the last call, if they were asked for."""
        taken, self.sample_ids = self.sample_ids, []
        return taken or None

    def emit(self, event: type[Event], /, **values: Any) -> None:
        """Make an event of this moment; nothing on the other ranks."""
        if self.world.is_first:
            self.events.emit(event(epoch=self.cursor.epoch, step=self.cursor.step, **values))

    def capture(self) -> State:
        """References to the whole state of the run, to be copied by the publisher before the next step."""
        optimizer, scalars = optimizer_tensors(self.optimizer, self.model)
        tensors: dict[str, dict[str, Tensor]] = {"model": dict(self.model.state_dict()), "optimizer": optimizer}
        if self.ema:
            tensors["ema"] = self.ema.tensors
        scaler = self.precision.scaler
        meta = {
            "cursor": self.cursor.to_json(),
            "optimizer": scalars,
            "rates": [group["lr"] for group in self.optimizer.param_groups],
            "schedule": self.schedule.state(),
            "balance": self.balance.state() if self.balance else None,
            "scaler": scaler.state_dict() if scaler else None,
            "best": self.best.state(),
            "early_stop": self.early_stop.state(),
            "nonfinite": self.guard.used,
            "seed": self.settings.seed,
            "ends_early": self.ends_early,
            "world_size": self.world.size,
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
            "contents": {part: len(named) for part, named in tensors.items()},
        }
        return State(tensors=tensors, meta=meta, files=getattr(self.task, "files", {}))

    def load(self, tensors: dict[str, dict[str, Tensor]], meta: dict[str, Any]) -> None:
        """Put a captured state back; on every rank. Raises RunError when something that decides the rest is missing."""
        self._refuse_incomplete(tensors, meta)
        try:
            self.model.load_state_dict(tensors["model"])
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise RunError(
                f"the checkpoint is that of another model: {first} Put the settings of the model back, or start anew "
                "with another run.name"
            ) from None
        load_optimizer(self.optimizer, self.model, tensors["optimizer"], meta["optimizer"])
        if self.ema:
            # A run that switches the average on later starts it from the weights.
            averages = tensors.get("ema", tensors["model"])
            for name, target in self.ema.tensors.items():
                target.copy_(averages[name])
        if self.precision.scaler and meta["scaler"]:
            self.precision.scaler.load_state_dict(meta["scaler"])
        self.rate = meta["rates"][0]
        if self.foreign:
            for group, rate in zip(self.optimizer.param_groups, meta["rates"], strict=True):
                group["lr"] = rate
        self.schedule.load(meta["schedule"])
        if self.balance and meta["balance"]:
            self.balance.load(meta["balance"])
        self.best.load(meta["best"])
        self.early_stop.load(meta["early_stop"])
        self.guard.used = meta["nonfinite"]
        self.cursor = Cursor.from_json(meta["cursor"])
        # A pass that the settings no longer have would stay owed for ever, and make every step a boundary.
        self.cursor.owed = [name for name in self.cursor.owed if name in self.moments.passes]
        self.ends_early = meta["ends_early"]

    def _refuse_incomplete(self, tensors: dict[str, dict[str, Tensor]], meta: dict[str, Any]) -> None:
        """A part that is left out would otherwise begin anew in silence."""
        expected = self.capture().meta
        if self.foreign:
            expected["schedule"] = {}  # what a caller's scheduler keeps depends on its version
        if self.balance and self.balance.is_foreign(meta.get("balance")):
            expected["balance"] = {}  # another rule's, which begins anew as if none had been there
        missing = lacking(expected, meta)
        for part, number in meta.get("contents", {}).items():
            found = len(tensors.get(part, {}))
            missing += [f"{number - found} tensors of {part}"] if found != number else []
        if missing:
            raise RunError(
                f"the checkpoint is incomplete, it lacks {', '.join(missing)}: going on would train something else; "
                "delete its folder to go on from the one before it, or start anew with another run.name"
            )


def lacking(expected: Mapping[str, Any], found: Mapping[str, Any], path: str = "") -> list[str]:
    """Dotted names that `expected` has and `found` has not; a whole section may be empty there (it was off)."""
    names = [f"{path}{name}" for name in expected if name not in found]
    for name, below in expected.items():
        if isinstance(below, Mapping) and found.get(name):
            names += lacking(below, found[name], f"{path}{name}.")
    return names
