"""Settings of the task `translation`: pairs of sentences, tokenizers, the Transformer, its loss and its decoding."""

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from trainer.config.base import Section, setting
from trainer.config.settings import CommonSettings, OptimSettings, ScheduleSettings, TelemetrySettings
from trainer.config.texts import AmountText, TriggerText

CorpusName = Literal["copy", "reverse", "sort", "numbers", "en_de_numbers", "phrases"]
_LARGEST_RATE = 0.1
"""A base rate above this is a factor on the Noam curve that was left without its curve."""


class TranslationData(Section):
    """Where the pairs of sentences are, how they are read, and how batches are made of them."""

    path: str | None = setting(None, flag="--data", matters=False)
    """A folder `train|val|test*.<language>[.gz]` or `train|val|test*.{tsv,jsonl}[.gz]`, one such file, or
    `s3://bucket/folder`, fetched into `cache`."""
    digest: str | None = setting(None)
    """Of the pairs; filled in when the run is made, so that other data are another run, wherever they lie."""
    layout: Literal["auto", "text", "tsv", "jsonl", "embedded"] = setting("auto")
    """`text`: parallel files, line n belongs to line n; `tsv`: source, tab, target; `jsonl`: objects with `source`
    and `target`; `embedded`: a generated corpus; `auto` finds out by the names of the files."""
    source_lang: str | None = setting(None, flag="--source_lang")
    """Ending of the source files (`en` of `train.en`), or the key of a JSON line in place of `source`."""
    target_lang: str | None = setting(None, flag="--target_lang")
    """Ending of the target files, or the key of a JSON line in place of `target`."""
    train_files: list[str] = setting([], flag="--train_files")
    """Source and target file, or one file of pairs, below `path`; empty: found by name."""
    val_files: list[str] = setting([], flag="--val_files")
    """The same for validation; without any, `val_share` of the sources validates."""
    test_files: list[str] = setting([], flag="--test_files")
    """The same for the test at the end."""
    val_share: float = setting(0.05, ge=0, lt=1)
    """Share of the sources (by the SHA-256 of their text, in hundredths) that validates, where there are no files."""
    test_share: float = setting(0.05, ge=0, lt=1)
    """Share of the sources that is kept for the test at the end."""
    allow_overlap: bool = setting(False)
    """Train on sources that validation or test hold, too; else that is an error."""
    corpus: CorpusName = setting("en_de_numbers", flag="--corpus")
    """For `layout: embedded`: which language pair is generated."""
    pairs: int = setting(20_000, ge=100, flag="--pairs")
    """For `layout: embedded`: pairs over all splits."""
    corpus_seed: int = setting(0, ge=0)
    """For `layout: embedded`: chooses the pairs."""
    shuffle_targets: bool = setting(False)
    """Deal the training targets out at random: a control that must learn nothing."""
    bad_samples: Literal["fail", "skip"] = setting("fail", matters=False)
    """What to do with invalid UTF-8 and lines that are no pair; pairs with an empty side are always left out."""
    bad_budget: int = setting(100, ge=0, matters=False)
    """Bad lines that `skip` tolerates."""
    max_source_len: int = setting(128, ge=2)
    """Longest source in tokens, with `<eos>`."""
    max_target_len: int = setting(128, ge=3)
    """Longest target in tokens, with `<bos>` and `<eos>`."""
    long_pairs: Literal["drop", "truncate", "fail"] = setting("drop")
    """What to do with longer pairs in training; evaluation truncates them. All are counted."""
    batch_by: Literal["tokens", "sentences"] = setting("tokens")
    """`tokens`: sentences of like length, up to `max_tokens`; `sentences`: `batch_size` of them in random order."""
    max_tokens: int = setting(4096, ge=1, flag="--max_tokens")
    """Cells of a global batch, padding included: sentences times the longest side."""
    pool: int = setting(100, ge=1)
    """Global batches among whose sentences those of like length are looked for."""


