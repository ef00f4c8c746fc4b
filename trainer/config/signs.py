"""Settings of the task `signs`: recordings of landmarks, how they are sampled and changed, and the model."""

from typing import Literal

from pydantic import model_validator

from trainer.config.base import Section, setting
from trainer.config.settings import CommonSettings


class GroupSettings(Section):
    """One group of keypoints that is found or missing as a whole (a hand, the face, a glove)."""

    name: str
    points: int = setting(ge=1)
    """Keypoints in the group; groups follow each other in the rows of a frame."""
    mirror: list[int] | None = setting(None)
    """Row permutation within the group under a horizontal flip; null keeps the rows."""
    swap_with: str | None = setting(None)
    """Group that changes places with this one under a flip (left and right hand)."""
    anchor: list[list[int]] | None = setting(None)
    """`anchored` normalisation: rows whose mean is the origin, then two row lists whose means' distance divides;
    null leaves the group as it is."""


class SchemaSettings(Section):
    """The landmark layout: a frame is `[keypoints, features]`, keypoints in consecutive groups."""

    preset: Literal["karsl", "mediapipe_hands", "powerglove", "custom"] = setting("karsl")
    """A known layout; `custom` takes `features` and `groups` from here."""
    features: list[str] = setting([])
    """Names per keypoint, e.g. x, y, z, v. A feature named `v` is the visibility, 0 where a part is missing."""
    groups: list[GroupSettings] = setting([])
    cyclic: list[str] = setting([])
    """Features in turns (0..1 around the circle, negative: no reading); the model sees sine, cosine and a flag."""


class SamplingSettings(Section):
    """How a recording of any length becomes `frames` frames."""

    frames: int = setting(50, ge=1)
    mode: Literal["stretch", "pad"] = setting("stretch")
    """`stretch` resamples to `frames`; `pad` keeps the speed, cuts at `frames` and masks the rest."""
    grid: Literal["centred", "legacy"] = setting("centred")
    """`legacy` is the published grid, half a frame late."""
    jitter: float = setting(0.4, ge=0, le=0.5)
    """Half width of the training jitter of a frame position, in bins."""
    pad_probability: float = setting(0.0, ge=0, le=1)
    """Share of training clips padded by their last frame instead of stretched, as the live app does."""


class AugmentSettings(Section):
    """Random changes of training clips; every draw is keyed by (seed, epoch, sample)."""

    flip: float = setting(0.5, ge=0, le=1)
    """Probability of a horizontal mirror image."""
    flip_except: list[int] = setting([])
    """Word ids (from 1) that are never mirrored because handedness carries meaning."""
    affine: float = setting(0.5, ge=0, le=1)
    """Probability of one rotation, scale and shift of the whole clip."""
    degrees: float = setting(15.0, ge=0)
    scale: float = setting(0.15, ge=0, lt=1)
    shift: float = setting(0.1, ge=0)
    """Largest shift; of the pose group only, the others are centred on themselves."""
    time_warp: float = setting(0.0, ge=0, lt=1)
    """Strength of a smooth change of speed within the clip."""
    crop: float = setting(0.0, ge=0, lt=0.5)
    """Largest share that is cut off each end of the clip."""
    frame_drop: float = setting(0.0, ge=0, lt=1)
    """Probability that a frame is replaced by the one before it."""
    group_drop: float = setting(0.0, ge=0, lt=1)
    """Probability that a group but the first is missing in the whole clip."""
    noise: float = setting(0.0, ge=0)
    """Standard deviation of Gaussian noise on coordinates."""
    axis_scale: float = setting(0.0, ge=0, lt=1)
    """Half width of a scale drawn for every feature on its own."""
    mixup: float = setting(0.0, ge=0)
    """Alpha of the beta distribution that blends clips and labels; 0 is off."""


class SplitSettings(Section):
    """Which recordings train, validate and test."""

    by: Literal["random", "signer", "session", "clip"] = setting("random")
    """`random` and `clip` hash the clip's name; `signer` and `session` keep each of them in one split."""
    val_share: float = setting(0.2, ge=0, lt=1)
    test_share: float = setting(0.0, ge=0, lt=1)
    val_signers: list[str] = setting([], flag="--val_signers")
    """Signers held out for validation; implies `by: signer`."""
    test_signers: list[str] = setting([], flag="--test_signers")
    """Signers held out for the test at the end; without `val_signers`, clips of the others validate."""
    """Signers held out for the test at the end; implies `by: signer`."""
    seed: int = setting(42, ge=0)
    use_given: bool = setting(True)
    """Recordings that come with a split (`train` and `test` folders, a column) keep `test` out of training."""


