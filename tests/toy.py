"""A task small enough to be killed hundreds of times: dropout, keyed augmentation, two passes."""

import gc
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # two seconds that every optimizer costs once; here, so that forked attempts have it
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainer.checkpoint import crash
from trainer.config.base import setting
from trainer.config.settings import CommonSettings
from trainer.data.dataset import Batch, Indices
from trainer.data.keys import derive, normal
from trainer.data.plan import FixedPlan, Plan
from trainer.engine.task import Loss, Pass, PassResult
from trainer.engine.world import join_world
from trainer.errors import TrainerError
from trainer.run import train_task

FEATURES, CLASSES = 6, 3


class ToySettings(CommonSettings):
    """Common settings and what the tests vary."""

    task: str = setting("toy")
    num_samples: int = setting(53)
    dropout: float = setting(0.3)
    augment: float = setting(0.1)
    poison_sample: int | None = setting(None, matters=False)
    """A training sample whose loss is NaN."""
    term_at: int | None = setting(None, matters=False)
    """Micro-batch at which rank `term_rank` sends itself SIGTERM."""
    term_rank: int = setting(0, matters=False)
    go_from: int | None = setting(None, matters=False)
    """Descriptor from which every training micro-batch reads a byte before it begins (see `Pace`)."""
    beat_to: int | None = setting(None, matters=False)
    """Descriptor to which every training micro-batch writes a byte when it is done."""


class ToyData:
    """Points around three centres."""

    def __init__(self, size: int, seed: int, augment: float) -> None:
        index = np.arange(size, dtype=np.int64)
        self.label = index % CLASSES
        centres = normal(derive(1, "centres"), np.arange(CLASSES), FEATURES)
        self.points = centres[self.label] + normal(derive(seed, "points"), index, FEATURES)
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.label)

    def take(self, indices: Indices, epoch: int) -> Batch:
        points = self.points[indices]
        if self.augment:
            points = points + self.augment * normal(derive(self.seed, "augment", epoch), indices, FEATURES)
        return {
            "x": torch.from_numpy(points).float(),
            "label": torch.from_numpy(self.label[indices]),
            "index": torch.from_numpy(indices.copy()),
        }


class ToyTask:
    """Three-class problem with a dropout MLP."""

    name = "toy"
    model_name = "mlp"
    metrics = {"loss": "min", "top1": "max"}  # noqa: RUF012
    best_metric = "val/loss"

    def __init__(self, settings: ToySettings) -> None:
        self.settings = settings
        self.calls = 0
        self.data = ToyData(settings.num_samples, settings.seed, settings.augment)
        self.validation = ToyData(20, settings.seed + 1, 0.0)

    def build_model(self) -> nn.Module:
        drop = nn.Dropout(self.settings.dropout)
        return nn.Sequential(
            nn.Linear(FEATURES, 16), nn.ReLU(), drop, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)
        )

    def train_data(self) -> ToyData:
        return self.data

    def plan(self) -> Plan:
        return FixedPlan(len(self.data), self.settings.batch_size, self.settings.seed)

    def counts(self, indices: Indices, epoch: int) -> dict[str, float]:
        return {"loss": float(len(indices))}

    def passes(self) -> Sequence[Pass]:
        return [Pass("val", self.validation, batch_size=self.settings.eval_batch_size or 8)]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        if self.settings.go_from is not None:
            os.read(self.settings.go_from, 1)
        logits = model(batch["x"])
        loss = cross_entropy(logits, batch["label"], reduction="sum")
        if self.settings.poison_sample is not None and (batch["index"] == self.settings.poison_sample).any():
            loss = loss * float("nan")
        self.calls += 1
        if self.calls == self.settings.term_at and os.environ.get("RANK", "0") == str(self.settings.term_rank):
            os.kill(os.getpid(), signal.SIGTERM)
        if self.settings.beat_to is not None:
            os.write(self.settings.beat_to, b".")
        return Loss({"loss": loss}, {"top1": (logits.argmax(-1) == batch["label"]).sum().float()})

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["x"])
        label = batch["label"]
        return {
            "loss": cross_entropy(logits, label, reduction="sum"),
            "top1": (logits.argmax(-1) == label).sum(),
            "count": torch.tensor(len(label)),
        }

    def summarize(self, name: str, sums: dict[str, Tensor]) -> PassResult:
        count = sums["count"].item()
        return PassResult({key: sums[key].item() / count for key in ("loss", "top1")}, {"count": count})

    def info(self) -> dict[str, Any]:
        return {"classes": [{"word": number + 1, "name": str(number), "native": ""} for number in range(CLASSES)]}


