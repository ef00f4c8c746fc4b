"""What every task's export to ONNX shares: the trace, the checks, the file that appears whole, and what is reported."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import RunError, SettingsError

OPSET = 18
"""The lowest that torch's exporter writes."""
TOLERANCE = 1e-4
"""Largest difference of a logit between torch and onnxruntime."""


@dataclass(frozen=True)
class Exported:
    """A written file; `max_difference` of logits between torch and onnxruntime over `num_samples` for ONNX."""

    kind: str
    path: Path
    max_difference: float | None = None
    num_samples: int = 0


def onnx_library() -> Any:
    """The module `onnx` of the extra. Raises SettingsError naming the extra."""
    try:
        import onnx
        import onnxruntime  # type: ignore[import-untyped]  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError(f"export to ONNX needs {error.name}: pip install 'signs-trainer[export]'") from error
    return onnx


@dataclass(frozen=True)
class Signature:
    """What goes into a graph and comes out of it; `dynamic_shapes` names the free axes of every input."""

    example: tuple[Tensor, ...]
    inputs: Sequence[str]
    outputs: Sequence[str]
    dynamic_shapes: Sequence[Mapping[int, Any]]


def write_onnx(
    model: nn.Module, path: Path, signature: Signature, metadata: Mapping[str, str], measure: Callable[[Path], float]
) -> float:
    """Write, check and compare an ONNX file; returns the greatest difference of a logit. The file appears whole.

    `measure` compares a file with the model. Raises RunError if it finds more than `TOLERANCE`.
    """
    onnx = onnx_library()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        _trace(model, unfinished, signature)
        graph = onnx.load(unfinished)
        strip(graph.graph)
        for name, value in metadata.items():
            graph.metadata_props.add(key=name, value=value)
        opset = {item.domain: item.version for item in graph.opset_import}.get("")
        assert opset == OPSET, f"asked for opset {OPSET}, the file has {opset}"
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, unfinished)
        difference = measure(unfinished)
        if not difference <= TOLERANCE:
            raise RunError(f"{path}: onnxruntime differs from torch by {difference:.2e}, more than {TOLERANCE:g}")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return difference


def _trace(model: nn.Module, path: Path, signature: Signature) -> None:
    """Run torch's exporter."""
    with _quiet_and_plain():
        torch.onnx.export(
            model,
            signature.example,
            str(path),
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_shapes=tuple(signature.dynamic_shapes),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet_and_plain() -> Iterator[None]:
    """No fused attention, for which ONNX may lack an operator, and no remarks on libraries that no model here uses."""
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        torch.backends.mha.set_fastpath_enabled(was_fast)


def strip(graph: Any) -> None:
    """Take out the exporter's notes on every node: they hold stack traces with paths of this machine."""
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in part:
            del item.metadata_props[:]
            item.ClearField("doc_string")
    del graph.metadata_props[:]
    graph.ClearField("doc_string")


def write_beside(files: Mapping[str, bytes], folder: Path) -> list[Exported]:
    """Write what lies beside the weights in a checkpoint (tokenizers) below `folder`, too."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [Exported(name, folder / name) for name in files]