class TokenizerSettings(Section):
    """How text becomes tokens; trained on the training split, saved with the run."""

    kind: Literal["auto", "char", "word", "bpe", "unigram"] = setting("auto")
    """`auto`: what an embedded corpus is made of, `bpe` for files."""
    vocab_size: int = setting(32_000, ge=5)
    """Largest vocabulary, the four reserved tokens included; of both sides if `joint`."""
    target_vocab_size: int | None = setting(None, ge=5)
    """Of the target side; null: as `vocab_size`."""
    joint: bool = setting(False)
    """One vocabulary for both sides."""
    min_count: int = setting(2, ge=1)
    """For `word`: how often a word must occur."""
    normalise: Literal["nfc", "none"] = setting("nfc")
    """Unicode form of all text; travels with the model."""
    path: str | None = setting(None, matters=False)
    """A `tokenizer.json` (it lies in every checkpoint), taken instead of training new ones."""
    digest: str | None = setting(None)
    """Of both tokenizers; filled in when the run is made, so that no other ones can go on with it."""


class TranslationModelSettings(Section):
    """The encoder-decoder Transformer."""

    d_model: int = setting(512, ge=2)
    """Width of every layer."""
    num_heads: int = setting(8, ge=1)
    """Attention heads; they divide `d_model`."""
    num_layers: int = setting(6, ge=1)
    """Encoder layers, and decoder layers unless `decoder_layers` says otherwise."""
    decoder_layers: int | None = setting(None, ge=1)
    d_ff: int = setting(2048, ge=1)
    """Width inside the feed-forward blocks."""
    dropout: float = setting(0.1, ge=0, lt=1)
    """Of embeddings, attention weights, sub-layers, and inside the feed-forward blocks."""
    activation: Literal["relu", "gelu"] = setting("relu")
    position: Literal["sinusoidal", "learned", "rotary"] = setting("sinusoidal")
    norm: Literal["pre", "post"] = setting("pre")
    """`pre` with a final norm on both stacks; `post` is the original."""
    tie: Literal["none", "output", "all"] = setting("none")
    """`output`: the decoder's embedding is the output matrix; `all`: the encoder's, too (one joint vocabulary)."""


class TranslationLoss(Section):
    """Cross-entropy over the target tokens that are not padding."""

    label_smoothing: float = setting(0.1, ge=0, lt=1)
    smoothing_mass: Literal["all", "others", "others_without_pad"] = setting("all")
    """Who shares the smoothed mass: every class, every other one, or every other one but `<pad>`."""


class DecodeSettings(Section):
    """How the model writes: in `val_translate`, in the test at the end, and in `trainer translate`."""

    beam_size: int = setting(4, ge=1, matters=False)
    """Hypotheses kept; 1 is greedy."""
    alpha: float = setting(0.6, ge=0, matters=False)
    """Length penalty ((5 + n) / 6)^alpha; 0 switches it off."""
    no_repeat_ngram: int = setting(0, ge=0, matters=False)
    """No sequence of so many tokens twice; 0 switches it off."""
    min_len: int = setting(0, ge=0, matters=False)
    """Fewest tokens before `<eos>`."""
    translate_samples: int | None = setting(500, ge=1, matters=False)
    """Pairs that `val_translate` decodes, the same ones every time; null: all."""
    batch_size: int = setting(64, ge=1, matters=False)
    """Sentences decoded at a time."""


class TranslationOptim(OptimSettings):
    """The optimizer, with the values of the Transformer's paper."""

    lr: float = setting(1.0, gt=0, flag="--lr")
    """Factor on the Noam curve; with any other schedule the base learning rate."""
    weight_decay: float = setting(0.0, ge=0, flag="--weight_decay")
    """Pull of the weights towards zero."""
    no_decay: list[str] = setting(["*norm*", "*.bias", "*embedding*"])
    """Patterns of parameter names without weight decay."""
    betas: tuple[float, float] = setting((0.9, 0.98))
    eps: float = setting(1e-9, gt=0)


