"""A trained model for others: `.pth`, and encoder and decoder as ONNX, checked against onnxruntime; and a model card.

    translation_<size>.pth             tensors and facts
    translation_<size>_encoder.onnx    source_ids [b, s] -> memory [b, s, d]
    translation_<size>_decoder.onnx    source_ids, target_ids [b, t] (`<bos>` first), memory -> logits [b, t, v]
    translation_<size>.md              what it is, what it was trained on, how good it is

A translation is written by asking the decoder for the last logits again and again; batch and lengths are free.
"""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config.translation import TranslationSettings
from trainer.data.dataset import Batch
from trainer.errors import RunError
from trainer.tasks.exporting import TOLERANCE, Exported, Signature, write_onnx
from trainer.tasks.translation.decode import DecodeOptions, Hypothesis, decode
from trainer.tasks.translation.model import TranslationModel
from trainer.tasks.translation.steppers import Cached, for_decoding
from trainer.tasks.translation.task import build, model_name
from trainer.tasks.translation.vocabulary import BOS
from trainer.tasks.weight_files import bare, load_into, save_pth

FORMAT = "translation-model-1"
SOURCE, TARGET, MEMORY, LOGITS = "source_ids", "target_ids", "memory", "logits"


class Encoder(nn.Module):
    """The first half as a graph."""

    def __init__(self, model: TranslationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, source_ids: Tensor) -> Tensor:
        """Memory `[b, s, d]`."""
        return self.model.encode(source_ids)[0]


class Decoder(nn.Module):
    """The second half as a graph; the source says which of its memory is padding."""

    def __init__(self, model: TranslationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, source_ids: Tensor, target_ids: Tensor, memory: Tensor) -> Tensor:
        """Logits `[b, t, v]` of the token after each of `target_ids`."""
        return self.model.decode(memory, self.model.allowed(source_ids), target_ids)


def export_model(
    settings: TranslationSettings,
    info: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    folder: Path,
    formats: Iterable[str],
    *,
    samples: Batch,
    epoch: int = 1,
    metrics: Mapping[str, Any] | None = None,
) -> list[Exported]:
    """Write the model in `formats` ("pth", "onnx") and its card below `folder`.

    `info` is what `TranslationTask.info` gave, `samples` real pairs to compare on, `epoch` counts from 1. Raises
    SettingsError for a missing extra, RunError if onnxruntime differs by more than 1e-4 or writes other tokens.
    """
    model = build(settings, info["source_vocab_size"], info["target_vocab_size"])
    load_into(model, {bare(name): value for name, value in state_dict.items()}, [], "the checkpoint")
    model.eval()
    about = {"info": dict(info), "model": settings.model.model_dump(), "metrics": dict(metrics or {}), "epoch": epoch}
    stem, written = f"translation_{model_name(settings)}", []
    for kind in formats:
        if kind == "pth":
            written.append(Exported("pth", folder / f"{stem}.pth"))
            save_pth(written[-1].path, model.state_dict(), {"format": FORMAT, **about})
        else:
            written += write_graphs(model, folder / stem, about, samples, settings.data.max_target_len - 1)
    card = folder / f"{stem}.md"
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(model_card(stem, about))
    return [*written, Exported("card", card)]


def write_graphs(
    model: TranslationModel, stem: Path, about: Mapping[str, Any], samples: Batch, max_len: int
) -> list[Exported]:
    """Both graphs, each compared with the model, and greedy decoding with both."""
    source, target = samples["source_ids"], samples["decoder_ids"]
    batch, source_len, target_len = (torch.export.Dim(name, min=1) for name in ("batch", "source_len", "target_len"))
    free_source, free_target = {0: batch, 1: source_len}, {0: batch, 1: target_len}
    memory = Encoder(model)(source).detach()
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in about.items()}
    graphs: dict[str, tuple[nn.Module, tuple[Tensor, ...], list[str], str, list[Any]]] = {
        "encoder": (Encoder(model), (source,), [SOURCE], MEMORY, [free_source]),
        "decoder": (
            Decoder(model),
            (source, target, memory),
            [SOURCE, TARGET, MEMORY],
            LOGITS,
            [free_source, free_target, free_source],
        ),
    }
    written = []
    for name, (half, example, inputs, output, shapes) in graphs.items():
        path = stem.with_name(f"{stem.name}_{name}.onnx")
        signature = Signature(tuple(one[:2] for one in example), inputs, [output], shapes)
        difference = write_onnx(half, path, signature, texts, partial(_difference, half, example))
        written.append(Exported(f"onnx {name}", path, difference, len(source)))
    encoder, decoder = (one.path for one in written)
    _compare_tokens(model, encoder, decoder, source, max_len)
    return written


