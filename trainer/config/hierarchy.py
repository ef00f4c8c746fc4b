"""Settings of the task `hierarchy`: rows with labels on the levels of a tree, blocks of metadata, model and loss.

Levels are always listed from fine to coarse, and everything that belongs to a level is keyed by its name.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from trainer.config.base import Section, setting
from trainer.config.expressions import Curve
from trainer.config.settings import CommonSettings, OptimSettings, ScheduleSettings
from trainer.config.texts import AmountText, CurveText, TriggerText

TOY_LEVELS = ["fine", "mid", "coarse"]
TOY_BLOCKS = {"SITE": 3, "SEASON": 2, "ELEV": 4}
"""Blocks of the generated sets and how many columns they have."""
TOYS = ("t1", "t2")
PASS_SETS = ("all", "each", "subsets")
"""Words that stand for sets of blocks in `mask.passes`."""
Criterion = Literal["cross_entropy", "label_smoothing", "tree_smoothing"]


class HierarchySplit(Section):
    """Which rows train, validate and test. The same file and seed give the same split on any machine."""

    by: Literal["row", "record", "fixed", "given"] = setting("record")
    """`record`: by the hash of the row's record (`data.group`), so that no record is on both sides; `row`: of the row
    itself, which is no fair test where rows of one record are alike; `fixed`: of the records of every finest class the
    last third (sorted, at least one) test; `given`: a column `split` says train, val or test."""
    val_share: float = setting(0.2, ge=0, lt=1)
    """Share of the rows or records that validates; with `fixed` of those that are left, never the last one of a class,
    and 0 lets the test rows validate: then nothing may be chosen by them."""
    test_share: float = setting(0.0, ge=0, lt=1)
    """Share that is kept for the test at the end; for `row` and `record`."""
    seed: int = setting(42, ge=0)


class HierarchyAugment(Section):
    """Random changes of training rows, keyed by (seed, epoch, row); labels and blocks stay as they are."""

    flip: float = setting(0.0, ge=0, le=1)
    """Images: probability of a mirror image."""
    crop: int = setting(0, ge=0)
    """Images: largest shift in pixels; what moves in from outside is 0."""
    colour: float = setting(0.0, ge=0, lt=1)
    """Images: half width of the factors on brightness and contrast."""
    erase: float = setting(0.0, ge=0, le=1)
    """Images: probability that a rectangle of 2 to 20 % of the area becomes 0."""
    noise: float = setting(0.0, ge=0)
    """Standard deviation of Gaussian noise, in standard deviations of each feature over the training rows."""


class HierarchyData(Section):
    """Where the rows are, which columns they have, and how they become batches."""

    path: str | None = setting(None, flag="--data", matters=False)
    """A file `.csv`, `.parquet` or `.npz`, a folder of images with a table `index.csv`, a folder that `trainer prepare`
    packed, or `s3://bucket/folder` with one."""
    digest: str | None = setting(None)
    """Of rows, labels and blocks; filled in when the run is made, so that other data are another run."""
    tree_digest: str | None = setting(None)
    """Of the label tree; filled in when the run is made."""
    layout: Literal["auto", "packed", "csv", "parquet", "npz", "images", "t1", "t2"] = setting("auto")
    """`packed` is what `trainer prepare` makes, `t1` and `t2` are generated; `auto` finds out by the names of files."""
    levels: list[str] = setting([])
    """Columns of the labels from fine to coarse; an empty cell is an unknown label."""
    features: list[str] = setting([])
    """Columns of the features, as names or patterns (`MFCCs_*`); for CSV and Parquet."""
    image_column: str = setting("image")
    """For `images`: the column of the table with the file of each image."""
    image_size: int = setting(64, ge=4)
    """For `images`: height and width in pixels after scaling."""
    blocks: dict[str, list[str]] = setting({})
    """Columns (names or patterns) of each block of metadata; a block with an empty cell is invalid in that row."""
    group: str | None = setting(None)
    """Column of the record (individual, session, site) that a row belongs to."""
    tree: str | None = setting(None, matters=False)
    """A CSV table with the columns `levels` that is the tree, in place of the training rows; packed rows have it with
    them."""
    fill: bool = setting(True)
    """A known finer label fills every missing coarser one."""
    on_conflict: Literal["error", "majority"] = setting("error")
    """Two parents for one class: refused, or the more frequent one counts."""
    drop_partial: bool = setting(False)
    """Leave out rows with any unknown label."""
    drop_gaps: bool = setting(False)
    """Leave out rows where a coarser label is missing under a known finer one, after filling."""
    bad_samples: Literal["fail", "skip"] = setting("fail", matters=False)
    """What to do with images that do not decode, cells that are no numbers, and labels that contradict the tree."""
    bad_budget: int = setting(100, ge=0, matters=False)
    """Bad rows that `skip` tolerates."""
    split: HierarchySplit = setting(HierarchySplit())
    order: Literal["shuffle", "pairs"] = setting("shuffle")
    """`pairs` puts two rows of a group (`mix.level`) next to each other; every row once an epoch."""
    augment: HierarchyAugment = setting(HierarchyAugment())
    subsets: dict[str, list[str]] = setting({}, matters=False)
    """Named sets of finest classes; passes report the accuracy on each as `subset_<name>`."""
    toy_seed: int = setting(0, ge=0)
    """For `t1` and `t2`: chooses the rows."""

    @field_validator("blocks")
    @classmethod
    def _sort_blocks(cls, blocks: dict[str, list[str]]) -> dict[str, list[str]]:
        """By name: the order gives the model its columns, and neither run.json nor a chart keeps another."""
        return dict(sorted(blocks.items()))


class MixSettings(Section):
    """Blending of rows of the same group, in training only."""

    probability: CurveText | None = setting(None)
    """That a global batch is mixed, over the run (`1 @ 0, 0.2 @ 100%`); null is off."""
    alpha: float = setting(1.0, gt=0)
    """Of the beta distribution of the share that a row keeps."""
    cutmix: bool = setting(False)
    """Images: half of the mixed batches exchange a rectangle instead of blending."""
    level: str | None = setting(None)
    """Whose classes are the groups: a level, or levels over the run (`coarse @ 0, mid @ 30%, fine @ 60%`); null: the
    finest."""


class Combination(Section):
    """Blocks that are masked together in training."""

    blocks: list[str] = setting(min_length=1)
    weight: float = setting(1.0, gt=0)
    """How often, next to the other combinations."""


class MaskSettings(Section):
    """Masking of blocks: zero and invalid, as if the row had never had them."""

    all: CurveText | None = setting(None)
    """Probability that a training row loses all blocks (`1 @ 0, 0 @ 50%`); null is off."""
    partial: CurveText | None = setting(None)
    """Probability that a row that kept them loses one combination; null is off."""
    combinations: list[Combination] = setting([])
    """What `partial` chooses from; empty: every block alone, all alike."""
    passes: list[str] = setting(["all"])
    """Which masked passes there are: `all` blocks, `each` alone, `subsets` (all proper ones), or `SITE+SEASON`."""
    when: TriggerText = setting("never")
    """When the masked passes but `val_mask_all` run; `passes` names single ones."""
    final: bool = setting(False)
    """A pass for every proper subset of the blocks at the end."""


class HierarchyModel(Section):
    """A trunk over the features, one over the blocks, a joint layer, and a head for every level."""

    trunk: Literal["mlp", "cnn"] = setting("mlp")
    """`mlp` over vectors and flattened images; `cnn` over images only."""
    width: int = setting(32, ge=1)
    """Of the trunk over the features."""
    depth: int = setting(1, ge=1)
    """Layers of that trunk."""
    block_width: int = setting(24, ge=1)
    """Of the layer over blocks and validity."""
    joint_width: int = setting(40, ge=1)
    """Of the layer that all heads share."""
    dropout: float = setting(0.0, ge=0, lt=1)
    heads: Literal["flat", "sibling"] = setting("flat")
    """`sibling`: the children of a class share its probability."""
    validity: bool = setting(True)
    """The validity of each block is an input of the model; without it a masked block is a block of zeros."""
    input_norm: Literal["dataset", "none"] = setting("dataset")
    """`dataset`: mean and deviation of the training rows, fixed, part of the model."""


class HierarchyLoss(Section):
    """The loss of each level; the weights between the levels are `balance`."""

    criterion: Criterion = setting("cross_entropy")
    """Of every level that `criteria` does not name."""
    criteria: dict[str, Criterion] = setting({})
    """By level."""
    label_smoothing: float = setting(0.1, ge=0, lt=1)
    tree_alpha: float = setting(0.1, ge=0, lt=1)
    """For `tree_smoothing`: what the other classes of the level get together."""
    tree_beta: float = setting(1.0, ge=0)
    """For `tree_smoothing`: how fast a class's part falls with its distance in the tree; 0: all alike."""
    class_weights: Literal["none", "inverse", "capped", "exponential", "log", "explicit"] = setting("none")
    """From the counts of the training rows, mean 1; `explicit`: `weights` as they stand."""
    weights: dict[str, dict[str, Annotated[float, Field(gt=0)]]] = setting({})
    """For `explicit`: by level and class; 1 for what is not named."""
    weigh_passes: bool = setting(False)
    """Class weights in the loss of evaluation passes, too."""


