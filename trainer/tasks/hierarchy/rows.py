"""From settings to the data sets of a run: plan, curves, training rows, evaluation rows."""

from dataclasses import dataclass

from trainer.config.expressions import Course, Curve
from trainer.config.hierarchy import HierarchySettings, level_curve
from trainer.data.plan import FixedPlan, Plan
from trainer.engine.setup import run_length
from trainer.errors import DataError, SettingsError
from trainer.tasks.hierarchy.augment import IMAGE_CHANGES, Augment
from trainer.tasks.hierarchy.dataset import Curves, HierarchyRows, TrainingRows
from trainer.tasks.hierarchy.masks import Combinations
from trainer.tasks.hierarchy.opening import Opened, open_rows
from trainer.tasks.hierarchy.order import PairPlan
from trainer.tasks.hierarchy.table import Table


@dataclass(frozen=True)
class RowSets:
    """Everything of the data side that a task needs."""

    opened: Opened
    train: TrainingRows
    plain: HierarchyRows
    """The training rows unchanged."""
    evaluated: dict[str, HierarchyRows]
    """`val`, and `test` where there are such rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features of one row."""
        return tuple(self.plain.table.features.shape[1:])


def open_data(settings: HierarchySettings) -> RowSets:
    """Open the data, fill in `data.digest` and `data.tree_digest`. Raises DataError and SettingsError."""
    opened = open_rows(settings)
    _seal(settings, opened)
    parts = {
        name: HierarchyRows(opened.table.keep(rows), opened.blocks) for name, rows in opened.parts.items() if len(rows)
    }
    plain = parts.pop("train")
    _refuse_vectors(settings, plain.table, opened.path)
    curves = _curves(settings, len(plain))
    combinations = Combinations.of(opened.blocks, settings.mask.combinations) if opened.blocks.names else None
    train = TrainingRows(
        plain.table,
        opened.blocks,
        plan=_plan(settings, plain, curves),
        seed=settings.seed,
        curves=curves,
        mix=settings.mix,
        combinations=combinations,
        augment=Augment(settings.data.augment, plain.statistics[1], settings.seed),
    )
    return RowSets(opened, train, plain, parts)


def _plan(settings: HierarchySettings, plain: HierarchyRows, curves: Curves) -> Plan:
    if settings.data.order == "pairs":
        return PairPlan(plain.labels, settings.batch_size, settings.seed, curves.level)
    return FixedPlan(len(plain), settings.batch_size, settings.seed)


def _seal(settings: HierarchySettings, opened: Opened) -> None:
    """Digests of data and tree, so that other data are another run, wherever they lie."""
    for name, value in (("digest", opened.table.digest), ("tree_digest", opened.tree.digest)):
        if getattr(settings.data, name) not in (None, value):
            raise DataError(
                f"{opened.path} gives the digest {value}, data.{name} is {getattr(settings.data, name)}: other data"
            )
        setattr(settings.data, name, value)


def _curves(settings: HierarchySettings, num_rows: int) -> Curves:
    """The settings' curves for the length of this run."""
    per_epoch = -(-num_rows // settings.batch_size)
    total = run_length(settings, per_epoch)

    def course(name: str, text: str | None) -> Course | None:
        return None if text is None else Curve.parse(text).resolve(total, per_epoch, name)

    return Curves(
        mix=course("mix.probability", settings.mix.probability),
        level=level_curve(settings.mix.level, settings.levels).resolve(total, per_epoch, "mix.level"),
        mask_all=course("mask.all", settings.mask.all),
        mask_partial=course("mask.partial", settings.mask.partial),
    )


def _refuse_vectors(settings: HierarchySettings, table: Table, path: str) -> None:
    """What is for images only is refused for vectors."""
    if table.features.ndim == 4:
        return
    wanted = {f"data.augment.{name}": getattr(settings.data.augment, name) for name in IMAGE_CHANGES}
    wanted |= {"mix.cutmix": settings.mix.cutmix, "model.trunk: cnn": settings.model.trunk == "cnn"}
    for name, is_on in wanted.items():
        if is_on:
            raise SettingsError(f"{name} is for images; {path} has vectors of {table.features.shape[1]} features")
