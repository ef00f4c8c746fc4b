"""What a checkpoint costs: the stall next to one memory copy, the training time lost next to other ways, and memory.

A short stall is not a small cost: what goes on behind takes the cores from the step. So training goes on until the
checkpoint is written, and what these steps took longer than the steps of a block without one is the time lost.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.bench import size
from tests.bench.memory import rss_anon, watching
from tests.bench.ours import OwnWay, own_way
from tests.bench.turns import in_turns, paired, print_table

BLOCK_SECONDS = 5.0
ROUNDS = 3
WIDTH = 4096


class Training:
    """A model of `millions` of parameters with Adam, and steps that keep the cores busy."""

    def __init__(self, millions: int) -> None:
        num_layers = max(1, round(millions * 1e6 / WIDTH**2))
        self.model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(num_layers)))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-5, fused=True)
        self.inputs = torch.randn(8, WIDTH)
        self.run(1)
        self.optimizer.zero_grad()

    def run(self, num_steps: int) -> float:
        """Seconds of that many steps."""
        started = time.perf_counter()
        for _ in range(num_steps):
            self.model(self.inputs).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.perf_counter() - started

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """References to the whole state, by the names of a checkpoint."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        optimizer = {f"{k}/{names[p]}": v for p, state in self.optimizer.state.items() for k, v in state.items()}
        return {"model": dict(self.model.state_dict()), "optimizer": optimizer}

    def size_bytes(self) -> int:
        """Bytes of the state."""
        return sum(value.nbytes for part in self.tensors().values() for value in part.values())


class Way(Protocol):
    """One way of saving."""

    def take(self, training: Training) -> None:
        """Begin; training may go on when this returns."""
        ...

    def is_done(self) -> bool:
        """Whether the checkpoint is written; raises what made it impossible."""
        ...


class TorchSave:
    """`torch.save` in line, as most programs do; it does not sync the file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "torch.pt"

    def take(self, training: Training) -> None:
        """Write it all."""
        torch.save({"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}, self.path)

    def is_done(self) -> bool:
        """It is written already."""
        return True


class DcpAsync:
    """`torch.distributed.checkpoint.async_save`, with its own defaults."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.pending = folder, 0, None

    def take(self, training: Training) -> None:
        """Copy and hand over."""
        import torch.distributed.checkpoint as dcp

        shutil.rmtree(self.folder / f"dcp-{self.number - 1}", ignore_errors=True)
        place = self.folder / f"dcp-{self.number}"
        self.number += 1
        self.pending: Any = dcp.async_save(training.tensors(), checkpoint_id=str(place))

    def is_done(self) -> bool:
        """Whether its thread is."""
        return self.pending.done() and self.pending.result() is not None


class Costs:
    """Stall and lost time of one way, block by block."""

    def __init__(self, training: Training, num_steps: int) -> None:
        self.training, self.num_steps = training, num_steps

    def with_checkpoint(self, way: Way) -> tuple[float, float, int]:
        """Seconds and steps from the start of a checkpoint until it is written, a block at least; and the stall."""
        started = time.perf_counter()
        way.take(self.training)
        stall = time.perf_counter() - started
        num_steps = 0
        while num_steps < self.num_steps or not way.is_done():
            self.training.run(1)
            num_steps += 1
        return time.perf_counter() - started, stall, num_steps

    def of(self, way: Way) -> Callable[[], tuple[float, float]]:
        """A round: a block without, one with; gives (lost seconds, stall seconds)."""

        def measure() -> tuple[float, float]:
            step = self.training.run(self.num_steps) / self.num_steps
            seconds, stall, num_steps = self.with_checkpoint(way)
            return seconds - num_steps * step, stall

        return measure


@contextmanager
def one_process_group(folder: Path) -> Iterator[None]:
    """What `async_save` asks for even in one process."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def copy_seconds(training: Training, buffers: dict[str, dict[str, Tensor]]) -> float:
    """One plain copy of the state into memory that was touched before."""
    started = time.perf_counter()
    for part, values in training.tensors().items():
        for name, value in values.items():
            buffers[part][name].copy_(value)
    return time.perf_counter() - started


def stall_table(training: Training, own: OwnWay) -> None:
    """The stall of our checkpoint against one memory copy, with nothing else going on."""
    buffers = {part: {k: v.clone() for k, v in values.items()} for part, values in training.tensors().items()}

    def take() -> float:
        started = time.perf_counter()
        own.take(training)
        stall = time.perf_counter() - started
        own.wait()
        return stall

    runs = in_turns({"one memory copy": lambda: copy_seconds(training, buffers), "stall": take}, 5)
    ratio = paired(runs["stall"], runs["one memory copy"], lambda a, b: a / b)
    rows = [(name, f"{statistics.median(values) * 1e3:.0f}") for name, values in runs.items()]
    print_table("Stall of a checkpoint", ("what", "ms, median"), rows, [f"stall / copy: {ratio:.2f} (target: <= 1.30)"])


def memory_table(training: Training, own: OwnWay, before: int) -> None:
    """RssAnon with a checkpoint in flight; `before` was read before there was a model."""
    state = training.size_bytes()
    without = rss_anon() - before
    with watching() as peak:
        own.take(training)
        own.wait()
    rows = [
        ("state (model and optimizer)", f"{state / 1e9:.2f}", "1.00"),
        ("RssAnon over an empty process, no checkpoint yet", f"{without / 1e9:.2f}", f"{without / state:.2f}"),
        (
            "... peak with one in flight",
            f"{(peak.size_bytes - before) / 1e9:.2f}",
            f"{(peak.size_bytes - before) / state:.2f}",
        ),
    ]
    print_table("Memory of a checkpoint", ("what", "GB", "x state"), rows, ["target: peak <= 2 x state"])


def lost_table(training: Training, ways: dict[str, Way]) -> None:
    """Training time lost per checkpoint, each way in turn."""
    num_steps = max(4, round(BLOCK_SECONDS / (training.run(4) / 4)))
    costs = Costs(training, num_steps)
    for way in ways.values():  # first use allocates
        costs.with_checkpoint(way)
    runs = in_turns({name: costs.of(way) for name, way in ways.items()}, ROUNDS)
    rows = []
    for name, values in runs.items():
        lost, stalls = [value[0] for value in values], [value[1] for value in values]
        spread = f"{min(lost):.2f} to {max(lost):.2f}"
        rows.append((name, f"{statistics.median(stalls):.3f}", f"{statistics.median(lost):.2f}", spread))
    columns = ("way", "stall, s", "training time lost, s", "range of the rounds")
    notes = [
        f"blocks of {num_steps} steps without, then with a checkpoint until it is written; {ROUNDS} rounds in turns",
        "torch.save does not sync its file to the disk, trainer does",
    ]
    print_table(f"Cost of a checkpoint of {training.size_bytes() / 1e9:.2f} GB", columns, rows, notes)


def main() -> None:
    """Print the three tables."""
    torch.set_num_threads(2)
    Training(1)  # what torch itself needs once is no part of a state
    before = rss_anon()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = Training(size("MILLIONS", 100))
        with own_way(folder / "store") as own:
            memory_table(training, own, before)
            stall_table(training, own)
            with one_process_group(folder):
                ways: dict[str, Way] = {
                    "torch.save": TorchSave(folder),
                    "torch.distributed.checkpoint.async_save": DcpAsync(folder),
                    "trainer": own,
                }
                lost_table(training, ways)