class SignsData(Section):
    """Where the recordings are and how they are read."""

    path: str | None = setting(None, flag="--data", matters=False)
    """A packed folder, a KArSL folder (`karsl-kps` or memory-mapped), the Auslan files, a folder with index.csv, or
    `s3://bucket/folder`: packed data that `trainer prepare --to` put there, fetched into `cache`."""
    digest: str | None = setting(None)
    """Of the packed data; filled in when the run is made, so that other data are another run, wherever they lie."""
    layout: Literal["auto", "packed", "karsl_npz", "karsl_mmap", "auslan", "open", "synthetic"] = setting("auto")
    signers: list[str] = setting([], flag="--signers")
    """Signers to use; empty means all."""
    selected_signs_from: int = setting(1, ge=1, flag="--selected_signs_from")
    """First word id, from 1."""
    selected_signs_to: int | None = setting(None, ge=1, flag="--selected_signs_to")
    """Last word id, inclusive; null takes all there are."""
    dataset_schema: SchemaSettings = setting(SchemaSettings())
    normalise: Literal["none", "legacy", "anchored", "recording"] = setting("anchored")
    """Per frame and group (`anchored`, `legacy`), per recording (`recording`: minus the mean position), or none."""
    derive: list[Literal["velocity", "length"]] = setting([])
    """Further features computed from the sampled clip: differences of coordinates to the frame before; the length."""
    bad_samples: Literal["fail", "skip"] = setting("fail", matters=False)
    """What to do with NaN, wrong shapes, truncated files, unknown labels."""
    bad_budget: int = setting(100, ge=0, matters=False)
    """Bad samples that `skip` tolerates."""
    sampling: SamplingSettings = setting(SamplingSettings())
    augment: AugmentSettings = setting(AugmentSettings())
    split: SplitSettings = setting(SplitSettings())
    balance: Literal["none", "weights", "sampler"] = setting("none")
    """Class imbalance: inverse-frequency loss weights (mean 1), or a plan that draws classes evenly."""
    synthetic_words: int = setting(10, ge=2)
    """For `layout: synthetic`: number of words."""
    synthetic_signers: int = setting(4, ge=2)
    synthetic_repetitions: int = setting(12, ge=1)
    synthetic_difficulty: float = setting(0.5, ge=0, le=1)
    """0: signers hardly differ; 1: they differ a lot."""
    synthetic_seed: int = setting(0, ge=0)


class SignsModel(Section):
    """The ST-Transformer."""

    size: str = setting("s_4_2", flag="--model_metadata", pattern=r"^[tsml](_[1-9]_[1-9])?$")
    """`<letter>_<heads>_<blocks>`; t, s, m, l are 16, 32, 64, 128 channels a head."""
    input_norm: Literal["dataset", "batch"] = setting("dataset")
    """`dataset`: statistics of the training split, fixed; `batch`: the published model's BatchNorm."""
    residual: Literal["pre", "legacy"] = setting("pre")
    """`legacy` is the published block, whose attention loses its input; needed for published weights."""
    dropout: float = setting(0.5, ge=0, lt=1)
    attention_dropout: float = setting(0.5, ge=0, lt=1)
    head_dropout: float = setting(0.0, ge=0, lt=1)
    dropout_bits: Literal["exact", "fast"] = setting("exact")
    """`fast` draws masks from 16-bit random words: p exact to 2^-16, about 1.5 times faster steps on CPU."""
    final_norm: bool = setting(False)
    """LayerNorm before pooling; with `residual: pre` only."""
    mask_missing: bool = setting(True)
    """Attention looks past missing groups and padded frames; off in the published model (`legacy`)."""


class SignsLoss(Section):
    """Cross-entropy and its options."""

    label_smoothing: float = setting(0.0, ge=0, lt=1)


class SignsSettings(CommonSettings):
    """All settings of a `signs` run."""

    task: Literal["signs"] = setting("signs", flag="--task")
    """What is trained."""
    data: SignsData = setting(SignsData())
    model: SignsModel = setting(SignsModel())
    loss: SignsLoss = setting(SignsLoss())

    @model_validator(mode="after")
    def _check_pairs(self) -> "SignsSettings":
        """Refuse pairs of settings that would fail deep inside or do nothing."""
        first, last = self.data.selected_signs_from, self.data.selected_signs_to
        if last is not None and last < first:
            raise ValueError(f"data.selected_signs_to is {last}, below data.selected_signs_from {first}")
        if self.model.final_norm and self.model.residual == "legacy":
            raise ValueError("model.final_norm works with model.residual: pre only")
        return self
