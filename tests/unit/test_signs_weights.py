"""Model files: the published format, prefixes, another class count, files that are not weights, facts inside."""

import pickle

import pytest
import torch

from trainer.config.signs import SignsModel, SignsSettings
from trainer.errors import DataError
from trainer.tasks import weight_files
from trainer.tasks.signs import weights
from trainer.tasks.signs.schema import Schema

KARSL = Schema.preset("karsl")
LEGACY = SignsSettings(model=SignsModel(size="t_4_2", input_norm="batch", residual="legacy"))


def model(num_classes=4):
    return weights.build(LEGACY, KARSL, num_classes)


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "_orig_mod."])
def test_a_published_file_loads_strictly(tmp_path, prefix):
    source, target = model(), model()
    old = {
        "model": {prefix + name: value for name, value in source.state_dict().items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "scheduler": {"factor": 0.2, "best": float("inf"), "mode": "min"},
    }
    torch.save(old, tmp_path / "30.pth")
    state = weight_files.load_pth(tmp_path / "30.pth")
    assert weights.load_into(target, state, [], "30.pth") == []
    target.load_state_dict(state, strict=True)
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_another_class_count_needs_permission_and_gets_a_fresh_head():
    state = model(9).state_dict()
    with pytest.raises(DataError, match=r"30\.pth does not fit the model at fc\.weight, fc\.bias"):
        weights.load_into(model(4), state, [], "30.pth")
    target = model(4)
    fresh = target.fc.weight.clone()
    assert weights.load_into(target, state, ["fc.*"], "30.pth") == ["fc.weight", "fc.bias"]
    assert torch.equal(target.fc.weight, fresh)
    assert torch.equal(target.blocks[1].mlp[3].weight, state["blocks.1.mlp.3.weight"])


def test_another_clip_length_is_no_misfit():
    state = model().state_dict()
    longer = LEGACY.model_copy(deep=True)
    longer.data.sampling.frames = 80
    target = weights.build(longer, KARSL, 4)
    assert weights.load_into(target, state, [], "x") == []
    assert target.pos_encoder.pe.shape[1] == 80


class Evil:
    def __reduce__(self):
        return (print, ("run by the file",))


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "pickle", "list", "numbers"])
def test_a_file_that_is_not_weights_is_one_line(tmp_path, kind, capsys):
    path = tmp_path / "model.pth"
    if kind == "text":
        path.write_text("hello, I am a log file\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        torch.save(model().state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    else:
        torch.save([1, 2] if kind == "list" else {"a": 3}, path)
    with pytest.raises(DataError, match=r"model\.pth") as caught:
        weight_files.load_pth(path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.pth does not exist"):
        weight_files.load_pth(tmp_path / "none.pth")


def test_saved_files_hold_tensors_and_plain_facts_only(tmp_path):
    made = model()
    about = weights.facts({"classes": [[1, "a", "كلمة"]], "schema": KARSL.to_json()}, LEGACY.model, {"top1": 0.5})
    weight_files.save_pth(tmp_path / "deep" / "7.pth", made.state_dict(), about)
    loaded = torch.load(tmp_path / "deep" / "7.pth", weights_only=True)
    assert set(loaded) == {"model", "facts"}
    assert weight_files.load_facts(tmp_path / "deep" / "7.pth") == about
    assert Schema.from_json(loaded["facts"]["info"]["schema"]) == KARSL
    model().load_state_dict(weight_files.load_pth(tmp_path / "deep" / "7.pth"), strict=True)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["7.pth"]


def test_a_broken_safetensors_file_is_one_line(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read") as caught:
        weight_files.read_weights(tmp_path)
    assert "\n" not in str(caught.value)
