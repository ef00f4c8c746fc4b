import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from trainer.checkpoint.state import HostBuffers, State
from trainer.checkpoint.tensors import CHUNK_BYTES, TensorsError, load_tensors, stream


def write(snapshot, folder):
    for name, chunks in snapshot.files():
        (folder / name).write_bytes(b"".join(bytes(chunk) for chunk in chunks))


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)


ALL_KINDS = {
    "weight": torch.randn(3, 5),
    "double": torch.randn(2, dtype=torch.float64),
    "half": torch.randn(7).half(),
    "brain": torch.randn(3, 3).bfloat16(),
    "flags": torch.tensor([True, False, True]),
    "byte": torch.arange(5, dtype=torch.uint8),
    "count": torch.tensor(12345678901, dtype=torch.int64),
    "step": torch.tensor(3.0),
    "int": torch.arange(3, dtype=torch.int32),
    "empty": torch.empty(0, 4),
    "turned": torch.randn(4, 6).t(),
    "slice": torch.randn(10, 10)[2:5, ::2],
    "complex": torch.randn(2, dtype=torch.complex64),
}


def test_every_kind_of_tensor_survives_bit_for_bit(tmp_path):
    state = State({"model": ALL_KINDS, "optimizer": {}}, {"cursor": {"step": 1}})
    write(HostBuffers().copy(state), tmp_path)
    for loaded in (load_tensors(tmp_path / "model.safetensors"), load_file(tmp_path / "model.safetensors")):
        assert loaded.keys() == ALL_KINDS.keys()
        assert all(same(loaded[name], tensor) for name, tensor in ALL_KINDS.items())
    assert load_tensors(tmp_path / "optimizer.safetensors") == {}
    assert json.loads((tmp_path / "state.json").read_text()) == {"cursor": {"step": 1}}
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.get_slice("weight").get_shape() == [3, 5]
        assert file.metadata() == {"format": "pt"}


def test_tied_tensors_are_stored_once_and_come_back_tied(tmp_path):
    weight = torch.randn(100, 100)
    state = State({"model": {"in": weight, "out": weight, "turned": weight.t(), "part": weight[:10]}}, {})
    write(HostBuffers().copy(state), tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < weight.nbytes * 2.2
    loaded = load_tensors(tmp_path / "model.safetensors")
    assert loaded["in"] is loaded["out"]
    assert same(loaded["turned"], weight.t())
    assert same(loaded["part"], weight[:10])


def test_a_snapshot_is_frozen(tmp_path):
    weight, meta = torch.zeros(4), {"cursor": {"step": 1}}
    snapshot = HostBuffers().copy(State({"model": {"w": weight}}, meta))
    weight += 1
    meta["cursor"]["step"] = 2
    write(snapshot, tmp_path)
    assert load_tensors(tmp_path / "model.safetensors")["w"].eq(0).all()
    assert snapshot.cursor == {"step": 1}


def test_buffers_are_reused_and_follow_a_state_that_grows(tmp_path):
    buffers = HostBuffers()
    small = State({"model": {"w": torch.ones(4)}}, {})
    first = buffers.copy(small).parts["model"][1].data_ptr()
    assert buffers.copy(small).parts["model"][1].data_ptr() == first
    grown = State({"model": {"w": torch.full((4,), 2.0)}, "optimizer": {"m": torch.full((1000,), 3.0)}}, {})
    write(buffers.copy(grown), tmp_path)
    assert load_tensors(tmp_path / "model.safetensors")["w"].eq(2).all()
    assert load_tensors(tmp_path / "optimizer.safetensors")["m"].eq(3).all()


def test_new_values_in_the_same_and_in_new_memory_are_copied(tmp_path):
    buffers, weight = HostBuffers(), torch.zeros(4)
    buffers.warm(State({"model": {"w": weight}}, {}))
    for value, tensor in ((1.0, weight.fill_(1.0)), (2.0, torch.full((4,), 2.0)), (3.0, torch.full((2, 2), 3.0))):
        write(buffers.copy(State({"model": {"w": tensor}}, {})), tmp_path)
        loaded = load_tensors(tmp_path / "model.safetensors")["w"]
        assert same(loaded, tensor)
        assert loaded.eq(value).all()


def test_parameters_that_need_gradients_are_copied_without_a_graph():
    parameter = torch.nn.Parameter(torch.randn(3))
    (_, buffer) = HostBuffers().copy(State({"model": {"p": parameter}}, {})).parts["model"]
    assert not buffer.requires_grad


def test_the_stream_never_copies_the_data():
    tensor = torch.zeros(CHUNK_BYTES // 4 + 1000)
    layout, buffer = HostBuffers().copy(State({"model": {"w": tensor}}, {})).parts["model"]
    header, *chunks = stream(layout, buffer)
    assert len(header) % 8 == 0
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, 4000]
    buffer.fill_(7)
    assert all(chunk[0] == 7 for chunk in chunks)


def test_a_loaded_tensor_does_not_hang_on_its_file(tmp_path):
    write(HostBuffers().copy(State({"model": {"w": torch.ones(10_000)}}, {})), tmp_path)
    path = tmp_path / "model.safetensors"
    loaded = load_tensors(path)["w"]
    path.write_bytes(b"")
    assert loaded.eq(1).all()


def test_no_safetensors_file_is_said(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(TensorsError, match=r"x\.safetensors"):
        load_tensors(tmp_path / "x.safetensors")
