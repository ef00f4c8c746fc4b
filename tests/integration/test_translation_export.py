"""Export of translation: both graphs run in onnxruntime and write the same tokens; the card says what it is."""

import json

import onnx
import pytest
import torch

from tests.translation_runs import translation_settings
from trainer.errors import RunError
from trainer.tasks import weight_files
from trainer.tasks.exporting import OPSET, TOLERANCE
from trainer.tasks.translation import export
from trainer.tasks.translation.decode import DecodeOptions, decode
from trainer.tasks.translation.steppers import Cached, for_decoding
from trainer.tasks.translation.task import create

METRICS = {"test_translate": {"bleu": 97.25, "bleu_longer": None}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The task, its model with sharp answers, and the files by kind."""
    folder = tmp_path_factory.mktemp("export")
    task = create(translation_settings(folder, data__pairs=1200))
    torch.manual_seed(0)
    model = task.build_model()
    model.output.weight.data.mul_(4.0)
    written = export.export_model(
        task.settings, task.info(), model.state_dict(), folder, ["pth", "onnx"], samples=task.samples(50),
        metrics=METRICS,
    )  # fmt: skip
    return task, model, {one.kind: one for one in written}


def test_graphs_agree_and_have_free_axes(made):
    _, _, files = made
    for kind, num_inputs in (("onnx encoder", 1), ("onnx decoder", 3)):
        one = files[kind]
        assert one.max_difference <= TOLERANCE
        assert one.num_samples == 50
        graph = onnx.load(one.path)
        assert {item.domain: item.version for item in graph.opset_import}[""] == OPSET
        assert len(graph.graph.input) == num_inputs
        for value in graph.graph.input:
            assert [dim.dim_value for dim in value.type.tensor_type.shape.dim][:2] == [0, 0]
        facts = {item.key: json.loads(item.value) for item in graph.metadata_props}
        assert facts["info"]["tokenizer_digest"] == made[0].info()["tokenizer_digest"]


def test_greedy_decoding_of_50_sentences_gives_the_same_tokens(made):
    task, model, files = made
    source = task.corpus.train.take(torch.arange(50).numpy(), 0)["source_ids"]
    options = DecodeOptions(max_len=30)
    stepper = export.OnnxStepper(files["onnx encoder"].path, files["onnx decoder"].path, source)
    found = decode(stepper, source, options)
    expected = decode(Cached(for_decoding(model), source), source, options)
    assert [one.tokens for [one] in found] == [one.tokens for [one] in expected]
    assert len({len(one.tokens) for [one] in found}) > 3


def test_other_tokens_are_an_error_and_ties_are_not(made):
    task, model, files = made
    paths = files["onnx encoder"].path, files["onnx decoder"].path
    source = task.samples(50)["source_ids"]
    other = torch.nn.Module.requires_grad_(create(task.settings).build_model(), False)
    with pytest.raises(RunError, match="otherwise than torch"):
        export._compare_tokens(other, *paths, source, 30)
    nearly = {name: value + 1e-7 * torch.randn_like(value) for name, value in model.state_dict().items()}
    other.load_state_dict(nearly)
    export._compare_tokens(other, *paths, source, 30)


def test_weights_for_people(made):
    _, model, files = made
    state = weight_files.load_pth(files["pth"].path)
    assert state.keys() == model.state_dict().keys()
    assert weight_files.load_facts(files["pth"].path)["metrics"] == METRICS


def test_the_card_names_corpus_tokenizer_and_scores(made):
    task, _, files = made
    text = files["card"].path.read_text()
    info = task.info()
    for part in (
        info["tokenizer_digest"],
        info["data_digest"],
        info["signatures"]["bleu"],
        "| bleu | 97.2500 |",
        "en to de",
    ):
        assert part in text


def test_weights_of_a_plain_trainer_start_a_run(tmp_path, made):
    task, model, _ = made
    path = tmp_path / "best_model.pt"
    torch.save({"epoch": 3, "global_step": 70, "model_state_dict": model.state_dict(), "config": {"d_model": 16}}, path)
    task.settings.run.init_from = str(path)
    try:
        loaded = task.build_model().state_dict()
    finally:
        task.settings.run.init_from = None
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