def toy_settings(folder: Path, settings_class: type[CommonSettings] = ToySettings, **values: Any) -> Any:
    """Settings for quick runs; dotted names are given with `__`."""
    tree: dict[str, Any] = {
        "num_epochs": 3,
        "batch_size": 8,
        "device": "cpu",
        "threads": 1,
        "process_timeout_seconds": 30,
        "run": {"store": f"file://{folder}", "name": "toy"},
        "optim": {"lr": 0.01},
        "checkpoint": {"every": "every 4 steps and end"},
        "telemetry": {"progress": "off", "log_every": "every 1 steps", "tensorboard": "off", "warnings": False},
        "output": {"report": False, "export": []},
    }
    return settings_class.model_validate(filled(tree, values))


def filled(tree: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The tree with values whose dotted names are given with `__`."""
    for name, value in values.items():
        *path, last = name.split("__")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return tree


def train_toy(settings: Any, task_class: Callable[[Any], Any] = ToyTask) -> Any:
    """One attempt in this process, by the rank environment."""
    world = join_world(settings)
    try:
        return train_task(task_class(settings), settings, world)
    finally:
        world.leave()
        gc.freeze()  # again: a run ends with `unfreeze`, and from then on every collection would read all of torch


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Attempt:
    """One attempt in forked processes (this process has torch imported, so a start costs a fraction of a second)."""

    def __init__(
        self, settings: Any, world_size: int = 1, crash_at: str | None = None, rank: int = 0,
        task_class: Callable[[Any], Any] = ToyTask,
    ) -> None:  # fmt: skip
        def run(number: int) -> None:
            crash.arm(crash_at if number == rank else None)
            train_toy(settings, task_class)

        self.pids = fork_ranks(run, world_size)

    def wait(self) -> list[int]:
        """Exit codes by rank, 128 + n for signal n."""
        return wait_for(self.pids)

    def send(self, number: int, rank: int = 0) -> None:
        """Send a signal to one rank."""
        os.kill(self.pids[rank], number)


def kill_later(attempt: Attempt, seconds: float, rank: int) -> threading.Timer:
    """Kill one rank after a while, if it is still there."""

    def kill() -> None:
        with suppress(ProcessLookupError):
            attempt.send(signal.SIGKILL, rank)

    timer = threading.Timer(seconds, kill)
    timer.start()
    return timer


class Pace:
    """Lets a forked run of one process go on by a number of micro-batches at a time."""

    def __init__(self) -> None:
        self._go, self._beat = os.pipe(), os.pipe()
        self.settings = {"go_from": self._go[0], "beat_to": self._beat[1]}

    def let(self, num_batches: int) -> None:
        """Return when so many more are done."""
        os.write(self._go[1], b"." * num_batches)
        while num_batches:
            num_batches -= len(os.read(self._beat[0], num_batches))

    def free(self) -> None:
        """Let it run to its end."""
        os.write(self._go[1], b"." * 50_000)


def wait_for(pids: list[int]) -> list[int]:
    """Exit codes, 128 + n for signal n."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return [128 - code if code < 0 else code for code in codes]


def fork_ranks(run: Callable[[int], None], world_size: int) -> list[int]:
    """Fork processes with the rank environment of torchrun; each leaves with the exit code a command would give."""
    port = free_port()
    return [fork_rank(run, rank, world_size, port) for rank in range(world_size)]


def fork_rank(run: Callable[[int], None], rank: int, world_size: int, port: int) -> int:
    """Fork one rank; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        torch.set_num_threads(1)
        if world_size > 1:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        run(rank)
        code = 0
    except TrainerError as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
