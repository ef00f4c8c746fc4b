"""What a loop costs a step: the engine with everything on, the libraries with everything off, and a loop by hand.

All train the same tiny model with fused Adam and a clipped gradient. The time of a step is taken by the model itself
(`turns.Stamped`), so it is the whole step whoever runs it. Wall and CPU time are those of the main thread.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.bench.ours import train_tiny
from tests.bench.peers import PEERS, Batches, by_hand, quietly
from tests.bench.tiny import tiny_batches, tiny_model
from tests.bench.turns import Stamped, in_turns, paired, print_table, step_micros

STEPS, WARM_UP, WINDOW, ROUNDS = 1000, 200, 100, 5
OURS = "trainer, all default listeners"
BY_HAND = "by hand: clip_grad_norm_, GradScaler off"

Result = dict[str, float]


def times_of(model: Stamped) -> Result:
    """Microseconds per step: the best window of 100 steps, as `cpu` and `wall`, and the median one."""
    assert len(model.wall) >= STEPS + WARM_UP, f"{len(model.wall)} steps were seen"
    cpu, wall = (step_micros(stamps, STEPS, WINDOW) for stamps in (model.cpu, model.wall))
    return {"cpu": min(cpu), "wall": min(wall), "median cpu": statistics.median(cpu)}


def of_peer(train: Callable[[torch.nn.Module, Batches], None], batches: Batches) -> Callable[[], Result]:
    """A contender that trains a model on a list."""

    def run() -> Result:
        model = tiny_model()
        quietly(train, model, batches)
        return times_of(model)

    return run


def of_ours(batches: Batches) -> Callable[[], Result]:
    """The engine; every round is a run of its own."""

    def run() -> Result:
        with tempfile.TemporaryDirectory() as folder:
            return times_of(train_tiny(batches, Path(folder)))

    return run


def present(batches: Batches) -> tuple[dict[str, Callable[[], Result]], list[str]]:
    """Contenders that run on this machine, and a line for each that does not."""
    contenders, missing = {}, []
    for name, train in PEERS.items():
        try:
            quietly(train, tiny_model(), batches[:50])
        except ImportError as error:
            missing.append(f"{name} is not installed ({error.name}); make bench installs it")
            continue
        contenders[name] = of_peer(train, batches)
    return contenders, missing


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    batches = tiny_batches(STEPS + WARM_UP)
    peers, notes = present(batches)
    contenders = {
        BY_HAND: of_peer(by_hand, batches),
        OURS: of_ours(batches),
        "by hand, once more (noise)": of_peer(by_hand, batches),
        **peers,
    }
    runs = in_turns(contenders, ROUNDS)
    rows = []
    for name, results in runs.items():
        over = {
            key: paired([r[key] for r in results], [r[key] for r in runs[BY_HAND]], lambda a, b: a - b)
            for key in ("cpu", "median cpu", "wall")
        }
        absolute = statistics.median(r["cpu"] for r in results)
        rows.append(
            (name, f"{absolute:.0f}", f"{over['cpu']:+.0f}", f"{over['median cpu']:+.0f}", f"{over['wall']:+.0f}")
        )
    columns = ("loop", "CPU us/step", "over by hand", "... median window", "... wall")
    notes.append(
        f"best of {STEPS // WINDOW} windows of {WINDOW} steps, median of {ROUNDS} rounds; target: at most +50 us"
    )
    print_table("Cost of the loop, main thread", columns, rows, notes)
