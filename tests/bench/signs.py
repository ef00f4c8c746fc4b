"""The KArSL-shaped model (50 x 184 x 4, s_4_2, batch 64): a step next to loops by hand, and the data path.

The loop by hand runs twice: with batches that are ready in memory (the least any loop can cost) and with the loader
that people write, sample by sample. The engine makes its batches while it trains.
"""

import contextlib
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from tests.bench import size
from tests.bench.ours import train_whole
from tests.bench.peers import LOG_EVERY, optimizer_of
from tests.bench.per_sample import PerSample
from tests.bench.turns import in_turns, paired, print_table
from trainer.config.signs import SignsSettings
from trainer.tasks.signs.dataset import SignsDataSet, Source
from trainer.tasks.signs.task import SignsTask, create

BATCH, FRAMES = 64, 50
Pairs = Iterable[tuple[Tensor, Tensor, Tensor | None]]
"""Keypoints, label, and groups that are present."""


def bench_settings() -> SignsSettings:
    """The default model and augmentation on generated signs."""
    return SignsSettings.model_validate(
        {
            "batch_size": BATCH,
            "num_epochs": 100,
            "device": "cpu",
            "data": {"layout": "synthetic", "synthetic_words": 20},
            "model": {"size": "s_4_2"},
        }
    )


def stamped(model: nn.Module, stamps: list[float]) -> nn.Module:
    """Note the time of every training forward."""

    def note(module: nn.Module, inputs: object) -> None:
        if module.training:
            stamps.append(time.perf_counter())

    model.register_forward_pre_hook(note)
    return model


def by_hand(model: nn.Module, batches: Pairs, num_steps: int) -> None:
    """A loop as people write it; the same clipping, scaler and optimizer as in the other table."""
    optimizer, scaler = optimizer_of(model), torch.amp.GradScaler("cpu", enabled=False)
    model.train()
    for number, (keypoints, label, present) in zip(range(num_steps), batches, strict=False):
        optimizer.zero_grad()
        loss = cross_entropy(model(keypoints, present), label)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        if number % LOG_EVERY == 0:
            loss.item()


def ready_batches(task: SignsTask, num_steps: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Batches of the task's own data set, made beforehand."""
    plan, data = task.plan(), task.train_data()
    places = [divmod(number, plan.num_steps(0)) for number in range(num_steps)]
    batches = [data.take(plan.batch(epoch, step), epoch) for epoch, step in places]
    return [(batch["keypoints"], batch["label"], batch["present"]) for batch in batches]


def one_by_one(task: SignsTask) -> Pairs:
    """Endless batches of the per-sample loader."""
    loader = DataLoader(PerSample(task.recordings, FRAMES), BATCH, shuffle=True, drop_last=True)
    while True:
        for keypoints, label in loader:
            yield keypoints, label, None


def seconds_of(run: Callable[[list[float], nn.Module], None], task: SignsTask) -> Callable[[], float]:
    """Median seconds of a step; the first two are left out."""

    def measure() -> float:
        stamps: list[float] = []
        run(stamps, stamped(task.build_model(), stamps))
        steps = [after - before for before, after in pairwise(stamps)]
        return statistics.median(steps[2:])

    return measure


def by_engine(task: SignsTask, folder: Path, num_steps: int) -> Callable[[], float]:
    """The same for the engine: its task builds the stamped model."""

    def run(stamps: list[float], model: nn.Module) -> None:
        own = copy.copy(task)
        own.build_model = lambda: model  # type: ignore[method-assign]
        settings = task.settings.model_copy(update={"max_steps": num_steps})
        train_whole(own, settings, folder / f"store-{len(os.listdir(folder))}")

    return seconds_of(run, task)


def step_table(task: SignsTask, folder: Path) -> None:
    """Seconds of a step, in turns."""
    torch.set_num_threads(2)
    num_steps = size("STEPS", 8)
    ready = ready_batches(task, num_steps)
    contenders = {
        "by hand, batches ready in memory": seconds_of(lambda _, model: by_hand(model, ready, num_steps), task),
        "by hand, loader sample by sample": seconds_of(
            lambda _, model: by_hand(model, one_by_one(task), num_steps), task
        ),
        "trainer, all default listeners": by_engine(task, folder, num_steps),
    }
    runs = in_turns(contenders, 3)
    first, second, _ = runs.values()
    rows = [
        (
            name,
            f"{statistics.median(values):.3f}",
            f"{paired(values, first, lambda a, b: a / b):.3f}",
            f"{paired(values, second, lambda a, b: a / b):.3f}",
        )
        for name, values in runs.items()
    ]
    columns = ("loop", "s/step", "x ready batches", "x loader by hand")
    print_table("Step of the sign model, s_4_2, batch 64", columns, rows, ["target: at most 1.02"])


def data_table(task: SignsTask) -> None:
    """One sweep over the training clips: sampling, augmentation, batching."""
    rows, plan = task.parts["train"], task.plan()
    theirs = torch.utils.data.Subset(PerSample(task.recordings, FRAMES), rows.tolist())
    # The other path reads what was normalised beforehand.
    as_stored = Source(task.recordings, task.settings.data.model_copy(update={"normalise": "none"}))
    same_work = SignsDataSet(as_stored, rows, seed=0)

    def batched(data: SignsDataSet) -> tuple[float, float]:
        started = time.perf_counter(), time.process_time()
        for step in range(plan.num_steps(0)):
            data.take(plan.batch(0, step), 0)
        return time.perf_counter() - started[0], time.process_time() - started[1]

    def single() -> tuple[float, float]:
        started = time.perf_counter(), time.process_time()
        for _ in DataLoader(theirs, BATCH, shuffle=True):
            pass
        return time.perf_counter() - started[0], time.process_time() - started[1]

    contenders = {
        "sample by sample": single,
        "trainer, whole batches, the same work": lambda: batched(same_work),
        "trainer, whole batches, normalised while loading": lambda: batched(task.training),
    }
    torch.set_num_threads(1)  # both paths are one thread's work
    in_turns(contenders, 1)  # the file is read, pages are mapped
    runs = in_turns(contenders, 9)
    walls, cpus = ({name: [run[i] for run in found] for name, found in runs.items()} for i in (0, 1))
    table = [
        (
            name,
            f"{min(cpus[name]) / len(rows) * 1e6:.0f}",
            f"{min(cpus['sample by sample']) / min(cpus[name]):.2f}",
            f"{paired(walls[name], walls['sample by sample'], lambda a, b: b / a):.2f}",
        )
        for name in runs
    ]
    note = f"{len(rows)} clips, memory-mapped; target: at least 1.70 times as fast for the same work"
    print_table(
        "Data path of the sign model",
        ("path", "CPU us/clip, best", "times as fast", "... by wall, median"),
        table,
        [note],
    )


def main() -> None:
    """Print both tables."""
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.chdir(name),
    ):  # the packed cache lies in the working directory
        task = create(bench_settings())
        data_table(task)
        step_table(task, Path(name))
