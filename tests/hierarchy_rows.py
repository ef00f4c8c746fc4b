"""Small tables, trees and data sets of rows for the tests of the task `hierarchy`."""

from pathlib import Path

import numpy as np

from trainer.config.expressions import Course, Curve
from trainer.config.hierarchy import Combination, HierarchyAugment, HierarchySettings, MixSettings
from trainer.config.sources import load_settings
from trainer.data.plan import FixedPlan, Plan
from trainer.tasks.hierarchy.augment import Augment
from trainer.tasks.hierarchy.blocks import BlockMap
from trainer.tasks.hierarchy.dataset import Curves, TrainingRows
from trainer.tasks.hierarchy.masks import Combinations
from trainer.tasks.hierarchy.table import Table
from trainer.tasks.hierarchy.tree import Labels, Tree
from trainer.tasks.hierarchy.tree_build import Builder

HEADER = "fine,mid,coarse,x1,x2,site_a,site_b,who"
ROWS = [f"f{n % 6},m{n % 6 // 2},c{n % 6 // 4},{n},{n % 7},{n % 3}.5,{n % 2},r{n % 8}" for n in range(48)]


def settings_of(*overrides: str, **flags: str) -> HierarchySettings:
    """Settings of the task with these overrides."""
    loaded = load_settings(task="hierarchy", overrides=overrides, flags=flags).settings
    assert isinstance(loaded, HierarchySettings)
    return loaded


def table_settings(path: Path, *overrides: str) -> HierarchySettings:
    """For a table as `write_table` makes it; overrides take the place of what is said here."""
    usual = {
        "data.path": str(path),
        "data.levels": "[fine, mid, coarse]",
        "data.features": "[x1, x2]",
        "data.blocks": "{SITE: [site_a, site_b]}",
        "data.group": "who",
    }
    merged = usual | dict(text.split("=", 1) for text in overrides)
    return settings_of(*(f"{name}={value}" for name, value in merged.items()))


def write_table(folder: Path, rows: list[str] | None = None, header: str = HEADER) -> Path:
    """A CSV file of these rows; by default a good one of 48 rows and 8 records."""
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *(ROWS if rows is None else rows)]) + "\n", encoding="utf-8")
    return path


def tree_of(labels: Labels, *, on_conflict: str = "error", sizes: tuple[int, ...] = ()) -> Tree:
    """The tree of rows of numbers, classes called by level and number."""
    levels = ["fine", "mid", "coarse", "top"][: labels.shape[1]]
    sizes = sizes or tuple((labels.max(0) + 1).tolist())
    names = [[f"{level[0]}{cls}" for cls in range(size)] for level, size in zip(levels, sizes, strict=True)]
    return Builder(levels, names, labels, lambda row: f"line {row + 2}", on_conflict).build()


def constant(value: float) -> Course:
    """A curve that never moves."""
    return Curve.parse(f"{value} @ 0").resolve(1000, 10)


def training_rows(
    labels: Labels,
    *,
    valid: np.ndarray | None = None,
    widths: dict[str, int] | None = None,
    plan: Plan | None = None,
    seed: int = 0,
    mix: float | None = None,
    mask_all: float | None = None,
    mask_partial: float | None = None,
    level: int = 0,
    features: np.ndarray | None = None,
    mixing: MixSettings | None = None,
    augment: HierarchyAugment | None = None,
    combinations: list[Combination] | None = None,
) -> TrainingRows:
    """Rows whose features are their number; blocks hold number + 1, where they are valid."""
    size, blocks = len(labels), BlockMap(widths or {"A": 1, "B": 2, "C": 1})
    valid = np.ones((size, len(blocks.names)), bool) if valid is None else valid
    features = np.arange(size, dtype=np.float32)[:, None] if features is None else features
    values = np.arange(1, size + 1, dtype=np.float32)[:, None].repeat(blocks.width, 1)
    table = Table(
        features=features,
        labels=labels,
        blocks=np.where(valid[:, blocks.owner], values, np.float32(0)),
        valid=valid,
        where=np.array([f"row {row}" for row in range(size)]),
    )
    courses = {"mix": mix, "mask_all": mask_all, "mask_partial": mask_partial}
    return TrainingRows(
        table,
        blocks,
        plan=plan or FixedPlan(size, 64, seed),
        seed=seed,
        curves=Curves(constant(level), **{name: None if p is None else constant(p) for name, p in courses.items()}),
        mix=mixing or MixSettings(),
        combinations=Combinations.of(blocks, combinations or []),
        augment=Augment(
            augment or HierarchyAugment(), np.ones((features.shape[1], 1, 1)[: features.ndim - 1], np.float32), seed
        ),
    )
