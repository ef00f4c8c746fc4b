"""Export for real: ONNX files in onnxruntime, the app's way of feeding them, `.pth` files back into a model."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.signs_fakes import fake_recordings
from trainer.config.signs import SignsData, SignsModel, SignsSettings
from trainer.errors import DataError, RunError
from trainer.tasks import exporting, weight_files
from trainer.tasks.exporting import TOLERANCE
from trainer.tasks.signs import export
from trainer.tasks.signs.task import SignsTask

LENGTHS = [13, 48, 23, 20, 50, 80] * 6


def trained(preset="karsl", **model):
    settings = SignsSettings(data=SignsData(), model=SignsModel(size="t_4_2", **model))
    recordings = fake_recordings(LENGTHS, preset, num_classes=5)
    task = SignsTask(settings, recordings, {"train": np.arange(0, 24), "val": np.arange(24, 36)})
    torch.manual_seed(0)
    made = task.build_model()
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    made.train()(task.samples(8))  # BatchNorm, where there is one, leaves its initial statistics
    return settings, task, made


def written(tmp_path, formats=("pth", "onnx"), **kwargs):
    settings, task, made = trained(**kwargs)
    state = {f"module.{name}": value for name, value in made.state_dict().items()}
    files = export.export_model(
        settings, task.info(), state, tmp_path, formats, samples=task.samples(32), epoch=3, metrics={"top1": 0.5}
    )
    return task, made.eval(), {file.kind: file for file in files}


@pytest.fixture(scope="module")
def karsl(tmp_path_factory):
    return written(tmp_path_factory.mktemp("export"))


def test_graph_has_the_promised_names_shapes_and_opset(karsl):
    graph = onnx.load(karsl[2]["onnx"].path)
    onnx.checker.check_model(graph, full_check=True)
    (entry,), (result,) = graph.graph.input, graph.graph.output
    shapes = [[d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim] for item in (entry, result)]
    assert (entry.name, result.name) == ("input", "output")
    assert shapes == [["batch_size", 50, 736], ["batch_size", 5]]
    assert {item.domain: item.version for item in graph.opset_import}[""] == 18
    assert [path.name for path in karsl[2]["onnx"].path.parent.glob("*.onnx*")] == ["signs_5_t_4_2.onnx"]
    assert not any(tensor.external_data for tensor in graph.graph.initializer)


def test_metadata_says_what_a_user_must_know_and_nothing_of_this_machine(karsl):
    path = karsl[2]["onnx"].path
    found = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert json.loads(found["classes"])[0] == [1, "word1", "كلمة"]
    assert found["normalisation"] == "anchored"
    assert json.loads(found["temporal"])["frames"] == 50
    assert json.loads(found["schema"])["features"] == ["x", "y", "z", "v"]
    assert __file__.split("/tests/")[0].encode() not in path.read_bytes()


@pytest.mark.parametrize("num", [1, 2, 64])
def test_onnxruntime_gives_the_logits_of_torch(karsl, num):
    task, made, files = karsl
    session = onnxruntime.InferenceSession(str(files["onnx"].path), providers=["CPUExecutionProvider"])
    clips = task.samples(12)[torch.arange(num) % 12]
    assert files["onnx"].max_difference <= TOLERANCE
    (found,) = session.run(None, {session.get_inputs()[0].name: clips.numpy()})
    with torch.no_grad():
        expected = made(clips).numpy()
    assert found.shape == (num, 5)
    assert np.abs(found - expected).max() <= 1e-4
    assert np.array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("num_frames", [15, 23, 50])
def test_the_apps_call_returns_finite_logits(karsl, num_frames):
    task, _, files = karsl
    session = onnxruntime.InferenceSession(str(files["onnx"].path), providers=["CPUExecutionProvider"])
    live = task.samples(1)[:, :num_frames].numpy()
    padded = np.concatenate([live, np.repeat(live[:, -1:], 50 - num_frames, 1)], 1)
    (logits,) = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: padded})
    assert logits.shape == (1, 5)
    assert np.isfinite(logits).all()


def test_legacy_model_and_glove_export_too(tmp_path):
    for number, kwargs in enumerate(({"input_norm": "batch", "residual": "legacy"}, {"preset": "powerglove"})):
        _, _, files = written(tmp_path / str(number), ("onnx",), **kwargs)
        assert files["onnx"].max_difference <= TOLERANCE


def test_pth_lies_under_the_published_name_and_loads_strictly(karsl):
    task, _, files = karsl
    path = files["pth"].path
    assert path.name == "3.pth"
    assert re.fullmatch(r"checkpoint_[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d-signs_5_t_4_2", path.parent.name)
    state = torch.load(path, weights_only=True)["model"]
    trained()[2].load_state_dict(state, strict=True)
    facts = weight_files.load_facts(path)
    assert facts["info"]["classes"] == task.info()["classes"]
    assert facts["metrics"] == {"top1": 0.5}


def test_a_difference_beyond_the_tolerance_is_an_error_and_leaves_no_file(karsl, tmp_path, monkeypatch):
    good = onnx.load(karsl[2]["onnx"].path)
    del good.metadata_props[:]
    monkeypatch.setattr(exporting, "_trace", lambda model, path, _: onnx.save(good, path))  # a real one takes long
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(RunError, match="differs from torch"):
        written(tmp_path, ("onnx",))
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_model_are_refused(tmp_path):
    settings, task, made = trained()
    state = {name: value for name, value in made.state_dict().items() if not name.startswith("blocks.1")}
    with pytest.raises(DataError, match=r"blocks\.1"):
        export.export_model(settings, task.info(), state, tmp_path, ["pth"], samples=task.samples(1))