class TranslationSchedule(ScheduleSettings):
    """The learning rate over the run, as a factor on `optim.lr`."""

    name: Literal["noam", "plateau", "cosine", "linear", "inverse_sqrt", "constant", "curve"] = setting("noam")
    warmup: AmountText = setting("4000 steps")
    """Length of the warm-up."""


class TranslationTelemetry(TelemetrySettings):
    """What a run shows while it goes on."""

    log_every: TriggerText = setting("every 100 steps", matters=False)
    """Log points: losses and rates are read from the device only there."""


class TranslationSettings(CommonSettings):
    """All settings of a `translation` run."""

    short_flags: ClassVar[dict[str, str]] = {
        "--data-dir": "data.path",
        "--save-dir": "run.store",
        "--epochs": "num_epochs",
    }

    task: Literal["translation"] = setting("translation", flag="--task")
    """What is trained."""
    num_epochs: int = setting(30, ge=1, flag="--num_epochs", matters=False)
    """Length of the run; may grow between attempts, so it is not in the digest."""
    batch_size: int = setting(32, ge=1, flag="--batch_size")
    """Sentences of one step over all ranks, for `data.batch_by: sentences`; of an evaluation batch in any case."""
    data: TranslationData = setting(TranslationData())
    tokenizer: TokenizerSettings = setting(TokenizerSettings())
    model: TranslationModelSettings = setting(TranslationModelSettings())
    loss: TranslationLoss = setting(TranslationLoss())
    decode: DecodeSettings = setting(DecodeSettings())
    optim: TranslationOptim = setting(TranslationOptim())
    schedule: TranslationSchedule = setting(TranslationSchedule())
    telemetry: TranslationTelemetry = setting(TranslationTelemetry())

    @model_validator(mode="before")
    @classmethod
    def _read_save_dir(cls, values: Any) -> Any:
        """`--save-dir checkpoints` is a folder; stores are URLs."""
        run = values.get("run") if isinstance(values, dict) else None
        if isinstance(run, dict) and isinstance(store := run.get("store"), str) and "://" not in store:
            return values | {"run": run | {"store": f"file://{store}"}}
        return values

    @model_validator(mode="after")
    def _check_pairs(self) -> "TranslationSettings":
        """Refuse pairs of settings that would fail deep inside or do harm."""
        model, data = self.model, self.data
        if self.schedule.name == "noam":
            self.schedule.width = self.schedule.width or model.d_model
        if model.d_model % model.num_heads:
            raise ValueError(
                f"model.d_model is {model.d_model}, which model.num_heads {model.num_heads} does not divide"
            )
        if self.schedule.name != "noam" and self.optim.name != "sgd" and self.optim.lr > _LARGEST_RATE:
            raise ValueError(
                f"optim.lr is {self.optim.lr}, a factor for schedule.name: noam; with schedule.name: "
                f"{self.schedule.name} it is the rate itself, so set one below {_LARGEST_RATE}, e.g. --lr 7e-4"
            )
        if model.tie == "all" and not self.tokenizer.joint:
            raise ValueError("model.tie is all, which needs one vocabulary for both sides: set tokenizer.joint to true")
        if self.tokenizer.joint and self.tokenizer.target_vocab_size is not None:
            raise ValueError(
                "tokenizer.target_vocab_size has no meaning with tokenizer.joint: set tokenizer.vocab_size"
            )
        if data.val_share + data.test_share >= 1:
            raise ValueError(
                f"data.val_share {data.val_share} and data.test_share {data.test_share} leave nothing to train on"
            )
        if data.source_lang is not None and data.source_lang == data.target_lang:
            raise ValueError(f"data.source_lang and data.target_lang are both {data.source_lang}")
        return self
