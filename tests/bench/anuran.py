"""Settings for the anuran calls, chosen by the training frogs of the fixed record split alone.

The rule, written down before the first number:

1. The 2,226 test rows take no part. The training records of every species are dealt into three folds at random,
   anew for each seed; a fold's frogs are held out once, the others train. A species with a single training record stays
   in training and is not scored.
2. A candidate's score is the mean of accuracy and balanced accuracy of the finest level over the answers of all folds,
   averaged over the seeds. The highest score wins, the earlier one of equals.
3. The winner is tried again with validation frogs of its own, taken from those that train: with the weights of the last
   step, and with the best by their balanced accuracy. The better of the two is taken unless it loses more than 0.01 to
   training on all of them.

What won (60 epochs with noise 0.6, score .830) was then run on the test with five seeds, once: .703 accuracy and .591
balanced, less than the reference SVC (.739, .630). So it is not what the preset `anuran` has; its settings came second
here (.819) and had been searched before with the test in view, which its header says.
"""

import contextlib
import copy
import csv
import io
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench import size
from tests.bench.ours import train_whole
from tests.bench.turns import print_table
from trainer.config.hierarchy import HierarchySettings
from trainer.config.sources import load_settings
from trainer.data.dataset import Indices
from trainer.data.keys import derive
from trainer.engine.task import PassResult
from trainer.tasks.hierarchy.rows import RowSets, open_data
from trainer.tasks.hierarchy.split import held_out
from trainer.tasks.hierarchy.task import HierarchyTask

FILE = "anuran_calls/Frogs_MFCCs.csv"
NUM_FOLDS, VAL_SHARE, MARGIN = 3, 0.15, 0.01
USUAL = {
    "data.layout": "csv",
    "data.levels": "[Species, Genus, Family]",
    "data.features": "['MFCCs_*']",
    "data.split.by": "given",
    "batch_size": "128",
    "num_epochs": "30",
    "optim.lr": "1e-3",
    "schedule": "{warmup: 10%, warmup_from: 0.0, floor: 0.0}",
    "model.width": "256",
    "model.depth": "2",
    "model.joint_width": "64",
    "model.dropout": "0.2",
    "loss.class_weights": "inverse",
    "passes.val": "never and end",
    "checkpoint.every": "never",
    "device": "cpu",
    "threads": "1",
}
Changes = dict[str, str]
CANDIDATES: dict[str, Changes] = {
    "the preset: width 256, inverse class weights, 30 epochs": {},
    "width 64": {"model.width": "64"},
    "no class weights": {"loss.class_weights": "none"},
    "10 epochs": {"num_epochs": "10"},
    "60 epochs, noise 0.6": {"num_epochs": "60", "data.augment.noise": "0.6"},
    "mixed within the species": {"mix.probability": "1 @ 0"},
    "tree smoothing": {"loss.criterion": "tree_smoothing"},
    "dropout 0.5, weight decay 0.5": {"model.dropout": "0.5", "optim.weight_decay": "0.5"},
}
OWN_VALIDATION: dict[str, Changes] = {
    "validation frogs of its own, last weights": {},
    "validation frogs of its own, best weights": {
        "passes.val": "every 1 epochs",
        "checkpoint.every": "every 1 epochs",
        "best.metric": "val/Species/balanced",
    },
}
Rows = list[dict[str, str]]
Confusion = NDArray[np.int64]


class Noted(HierarchyTask):
    """Keeps the confusion of the finest level of each pass."""

    def __init__(self, settings: HierarchySettings, rows: RowSets) -> None:
        super().__init__(settings, rows)
        self.confusion: dict[str, Confusion] = {}

    def summarize(self, name: str, sums: dict) -> PassResult:
        """As ever, with a note of it; the last of a pass, with the final weights, stays."""
        result = super().summarize(name, sums)
        cells = result.detail["levels"][self.tree.levels[0]]["confusion"]
        found = np.zeros((self.tree.num_classes[0],) * 2, np.int64)
        for true, answer, count in cells:
            found[true, answer] = count
        self.confusion[name] = found
        return result


