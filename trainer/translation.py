"""`TranslationTrainer`: the plain trainer for a sequence model, its loaders and its criterion that somebody has.

    trainer = TranslationTrainer(model, train_loader, val_loader, optimizer, scheduler, criterion, config, device)
    trainer.train(num_epochs=30)

A thin caller of the same engine as every task: checkpoints, exact resume, metrics and stopping included. Batches are
dicts with `source_ids` and `target_ids`; the criterion returns loss, number of tokens and accuracy (see
`engine.foreign_tokens`); the scheduler (or None) is stepped after every update. Runs lie below `save_dir`; the same
call goes on with one that was interrupted. The `.pt` files of such trainers can be read and written, too.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.checkpoint.pt import read_pt, write_pt
from trainer.checkpoint.restore import load_checkpoint
from trainer.checkpoint.run import RUN_FILE
from trainer.checkpoint.stores import open_store
from trainer.config.plain import PlainSettings
from trainer.config.sources import load_settings
from trainer.engine.clock import Clock
from trainer.engine.foreign import Pairs, fingerprint, is_plain
from trainer.engine.foreign_tokens import Criterion, SequenceTask, StepSchedule, TokenSource, perplexity_of
from trainer.engine.passes import final_passes
from trainer.engine.setup import Parts, assemble
from trainer.engine.stop import StopRequests
from trainer.engine.world import World, choose_device
from trainer.engine.wrap import StepModule
from trainer.errors import DataError
from trainer.run import train_task
from trainer.tasks.weight_files import load_pth
from trainer.telemetry.bus import Bus
from trainer.telemetry.events import Metrics
from trainer.telemetry.reading import Record, effective, read_run, select

BEST_FILE = "best_model.pt"
CONFIG_NAMES = {
    "max_grad_norm": "optim.clip",
    "log_interval": "telemetry.log_every",
    "save_dir": "run.store",
    "use_tensorboard": "telemetry.tensorboard",
    "seed": "seed",
}
"""What of a `config` the engine heeds; everything else in it is the model's business and is kept in `.pt` files."""


