"""Runs of T1 (hierarchy reference, section 15) with everything at once: balance, mixing, masks, accumulation, dropout.

64 rows a step in two micro-batches, 12 epochs of 10 steps; a pass every 40 steps and five masked ones every 60: 228
forward passes of training, 13 passes of 5 batches, 185 ticks (a step, or a batch of a pass).
"""

import os
import signal
from pathlib import Path
from typing import Any

from tests.s3.runs import end_state
from tests.toy import Attempt, toy_settings, train_toy
from trainer.checkpoint.restore import Restored, load_checkpoint
from trainer.checkpoint.stores import open_store
from trainer.config.hierarchy import HierarchySettings
from trainer.tasks.hierarchy.rows import open_data
from trainer.tasks.hierarchy.task import HierarchyTask, create
from trainer.telemetry.reading import Record, effective, read_run, select

RUN = "t1"
NUM_STEPS, NUM_PASSES, BATCHES_OF_PASS = 120, 13, 5
NUM_FORWARDS = 228 + NUM_PASSES * BATCHES_OF_PASS
NUM_TICKS = NUM_STEPS + NUM_PASSES * BATCHES_OF_PASS
FINAL_FORWARDS = 6 * BATCHES_OF_PASS
"""Of the passes with the best weights after the end, which are no part of the run."""
TIMES = {"wall", "mono", "attempt", "seconds", "samples_per_second", "data_wait_seconds", "seconds_left",
         "peak_memory_bytes"}  # fmt: skip
"""What clocks and memory decide."""


def t1_settings(folder: Path, **values: Any) -> HierarchySettings:
    """As `toy_settings`; what depends on the step does so on every one of them."""
    usual = {
        "num_epochs": 12, "batch_size": 64, "eval_batch_size": 32, "accumulation": 2, "data__layout": "t1",
        "run__name": RUN, "model__dropout": 0.1, "schedule__name": "cosine", "schedule__warmup": "1 epochs",
        "balance__kind": "gradnorm", "balance__every": "every 7 steps",
        "mix__probability": "1 @ 0, 0.2 @ 100%", "mix__level": "coarse @ 0, mid @ 30%, fine @ 60%",
        "mask__all": "0.5 @ 0, 0 @ 100%", "mask__partial": "0.3 @ 0",
        "mask__passes": ["all", "each", "SITE+SEASON"], "mask__when": "every 60 steps",
        "passes": {"val": "every 40 steps", "val_mask_all": "every 60 steps"},
        "checkpoint__every": "every 1 epochs and end",
    }  # fmt: skip
    return toy_settings(folder, HierarchySettings, **(usual | values))


class Told(HierarchyTask):
    """Is told to stop at a tick, or at a batch of the passes."""

    def __init__(self, settings: HierarchySettings, tick: int | None = None, batch: int | None = None) -> None:
        super().__init__(settings, open_data(settings))
        self.tick, self.batch = tick, batch
        self.trained, self.passed = 0, 0
        """Forward passes of one process so far."""
        self._steps = 0.0

    def loss(self, model, batch):
        self.trained += 1
        self._steps += 0.5 if len(batch["index"]) == 32 else 1  # the last step of an epoch has one micro-batch
        self._look()
        return super().loss(model, batch)

    def evaluate(self, model, batch):
        self.passed += 1
        self._look()
        return super().evaluate(model, batch)

    def _look(self) -> None:
        if self._steps + self.passed == self.tick or self.passed == self.batch:
            self.batch = None
            os.kill(os.getpid(), signal.SIGTERM)


def ledger(folder: Path) -> list[Record]:
    """The effective ledger."""
    return effective(read_run(open_store(f"file://{folder}"), RUN))


def lines(folder: Path) -> list[Record]:
    """The steps, measurements and passes of the effective ledger, without what only clocks decide."""
    records = ledger(folder)
    kept = [one for kind in ("StepDone", "Balanced", "PassDone") for one in select(records, kind)]
    return [{name: value for name, value in one.items() if name not in TIMES} for one in kept]


def newest(folder: Path) -> Restored:
    """The newest checkpoint, verified."""
    found = load_checkpoint(open_store(f"file://{folder}"), RUN)
    assert found is not None
    return found


def ends(folder: Path) -> tuple[dict[str, bytes], dict, list[Record]]:
    """End tensors, the state of the balance, and the ledger."""
    return end_state(f"file://{folder}", RUN), newest(folder).meta["balance"], lines(folder)


def here(folder: Path, **values: Any) -> None:
    """One attempt in this process."""
    train_toy(t1_settings(folder, **values), create)


def whole(folder: Path, world_size: int = 1, **values: Any) -> None:
    """One attempt in processes of its own that comes to the end."""
    assert Attempt(t1_settings(folder, **values), world_size, task_class=create).wait() == [0] * world_size


def killed(folder: Path, point: str, world_size: int = 1, **values: Any) -> None:
    """One attempt whose first process is killed at a point (`trainer.checkpoint.crash`)."""
    codes = Attempt(t1_settings(folder, **values), world_size, point, task_class=create).wait()
    assert codes[0] == 128 + signal.SIGKILL, f"{point} was never met: {codes}"


def check_ledger(folder: Path) -> None:
    """No gap, no duplicate."""
    records = ledger(folder)
    assert [one["step"] for one in select(records, "StepDone")] == list(range(1, NUM_STEPS + 1))
    passes = [(one["step"], one["name"]) for one in select(records, "PassDone") if not one["is_final"]]
    assert len(passes) == len(set(passes)) == NUM_PASSES