def training_rows() -> Rows:
    """The rows of the training records of the fixed split, in the file's order."""
    root = Path(__file__).resolve().parents[2]
    path = Path(os.environ.get("SHARED_DATA") or root.parent / "shared" / "data") / FILE
    split = "data={layout: csv, levels: [Species], features: ['MFCCs_1'], group: RecordID}"
    fixed = "data.split={by: fixed, val_share: 0}"
    loaded = load_settings(task="hierarchy", overrides=[split, fixed, f"data.path={path}"], flags={}).settings
    assert isinstance(loaded, HierarchySettings)
    chosen = open_data(loaded).plain.table.where.tolist()
    with path.open(encoding="utf-8", newline="") as file:
        by_line = {f"line {number}": row for number, row in enumerate(csv.DictReader(file), 2)}
    return [by_line[where] for where in chosen]


def parts(rows: Rows, seed: int, fold: int, val_share: float) -> list[str]:
    """`train`, `val` or `test` of each row: the fold's frogs test; without a share they validate."""
    species = {row["RecordID"]: row["Species"] for row in rows}
    side = dict.fromkeys(species, "train")
    for kind in sorted(set(species.values())):
        own = sorted((one for one in species if species[one] == kind), key=lambda one: derive(seed, "fold", one))
        for place, record in enumerate(own):
            if len(own) > 1 and place % NUM_FOLDS == fold:
                side[record] = "test" if val_share else "val"
    if val_share:
        free = np.array([one for one in species if side[one] == "train"])
        kinds: Indices = np.unique([species[one] for one in free], return_inverse=True)[1].astype(np.int64)
        for place in held_out(free, kinds, val_share, seed, np.arange(len(free))).tolist():
            side[str(free[place])] = "val"
    return [side[row["RecordID"]] for row in rows]


def answers(rows: Rows, changes: Changes, seed: int, fold: int, val_share: float) -> Confusion:
    """Train without a fold, and how its frogs were taken."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*rows[0], "split"])
            sides = parts(rows, seed, fold, val_share)
            writer.writerows([*row.values(), side] for row, side in zip(rows, sides, strict=True))
        own = {"data.path": str(path), "seed": str(seed)}
        settings = load_settings(
            task="hierarchy",
            overrides=[f"{name}={value}" for name, value in (USUAL | changes | own).items()],
            flags={},
        ).settings
        assert isinstance(settings, HierarchySettings)
        task = Noted(settings, open_data(settings))
        with contextlib.redirect_stdout(io.StringIO()):
            train_whole(task, copy.deepcopy(settings), Path(folder) / "runs")
        return task.confusion["test" if val_share else "val"]


def scores(rows: Rows, changes: Changes, val_share: float = 0.0) -> tuple[float, float]:
    """Accuracy and balanced accuracy over the answers of all folds, mean over the seeds."""
    found = []
    for seed in range(size("SEEDS", 2)):
        confusion = sum(answers(rows, changes, seed, fold, val_share) for fold in range(NUM_FOLDS))
        support = np.asarray(confusion).sum(1)
        recall = np.diag(confusion)[support > 0] / support[support > 0]
        found.append((np.trace(confusion) / support.sum(), recall.mean()))
    accuracy, balanced = np.mean(found, axis=0).tolist()
    return accuracy, balanced


def score(found: tuple[float, float]) -> float:
    """What the rule compares."""
    return sum(found) / 2


def main() -> None:
    """Choose, and print every number that was looked at."""
    rows = training_rows()
    found = {name: scores(rows, changes) for name, changes in CANDIDATES.items()}
    winner = max(found, key=lambda name: score(found[name]))
    own = {name: scores(rows, CANDIDATES[winner] | changes, VAL_SHARE) for name, changes in OWN_VALIDATION.items()}
    best_own = max(own, key=lambda name: score(own[name]))
    taken = best_own if score(own[best_own]) >= score(found[winner]) - MARGIN else "training on all of them"
    table = [
        (name, f"{accuracy:.3f}", f"{balanced:.3f}", f"{score((accuracy, balanced)):.3f}")
        for name, (accuracy, balanced) in (found | own).items()
    ]
    print_table(
        f"The preset anuran: {NUM_FOLDS} folds of {len(rows):,} training rows, {size('SEEDS', 2)} seeds",
        ("settings", "accuracy", "balanced", "score"),
        table,
        [f"taken: {winner}; {taken}"],
    )