class TranslationTrainer:
    """Trains what it is given; attributes `current_epoch`, `global_step` and `best_val_loss` say how far it is.

    `config` is a mapping or an object with `max_grad_norm`, `log_interval` (steps), `save_dir`, `use_tensorboard`,
    `seed`, each optional. Raises the errors of `trainer.errors`; a run that is told to stop raises Stopped after its
    checkpoint is published.
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Pairs,
        val_loader: Pairs,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        criterion: Criterion,
        config: Any = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.model, self.optimizer, self.scheduler, self.criterion = model, optimizer, scheduler, criterion
        self.train_loader, self.val_loader = train_loader, val_loader
        self.config = _plain_config(config)
        self.device = torch.device(device) if device is not None else choose_device("auto")
        self.save_dir = Path(self.config.get("save_dir", "checkpoints"))
        self.current_epoch = self.global_step = 0
        self.best_val_loss = float("inf")
        self._inner = model.module if isinstance(model, DistributedDataParallel) else model
        self._inner.to(self.device)
        self.shifts: bool | None = None
        """Whether the criterion cuts targets into labels by itself, once that is known."""
        self._schedule = StepSchedule(scheduler)
        self._run: str | None = None
        self._origin = fingerprint(self._inner, optimizer, scheduler)
        self._base = _Base()

    def train(self, num_epochs: int, resume_from: str | Path | None = None) -> dict[str, list[dict[str, Any]]]:
        """Train up to epoch `num_epochs`; the metrics of every epoch as `train` and `val`.

        Without `resume_from` an interrupted run of the same parts goes on at its cursor. With it, the run in that
        folder goes on, or training starts behind the epoch of that `.pt` file. At the end the model holds the best
        weights, which also lie in `<save_dir>/best_model.pt`.
        """
        if resume_from is not None:
            self._go_on_from(Path(resume_from))
        records = self._engine(num_epochs)
        if records is None:
            return {"train": [], "val": []}
        self.save_checkpoint(BEST_FILE)
        walks = [one for one in select(records, "PassDone") if not one["is_final"]]
        return {
            "train": [_epoch_metrics(one) for one in select(records, "EpochDone")],
            "val": [_pass_metrics(one["metrics"]) for one in walks],
        }

    def train_epoch(self) -> dict[str, Any]:
        """Train one more epoch; its `loss`, `perplexity`, `accuracy`, `time` (seconds) and `tokens_per_sec`."""
        records = self._engine(self.current_epoch + 1)
        self._newest_weights()
        return _epoch_metrics(select(records, "EpochDone")[-1]) if records else {}

    def validate(self) -> dict[str, float | None]:
        """`loss`, `perplexity` and `accuracy` of the weights the model has now over the validation loader."""
        world, task, settings = self._world(), self._task(), self._settings(max(self.current_epoch, 1))
        parts = self._parts(task, world)
        job = assemble(task, settings, world, parts, Bus(), None, None, Clock(), StopRequests())
        return _pass_metrics(final_passes(job)["val"])

    def save_checkpoint(self, path: str | Path | None = None, is_best: bool = False) -> Path:
        """Write the `.pt` file that such trainers write, by default `<save_dir>/checkpoint_epoch_<e>.pt` (e from 0).

        With `is_best` also `best_model.pt`. It is for people and other programs; `train` goes on from its own.
        """
        epoch = max(self.current_epoch - 1, 0)
        target = self.save_dir / (path or f"checkpoint_epoch_{epoch}.pt")
        has_state = hasattr(self.scheduler, "state_dict")
        content = {
            "epoch": epoch,
            "global_step": self.global_step,
            "model_state_dict": self._inner.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler_state_dict": _plain_values(self.scheduler.state_dict()) if has_state else {},
            "best_val_loss": self.best_val_loss,
            "config": self.config,
        }
        for place in [target, *([self.save_dir / BEST_FILE] if is_best else [])]:
            write_pt(place, content)
        return target

    def load_checkpoint(self, path: str | Path) -> None:
        """Take weights, optimizer, scheduler and counters out of a `.pt` file, whoever wrote it; runs no code of it.

        A file that holds weights alone gives weights alone. Raises DataError when it does not fit the model.
        """
        content = read_pt(path)
        try:
            self._inner.load_state_dict(load_pth(path))
            if content.get("optimizer_state_dict"):
                self.optimizer.load_state_dict(content["optimizer_state_dict"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path} does not fit this model and optimizer: {reason}") from error
        if content.get("scheduler_state_dict") and hasattr(self.scheduler, "load_state_dict"):
            self.scheduler.load_state_dict({**self.scheduler.state_dict(), **content["scheduler_state_dict"]})
        self.current_epoch = int(content["epoch"]) + 1 if "epoch" in content else 0
        self.global_step = int(content.get("global_step", 0))
        self.best_val_loss = float(content.get("best_val_loss", float("inf")))
        self._run, self._schedule = None, StepSchedule(self.scheduler)
        self._base = _Base(self.current_epoch, self.global_step, hashlib.sha256(Path(path).read_bytes()).hexdigest())

    def _go_on_from(self, path: Path) -> None:
        """A run's folder by its name, a `.pt` file by its content."""
        if (path / RUN_FILE).is_file():
            self.save_dir, self._run = path.resolve().parent, path.resolve().name
        else:
            self.load_checkpoint(path)

    def _engine(self, num_epochs: int) -> list[Record] | None:
        """One attempt up to that epoch, counted with those before a loaded file; its records on the first rank."""
        missing = num_epochs - self._base.epoch
        if missing <= 0:
            return None
        world, task, settings = self._world(), self._task(), self._settings(missing)
        settings.run.name = self._run
        finished = train_task(task, settings, world, self._parts(task, world))
        self._run = finished.run
        self.shifts = task.shifts
        return self._learn(settings)

    def _learn(self, settings: PlainSettings) -> list[Record]:
        """The run's records, and from them how far it is."""
        store = open_store(settings.run.store, settings.s3)
        records = effective(read_run(store, self._run or ""))
        epochs = select(records, "EpochDone")
        self.current_epoch = self._base.epoch + (int(epochs[-1]["epoch"]) if epochs else 0)
        self.global_step = self._base.step + (int(epochs[-1]["step"]) if epochs else 0)
        losses = [one["metrics"]["loss"] for one in select(records, "PassDone") if not one["is_final"]]
        self.best_val_loss = min([self.best_val_loss, *(loss for loss in losses if loss is not None)])
        return records

    def _newest_weights(self) -> None:
        """A run ends with the best weights in the model; one epoch of several ends with its own."""
        store = open_store(self._settings(1).run.store)
        found = load_checkpoint(store, self._run or "", "latest", parts=("model",))
        if found:
            self._inner.load_state_dict(found.tensors["model"])

    def _task(self) -> SequenceTask:
        return SequenceTask(self._inner, self.criterion, self.val_loader, self._world(), self._seed, shifts=self.shifts)

    @property
    def _seed(self) -> int:
        return int(self.config.get("seed", PlainSettings().seed))

    def _world(self) -> World:
        if not dist.is_initialized():
            return World(device=self.device)
        return World(dist.get_rank(), dist.get_world_size(), device=self.device)

    def _parts(self, task: SequenceTask, world: World) -> Parts:
        sampler = getattr(self.train_loader, "sampler", None)
        return Parts(
            model=self._inner,
            optimizer=self.optimizer,
            schedule=self._schedule,
            source=TokenSource(self.train_loader, sampler, world, self._seed),
            module=StepModule(task, self.model, carries_flags=False),
        )

    def _settings(self, num_epochs: int) -> PlainSettings:
        """The settings of a run: the environment and the defaults as everywhere, then `config`."""
        origin = hashlib.sha256(f"{self._origin} {self._base.digest}".encode()).hexdigest()[:16]
        flags: dict[str, Any] = {"num_epochs": num_epochs, "fingerprint": origin, "telemetry.tensorboard": "off"}
        for name, setting in CONFIG_NAMES.items():
            if self.config.get(name) is not None:
                flags[setting] = _as_setting(name, self.config[name])
        settings = load_settings(environ=os.environ, flags=flags, settings_class=PlainSettings).settings
        assert isinstance(settings, PlainSettings)
        return settings