class HierarchyDecode(Section):
    """How the levels' scores become one answer."""

    rule: Literal["independent", "path", "stop"] = setting("path", matters=False)
    """Best class of each level; best complete path; or from coarse to fine until `threshold`, then unknown."""
    threshold: float = setting(0.5, ge=0, le=1, matters=False)
    """For `stop`: smallest probability of a class to go on with."""


class HierarchyOptim(OptimSettings):
    """The optimizer."""

    name: Literal["adam", "adamw", "sgd"] = setting("adamw")
    lr: float = setting(1e-4, gt=0, flag="--lr")
    """The base learning rate."""
    weight_decay: float = setting(0.05, ge=0, flag="--weight_decay")
    """Pull of the weights towards zero."""
    clip: float | None = setting(5.0, gt=0)
    """Largest norm of the gradient; null switches clipping off."""


class HierarchySchedule(ScheduleSettings):
    """The learning rate over the run, as a factor on `optim.lr`."""

    name: Literal["plateau", "cosine", "linear", "step", "wsd", "inverse_sqrt", "constant", "curve"] = setting("cosine")
    warmup: AmountText = setting("5 epochs")
    """Length of the warm-up."""
    warmup_from: float = setting(0.005, ge=0)
    """Factor at step 0 of the warm-up."""
    floor: float = setting(0.1, ge=0)
    """Factor at the end of cosine, linear and wsd; smallest factor of plateau."""


