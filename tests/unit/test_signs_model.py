"""The ST-Transformer: counts, names and shapes of the published model, its mathematics, masks, dropout."""

import math

import pytest
import torch
from torch import nn

from trainer.config.signs import SignsModel
from trainer.errors import SettingsError
from trainer.tasks.signs.blocks import Attention, time_code
from trainer.tasks.signs.dropout import Dropout, fast_dropout
from trainer.tasks.signs.model import DatasetNorm, ModelSize, STTransformer, attention_masks
from trainer.tasks.signs.schema import Schema

KARSL = Schema.preset("karsl")
GLOVE = Schema.preset("powerglove")
COUNTS = {
    "t_4_2": (217_463, 185_483),
    "s_4_2": (699_191, 635_723),
    "s_4_4": (1_228_343, 1_164_875),
    "s_4_6": (1_757_495, 1_694_027),
    "m_4_4": (4_568_247, 4_441_803),
    "m_4_6": (6_675_127, 6_548_683),
    "l_4_4": (17_588_663, 17_336_267),
    "l_6_8": (76_870_327, 76_491_979),
}


def model(size="t_4_2", schema=KARSL, num_classes=5, **settings):
    torch.manual_seed(0)
    return STTransformer(schema, num_classes, SignsModel(size=size, **settings))


def clip(num=2, frames=50, schema=KARSL):
    torch.manual_seed(1)
    x = torch.randn(num, frames, schema.num_keypoints, schema.num_features)
    if schema.visibility is not None:
        x[..., schema.visibility] = 1.0
    return x.reshape(num, frames, -1)


