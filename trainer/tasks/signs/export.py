"""A trained model for others: `.pth` under the published name pattern, and ONNX checked against onnxruntime.

    export/checkpoint_<Mon><dd>_<HH>-<MM>-<SS>-signs_<classes>_<size>/<epoch>.pth     tensors and facts
    export/signs_<classes>_<size>.onnx           input [batch_size, T, K*F] float32, output [batch_size, C] logits

The graph takes a clip that is already sampled and normalised; its metadata says how. Only the batch axis is dynamic.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.signs import SignsSettings
from trainer.tasks import exporting
from trainer.tasks.exporting import Exported, Signature
from trainer.tasks.signs import weights
from trainer.tasks.signs.model import STTransformer
from trainer.tasks.signs.schema import Schema
from trainer.tasks.weight_files import bare, save_pth

BATCH_SIZES = (1, 2, 64)
INPUT, OUTPUT = "input", "output"


def export_model(
    settings: SignsSettings,
    info: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    folder: Path,
    formats: Iterable[str],
    *,
    samples: Tensor,
    epoch: int = 1,
    metrics: Mapping[str, Any] | None = None,
) -> list[Exported]:
    """Write the model in `formats` ("pth", "onnx") below `folder`.

    `info` is what `SignsTask.info` gave, `samples` float32 `[n, T, K*F]` real clips to compare on, `epoch` counts from
    1. Raises SettingsError for a missing extra, RunError if onnxruntime differs by more than 1e-4.
    """
    model = build_from_info(settings, info)
    weights.load_into(model, {bare(name): value for name, value in state_dict.items()}, [], "the checkpoint")
    model.eval()
    about = weights.facts(info, settings.model, metrics or {})
    written = []
    for kind in formats:
        if kind == "pth":
            path = folder / pth_folder(model, datetime.now()) / f"{epoch}.pth"
            save_pth(path, model.state_dict(), about)
            written.append(Exported("pth", path))
        else:
            path = folder / f"signs_{model.num_classes}_{model.model_size.to_str()}.onnx"
            difference = write_onnx(model, path, about, samples)
            written.append(Exported("onnx", path, difference, len(samples)))
    return written


def build_from_info(settings: SignsSettings, info: Mapping[str, Any]) -> STTransformer:
    """The model that `info` describes, without looking at any data."""
    return weights.build(settings, Schema.from_json(info["schema"]), len(info["classes"]))


def pth_folder(model: STTransformer, now: datetime) -> str:
    """The published folder name, out of which old programs read class count and size."""
    return f"checkpoint_{now:%b%d_%H-%M-%S}-signs_{model.num_classes}_{model.model_size.to_str()}"


def write_onnx(model: STTransformer, path: Path, about: Mapping[str, Any], samples: Tensor) -> float:
    """Write, check and compare an ONNX file; returns the greatest difference of a logit. The file appears whole."""
    signature = Signature(
        example=(torch.zeros(2, *samples.shape[1:]),),
        inputs=[INPUT],
        outputs=[OUTPUT],
        dynamic_shapes=[{0: torch.export.Dim("batch_size", min=1)}],
    )
    return exporting.write_onnx(
        model, path, signature, metadata(about), lambda file: max_difference(model, file, samples)
    )


def metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """The facts of a model as texts: one entry per kind, lists and tables as JSON."""
    info = about["info"]
    entries = {name: info.get(name) for name in ("classes", "normalisation", "sampling", "schema", "model_size")}
    entries |= {"temporal": temporal(info), "model": about["model"], "metrics": about["metrics"], "output": "logits"}
    entries["git_commit"] = info.get("git_commit", "")
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in entries.items()
    }


def temporal(info: Mapping[str, Any]) -> dict[str, Any]:
    """How a recording becomes the graph's frames, in words and numbers."""
    sampling = info["sampling"]
    rule = "floor/ceil blend at clip((k + 0.5) * n / T - 0.5, 0, n - 1)"
    if sampling["mode"] == "pad":
        rule = "first T frames, zeros after the last"
    elif sampling["grid"] == "legacy":
        rule = "floor/ceil blend at clip((k + 0.5) * n / T, 0, n - 1 - 1e-6)"
    return {"frames": sampling["frames"], "mode": sampling["mode"], "grid": sampling["grid"], "rule": rule}


def max_difference(model: STTransformer, path: Path, samples: Tensor) -> float:
    """Greatest |logit(torch) - logit(onnxruntime)| over `samples`, fed in batches of 1, 2 and 64 (repeated to fill)."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    greatest = 0.0
    for size in BATCH_SIZES:
        filled = samples[torch.arange(max(size, len(samples))) % len(samples)].float()
        for start in range(0, len(filled) - size + 1, size):
            part = filled[start : start + size]
            with torch.no_grad():
                expected: NDArray[np.float32] = model(part).numpy()
            (found,) = session.run([OUTPUT], {INPUT: part.numpy()})
            greatest = max(greatest, float(np.abs(expected - found).max()))
    return greatest