class HierarchySettings(CommonSettings):
    """All settings of a `hierarchy` run."""

    task: Literal["hierarchy"] = setting("hierarchy", flag="--task")
    """What is trained."""
    data: HierarchyData = setting(HierarchyData())
    mix: MixSettings = setting(MixSettings())
    mask: MaskSettings = setting(MaskSettings())
    model: HierarchyModel = setting(HierarchyModel())
    loss: HierarchyLoss = setting(HierarchyLoss())
    decode: HierarchyDecode = setting(HierarchyDecode())
    optim: HierarchyOptim = setting(HierarchyOptim())
    schedule: HierarchySchedule = setting(HierarchySchedule())

    @property
    def levels(self) -> list[str]:
        """Names of the levels, fine to coarse; the toy sets have their own."""
        return self.data.levels or (TOY_LEVELS if self.data.layout in TOYS else [])

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks in their order."""
        return list(self.data.blocks) or (list(TOY_BLOCKS) if self.data.layout in TOYS else [])

    @model_validator(mode="after")
    def _check_data(self) -> "HierarchySettings":
        """Refuse what the data cannot mean."""
        data, split = self.data, self.data.split
        _refuse_repeats("data.levels", data.levels)
        empty = [name for name, columns in data.blocks.items() if not columns]
        if empty:
            raise ValueError(f"data.blocks.{empty[0]} names no column; leave the block out")
        for name in (*data.levels, *data.blocks):
            if "/" in name or "+" in name:
                raise ValueError(f"{name!r} names a level or block; metrics and passes are named after it: no / or +")
        if data.layout in TOYS and (data.levels or data.blocks or data.tree):
            raise ValueError(f"data.layout is {data.layout}, which has its own levels, blocks and tree: leave them out")
        if data.layout in TOYS and data.path is not None:
            raise ValueError(f"data.layout is {data.layout}, which reads no files, but data.path is {data.path}")
        if split.val_share + split.test_share >= 1:
            shares = f"{split.val_share} and data.split.test_share {split.test_share}"
            raise ValueError(f"data.split.val_share {shares} leave nothing to train on; together they must be below 1")
        if data.path is not None and split.by in ("record", "fixed") and data.group is None and data.layout != "npz":
            raise ValueError(
                f"data.split.by is {split.by}, which needs data.group: the column that names a row's record; "
                "by: row mixes rows of one record into both sides and is no fair test"
            )
        return self

    @model_validator(mode="after")
    def _check_names(self) -> "HierarchySettings":
        """Refuse names of levels and blocks that there are not."""
        levels, blocks = self.levels, self.blocks
        if not levels:
            return self  # nothing is said about data yet: the reader asks for them
        for where, names in (
            ("loss.criteria", self.loss.criteria),
            ("loss.weights", self.loss.weights),
            ("balance.weights", self.balance.weights),
            ("mix.level", level_names(self.mix.level)),
        ):
            _refuse_unknown(where, names, levels, "level")
        for combination in self.mask.combinations:
            _refuse_unknown("mask.combinations", combination.blocks, blocks, "block")
            _refuse_repeats("mask.combinations", combination.blocks)
        for text in self.mask.passes:
            if text not in PASS_SETS:
                _refuse_unknown("mask.passes", text.split("+"), blocks, "block")
        for where, curve in (
            ("mix.probability", self.mix.probability),
            ("mask.all", self.mask.all),
            ("mask.partial", self.mask.partial),
        ):
            _refuse_improbable(where, curve)
        level_curve(self.mix.level, levels)
        return self


def level_names(text: str | None) -> list[str]:
    """The levels in the text of `mix.level`, in its order."""
    return [part.partition("@")[0].strip() for part in text.split(",")] if text else []


def level_curve(text: str | None, levels: list[str]) -> Curve:
    """The group level over the run as a curve that holds the level's number, 0 the finest. Raises ValueError."""
    names = level_names(text) or levels[:1]
    places = [part.partition("@")[2].strip() for part in text.split(",")] if text and "@" in text else ["0"]
    if len(names) != len(places) or not all(places):
        raise ValueError(f"mix.level is {text!r}; write one level, or levels over the run: 'coarse @ 0, fine @ 60%'")
    knots = (f"{levels.index(name)} @ {place}" for name, place in zip(names, places, strict=True))
    try:
        return Curve.parse(", ".join(knots).removesuffix(" hold") + " hold")
    except ValueError as error:
        raise ValueError(f"mix.level is {text!r}; with the numbers of the levels: {error}") from None


def _refuse_unknown(where: str, names: Iterable[str], known: list[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where} names the {what} {name!r}; there are: {', '.join(known) or 'none'}")


def _refuse_repeats(where: str, names: list[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"{where} names {twice[0]!r} twice")


def _refuse_improbable(where: str, text: str | None) -> None:
    """A curve of probabilities stays between 0 and 1."""
    if text is not None and any(not 0 <= value <= 1 for value, _ in Curve.parse(text).knots):
        raise ValueError(f"{where} is {text!r}; a probability is between 0 and 1")