@pytest.mark.parametrize("norm", ["batch", "dataset"])
@pytest.mark.parametrize(("size", "counts"), COUNTS.items())
def test_parameter_counts_are_those_of_the_table(size, counts, norm, monkeypatch):
    for name in ("kaiming_uniform_", "uniform_", "xavier_uniform_", "trunc_normal_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)  # filling 300 MB is not the point
    for num_classes, count in zip((502, 10), counts, strict=True):
        made = model(size, num_classes=num_classes, input_norm=norm)
        assert sum(parameter.numel() for parameter in made.parameters()) == count


def published_names(num_blocks):
    names = [f"embedding.{part}_proj.{kind}" for part in ("pose", "face", "rh", "lh") for kind in ("weight", "bias")]
    names += ["embedding.layer_norm.weight", "embedding.layer_norm.bias", "embedding.part_embed", "pos_encoder.pe"]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names += [f"embedding.input_bn.{kind}" for kind in norm]
    for i in range(num_blocks):
        for kind in ("spatial", "temporal"):
            attention = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
            names += [f"blocks.{i}.{kind}_attention.{part}" for part in attention]
        layers = ("spatial_norm", "temporal_norm", "mlp_norm", "mlp.0", "mlp.3")
        names += [f"blocks.{i}.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    layers = ("attention_pool.attention_weights.0", "attention_pool.attention_weights.2", "fc")
    return names + [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


@pytest.mark.parametrize("norm", ["batch", "dataset"])
def test_state_dict_names_are_the_published_ones(norm):
    assert sorted(model(input_norm=norm).state_dict()) == sorted(published_names(2))
    assert model().state_dict()["pos_encoder.pe"].shape == (1, 50, 1, 64)


@pytest.mark.parametrize("num", [1, 3])
def test_shapes_at_every_stage(num):
    made, x = model().eval(), clip(num)
    tokens = made.embedding(x)
    assert tokens.shape == (num, 50, 4, 64)
    assert made.blocks[0](tokens, None, None).shape == tokens.shape
    assert made.attention_pool(tokens.mean(2), None).shape == (num, 64)
    assert made(x).shape == (num, 5)


def test_time_code_has_base_100000():
    code = time_code(50, 128)[0, :, 0].double()
    assert code.shape == (50, 128)
    for i, rate in ((0, 1.0), (1, 0.835363), (32, 3.16228e-3)):
        assert code[1, 2 * i].item() == pytest.approx(math.sin(rate), rel=1e-5)
        assert code[7, 2 * i + 1].item() == pytest.approx(math.cos(7 * rate), rel=1e-4, abs=1e-6)


def test_longer_clips_than_the_stored_code_continue_it():
    made = model(mask_missing=False).eval()
    assert made(clip(1, 70)).isfinite().all()
    longer = made.pos_encoder(torch.zeros(1, 70, 4, 64))
    assert torch.equal(longer[:, :50], made.pos_encoder.pe.expand(1, 50, 4, 64))


def straight_line(state, x, heads, num_blocks):
    """Signs.md 8.2 as published (legacy residuals, BatchNorm in evaluation), with nothing of the package."""

    def linear(name, value):
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, value):
        mean, variance = value.mean(-1, keepdim=True), value.var(-1, unbiased=False, keepdim=True)
        return (value - mean) / torch.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(value):
        return 0.5 * value * (1 + torch.erf(value / math.sqrt(2)))

    def attend(name, value):  # [rows, length, d]
        width = value.shape[-1]
        qkv = value @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
        outs = []
        for h in range(heads):
            part = slice(h * width // heads, (h + 1) * width // heads)
            q, k, v = (qkv[..., i * width : (i + 1) * width][..., part] for i in range(3))
            scores = torch.einsum("nqd,nkd->nqk", q, k) / math.sqrt(width // heads)
            outs.append(torch.einsum("nqk,nkd->nqd", scores.softmax(-1), v))
        return linear(f"{name}.out_proj", torch.cat(outs, -1))

    bn = "embedding.input_bn"
    x = (x - state[f"{bn}.running_mean"]) / torch.sqrt(state[f"{bn}.running_var"] + 1e-5)
    x = x * state[f"{bn}.weight"] + state[f"{bn}.bias"]
    cuts = {"pose": (0, 24), "face": (24, 568), "rh": (568, 652), "lh": (652, 736)}
    x = torch.stack([linear(f"embedding.{name}_proj", x[..., a:b]) for name, (a, b) in cuts.items()], 2)
    x = gelu(norm("embedding.layer_norm", x + state["embedding.part_embed"])) + state["pos_encoder.pe"]
    b, t, g, d = x.shape
    for i in range(num_blocks):
        u = norm(f"blocks.{i}.spatial_norm", x)
        x = u + attend(f"blocks.{i}.spatial_attention", u.reshape(b * t, g, d)).reshape(b, t, g, d)
        u = norm(f"blocks.{i}.temporal_norm", x)
        rows = u.permute(0, 2, 1, 3).reshape(b * g, t, d)
        x = u + attend(f"blocks.{i}.temporal_attention", rows).reshape(b, g, t, d).permute(0, 2, 1, 3)
        hidden = gelu(linear(f"blocks.{i}.mlp.0", norm(f"blocks.{i}.mlp_norm", x)))
        x = x + linear(f"blocks.{i}.mlp.3", hidden)
    x = x.mean(2)
    pool = "attention_pool.attention_weights"
    weights = linear(f"{pool}.2", torch.tanh(linear(f"{pool}.0", x))).softmax(1)
    return linear("fc", (weights * x).sum(1))


def test_legacy_model_equals_a_straight_line_computation():
    made, x = model(input_norm="batch", residual="legacy"), clip(3)
    x.view(3, 50, 184, 4)[:, 10:20, 142:] = 0.0  # lost hands: the published model masks nothing
    made.train()
    made(x)  # moves the statistics of BatchNorm
    for parameter in made.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    with torch.no_grad():
        expected = straight_line(made.state_dict(), x, 4, 2)
        assert (made.eval()(x) - expected).abs().max() <= 1e-5


def test_attention_is_torch_multihead_attention():
    ours, theirs = Attention(32, 4, 0.0, "exact"), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(6, 9, 32)
    ignored = torch.rand(6, 9) < 0.3
    ignored[:, 0] = False
    expected, _ = theirs(x, x, x, key_padding_mask=ignored, need_weights=False)
    assert torch.allclose(ours(x, ~ignored[:, None, None]), expected, atol=1e-6)
    assert torch.allclose(ours(x[:, :1], None), theirs(x[:, :1], x[:, :1], x[:, :1])[0], atol=1e-6)


def test_fast_attention_without_dropped_weights_is_the_exact_one():
    exact, fast = Attention(32, 4, 0.0, "exact"), Attention(32, 4, 1e-9, "fast")
    fast.load_state_dict(exact.state_dict())
    x, allowed = torch.randn(5, 7, 32), torch.ones(5, 1, 1, 7, dtype=torch.bool)
    allowed[2, ..., 3:] = False
    assert torch.allclose(exact(x, allowed), fast.train()(x, allowed), atol=1e-6)


@pytest.mark.parametrize("bits", ["exact", "fast"])
def test_one_group_trains_every_value_weight(bits):
    made = model(schema=GLOVE, dropout_bits=bits).train()
    made(clip(4, schema=GLOVE)).square().sum().backward()
    weight = made.blocks[0].spatial_attention.in_proj_weight
    assert weight.grad[128:].abs().sum() > 0
    assert weight.grad[:128].abs().sum() == 0  # queries and keys of a single token change nothing


def test_missing_groups_do_not_reach_the_others():
    made, x = model().eval(), clip(1)
    hands = x.view(1, 50, 184, 4)[:, :, 142:]
    hands[:, 5:] = 0.0
    present = made.present_in(x)
    assert present[0, :, 2:].sum() == 10
    spatial, temporal, frames = attention_masks(present)
    assert spatial.shape == (50, 1, 1, 4)
    assert temporal.shape == (4, 1, 1, 50)
    assert frames.all()
    assert spatial[7].flatten().tolist() == [True, True, False, False]
    assert temporal[2].flatten().tolist() == [True] * 5 + [False] * 45


def test_what_padding_holds_does_not_matter():
    made, x = model().eval(), clip(1, 30)
    present = torch.ones(1, 30, 4, dtype=torch.bool)
    present[:, 20:] = False
    changed = x.clone()
    changed[:, 20:] = 7.0
    assert not torch.allclose(x, changed)
    inner = [made.embedding(value)[:, :20] for value in (x, changed)]
    assert torch.equal(*inner)
    pooled = [
        made.attention_pool(
            made.blocks[0](made.embedding(v), *attention_masks(present)[:2]).mean(2), attention_masks(present)[2]
        )
        for v in (x, changed)
    ]
    assert torch.allclose(*pooled, atol=1e-6)
    assert torch.allclose(made(x, present), made(changed, present), atol=1e-6)


def test_a_clip_without_anything_is_finite_in_both_directions():
    made = model(dropout_bits="fast").train()
    logits = made(torch.zeros(2, 50, 736), torch.zeros(2, 50, 4, dtype=torch.bool))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)


def test_a_group_that_is_never_there_sees_no_padding():
    present = torch.tensor([[[1, 0], [1, 0], [0, 0]]], dtype=torch.bool)
    _, temporal, frames = attention_masks(present)
    assert temporal[1].flatten().tolist() == [True, True, False]
    assert frames.tolist() == [[True, True, False]]


def test_dataset_norm_is_batch_norm_with_fixed_statistics():
    norm, reference = DatasetNorm(6), nn.BatchNorm1d(6).eval()
    mean, variance = torch.randn(6), torch.rand(6) + 0.5
    norm.set_statistics(mean, variance)
    reference.load_state_dict(norm.state_dict())
    x = torch.randn(9, 6)
    assert torch.equal(norm.train()(x), reference(x))
    assert torch.equal(norm.running_mean, mean)
    assert not isinstance(norm, nn.modules.batchnorm._BatchNorm)


def test_fast_dropout_keeps_the_mean_and_the_share():
    torch.manual_seed(3)
    x = torch.ones(1000, 401)
    out = fast_dropout(x, 0.3)
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=3e-3)
    assert out[kept].unique().numel() == 1
    assert out[kept][0].item() == pytest.approx(1 / 0.7, rel=1e-4)
    assert kept.view(-1)[::4].float().mean().item() == pytest.approx(0.7, abs=5e-3)


def test_dropout_follows_the_device_generator_alone():
    layer = Dropout(0.5, "fast")
    torch.default_generator.manual_seed(5)
    first = layer(torch.ones(33, 7))
    torch.default_generator.manual_seed(5)
    assert torch.equal(first, layer(torch.ones(33, 7)))
    assert not torch.equal(first, layer(torch.ones(33, 7)))
    assert torch.equal(layer.eval()(torch.ones(3)), torch.ones(3))


def test_size_texts():
    assert ModelSize.parse("s_4_2").to_str() == "s_4_2"
    assert [ModelSize.parse(letter).to_str() for letter in "tsml"] == ["t_4_2", "s_4_4", "m_4_6", "l_6_8"]
    assert ModelSize.parse("l_6_8").width == 768
    with pytest.raises(SettingsError, match=r"model\.size"):
        ModelSize.parse("x_4_2")