def _difference(half: nn.Module, example: tuple[Tensor, ...], path: Path) -> float:
    """Greatest difference between torch and onnxruntime, all samples at once and one by one."""
    session, greatest = _session(path), 0.0
    names = [one.name for one in session.get_inputs()]
    for size in (1, len(example[0])):
        for start in range(0, len(example[0]), size):
            part = [one[start : start + size] for one in example]
            with torch.no_grad():
                expected = half(*part).numpy()
            (found,) = session.run(None, {name: one.numpy() for name, one in zip(names, part, strict=True)})
            greatest = max(greatest, float(np.abs(expected - found).max()))
    return greatest


class OnnxStepper:
    """The two graphs behind the verbs of `steppers.Stepper`."""

    def __init__(self, encoder: Path, decoder: Path, source_ids: Tensor) -> None:
        """`source_ids` `[b, s]`."""
        self._decoder, self._source = _session(decoder), source_ids.numpy()
        (self._memory,) = _session(encoder).run(None, {SOURCE: self._source})
        self._prefix = np.zeros((len(source_ids), 0), np.int64)

    def step(self, ids: Tensor) -> Tensor:
        """Logits after the newest tokens."""
        self._prefix = np.concatenate([self._prefix, ids.numpy()[:, None]], 1)
        (logits,) = self._decoder.run(None, {SOURCE: self._source, TARGET: self._prefix, MEMORY: self._memory})
        return torch.from_numpy(logits[:, -1]).double()

    def select(self, sentences: Tensor | None, rows: Tensor) -> None:
        """Go on with some of the sentences; one hypothesis of each is all there is."""
        assert sentences is None or torch.equal(sentences, rows), "greedy decoding only"
        chosen = rows.numpy()
        self._source, self._memory, self._prefix = self._source[chosen], self._memory[chosen], self._prefix[chosen]


def _compare_tokens(model: TranslationModel, encoder: Path, decoder: Path, source_ids: Tensor, max_len: int) -> None:
    """Greedy decoding with the graphs must write what the model writes, but for ties closer than the tolerance."""
    model = for_decoding(model)
    options = DecodeOptions(max_len=max_len)
    ours = decode(Cached(model, source_ids), source_ids, options)
    theirs = decode(OnnxStepper(encoder, decoder, source_ids), source_ids, options)
    for row, ([one], [other]) in enumerate(zip(ours, theirs, strict=True)):
        if one.tokens != other.tokens and not _is_tie(model, source_ids[row : row + 1], one, other):
            raise RunError(f"{decoder}: onnxruntime translates sample {row} otherwise than torch; report this model")


def _is_tie(model: TranslationModel, source_ids: Tensor, one: Hypothesis, other: Hypothesis) -> bool:
    """Whether the first choice in which two outputs differ is closer than the tolerance."""
    pairs = zip(one.tokens, other.tokens, strict=False)
    common = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one.tokens), len(other.tokens)))
    with torch.no_grad():
        logits = model(source_ids, torch.tensor([[BOS, *one.tokens[:common]]]))[0, -1]
    best = logits.topk(2).values
    return bool(best[0] - best[1] <= 2 * TOLERANCE)


def _session(path: Path) -> Any:
    import onnxruntime  # type: ignore[import-untyped]

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def model_card(stem: str, about: Mapping[str, Any]) -> str:
    """What a person who finds the files should know, as Markdown."""
    info, model = about["info"], about["model"]
    names = list(dict.fromkeys(name for values in about["metrics"].values() for name in values))
    passes = list(about["metrics"])
    table = [f"| metric | {' | '.join(passes)} |", f"|---|{'---|' * len(passes)}"] if passes else []
    for name in names:
        cells = (about["metrics"][one].get(name) for one in passes)
        table.append(f"| {name} | {' | '.join('' if cell is None else f'{cell:.4f}' for cell in cells)} |")
    lines = [
        f"# {stem}",
        "",
        f"Encoder-decoder Transformer, {info['languages'][0]} to {info['languages'][1]}: width {model['d_model']}, "
        f"{model['num_heads']} heads, {model['num_layers']} layers, feed-forward {model['d_ff']}, "
        f"{model['norm']}-norm, {model['position']} positions.",
        "",
        f"- Trained on {info['corpus']}: {info['splits']['train']:,} pairs, digest {info['data_digest']}.",
        f"- Tokens: {info['source_vocab_size']:,} source ({info['tokenizer_kinds'][0]}), "
        f"{info['target_vocab_size']:,} target ({info['tokenizer_kinds'][1]}); tokenizers `tokenizer.json`, digest "
        f"{info['tokenizer_digest']}.",
        *(f"- {name}: `{signature}`" for name, signature in info["signatures"].items()),
        "",
        *table,
    ]
    return "\n".join(lines).rstrip() + "\n"
