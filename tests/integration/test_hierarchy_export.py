"""Export of the task hierarchy for real: ONNX in onnxruntime, `.pth` back into a model, what the metadata say."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from trainer.config.hierarchy import HierarchyDecode, HierarchySettings
from trainer.errors import RunError
from trainer.tasks.hierarchy import export
from trainer.tasks.hierarchy.decode import decode
from trainer.tasks.hierarchy.heads import log_probabilities
from trainer.tasks.hierarchy.task import create
from trainer.tasks.hierarchy.tree import Tree


def written(folder, **model):
    settings = HierarchySettings.model_validate({"data": {"layout": "t1"}, "model": model})
    task = create(settings)
    torch.manual_seed(0)
    made = task.build_model().eval()
    state = {f"module.{name}": value for name, value in made.state_dict().items()}
    files = export.export_model(
        settings, task.info(), state, folder, ["pth", "onnx"], samples=task.samples(32), metrics={"val": {"loss": 0.5}}
    )
    return settings, task, made, {one.kind: one for one in files}


MODELS = {
    "mlp": {},
    "cnn": {"trunk": "cnn", "heads": "sibling", "input_norm": "none", "validity": False},
}


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp("export"), **MODELS[request.param])


def test_graph_has_the_promised_inputs_and_outputs(exported):
    graph = onnx.load(exported[3]["onnx"].path).graph
    assert [one.name for one in graph.input] == ["features", "blocks", "valid"]
    assert [one.name for one in graph.output] == ["logits_fine", "logits_mid", "logits_coarse"]
    assert {one.type.tensor_type.shape.dim[0].dim_param for one in [*graph.input, *graph.output]} == {"batch"}


def test_32_real_rows_come_out_equal_and_are_decoded_alike(exported):
    _, task, made, files = exported
    assert files["onnx"].num_samples == 32
    assert files["onnx"].max_difference <= 1e-4
    session = onnxruntime.InferenceSession(str(files["onnx"].path), providers=["CPUExecutionProvider"])
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    tree, rule = Tree.from_json(about["tree"]), HierarchyDecode.model_validate(about["decode"])
    batch = task.samples(32)
    found = session.run(None, {name: batch[name].numpy() for name in ("features", "blocks", "valid")})
    with torch.no_grad():
        expected = made(batch["features"], batch["blocks"], batch["valid"])
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
    theirs = decode(log_probabilities(about["heads"], tuple(map(torch.from_numpy, found))), tree, rule)
    assert torch.equal(theirs, decode(log_probabilities(about["heads"], expected), task.tree, task.settings.decode))
    assert about["blocks"] == {"SITE": [0, 3], "SEASON": [3, 5], "ELEV": [5, 9]}
    assert about["features"] == {"shape": [3, 8, 8], "divisor": 1.0}
    assert about["tree"]["classes"][2] == list(task.tree.names[2])


def test_pth_goes_back_into_a_model(exported, tmp_path):
    settings, _, made, files = exported
    other = settings.model_copy(deep=True)
    other.run.init_from = str(files["pth"].path)
    again = create(other).build_model()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in made.state_dict().items())


def test_a_set_without_blocks_has_one_input(tmp_path):
    settings = HierarchySettings.model_validate({"data": {"layout": "t1"}, "model": {"heads": "sibling"}})
    task = create(settings)
    info = task.info() | {"blocks": {}}
    made = export.build(settings, tuple(info["shape"]), {}, task.tree)
    (one,) = export.export_model(settings, info, made.state_dict(), tmp_path, ["onnx"], samples=task.samples(32))
    assert one.max_difference <= 1e-4
    assert one.num_samples == 32
    graph = onnx.load(one.path).graph
    assert [one.name for one in graph.input] == ["features"]


def test_other_answers_are_refused_and_ties_are_not(exported):
    _, task, _, _ = exported
    about = {"decode": {"rule": "path"}, "heads": "flat"}
    torch.manual_seed(1)
    ours = tuple(torch.randn(2, size) for size in task.tree.num_classes)
    with pytest.raises(RunError, match="answers sample 0 otherwise"):
        export._compare_answers(about, task.tree, (ours, tuple(-level for level in ours)), "model.onnx")
    tie = tuple(torch.zeros(1, size) for size in task.tree.num_classes)
    shifted = tuple(level.clone() for level in tie)
    shifted[0][0, 3] = 1e-6
    export._compare_answers(about, task.tree, (tie, shifted), "model.onnx")