@dataclass(frozen=True)
class _Base:
    """What was trained before this program's own runs, in a file that was loaded."""

    epoch: int = 0
    step: int = 0
    digest: str = ""


def _plain_config(config: Any) -> dict[str, Any]:
    """A mapping out of a mapping, a dataclass or any object; what JSON cannot hold becomes text."""
    values = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    return {str(name): one if is_plain(one) else str(one) for name, one in values.items()}


def _as_setting(name: str, value: Any) -> Any:
    """A value of `config` as the setting of that meaning takes it."""
    if name == "log_interval":
        return f"every {value} steps"
    if name == "save_dir":
        return f"file://{value}"
    if name == "use_tensorboard":
        return "on" if value else "off"
    return (value or None) if name == "max_grad_norm" else value


def _plain_values(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in state.items() if is_plain(one)}


def _epoch_metrics(record: Record) -> dict[str, Any]:
    """The keys people know, of one epoch."""
    whole: Metrics = {"loss": record["loss"], **record["metrics"]}
    return {
        "loss": whole["loss"],
        "perplexity": perplexity_of(whole),
        "accuracy": whole.get("accuracy"),
        "time": record["seconds"],
        "tokens_per_sec": whole.get("tokens_per_sec"),
    }


def _pass_metrics(metrics: Metrics) -> dict[str, float | None]:
    """The keys people know, of one walk over the validation loader."""
    return {name: metrics.get(name) for name in ("loss", "perplexity", "accuracy")}
