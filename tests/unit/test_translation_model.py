"""Checks 1 and 2 of translation.md 16, and what else the model promises."""

import copy

import pytest
import torch
from torch import nn

from trainer.config.translation import TranslationModelSettings
from trainer.tasks.translation.attention import cross_attention
from trainer.tasks.translation.layers import rotate, sinusoids
from trainer.tasks.translation.loss import token_sums
from trainer.tasks.translation.model import TranslationModel

SIZES = {"tiny": (64, 4, 2, 256, 64), "small": (256, 4, 3, 1024, 8000), "base": (512, 8, 6, 2048, 32000)}
COUNTS = {
    "tiny": (246_016, 241_920, 237_824),
    "small": (11_674_624, 9_626_624, 7_578_624),
    "base": (93_292_544, 76_908_544, 60_524_544),
}


def settings(size="tiny", **values):
    d_model, num_heads, num_layers, d_ff, _ = SIZES[size]
    return TranslationModelSettings(d_model=d_model, num_heads=num_heads, num_layers=num_layers, d_ff=d_ff, **values)


def tiny(**values):
    torch.manual_seed(0)
    return TranslationModel(settings(**values), 64, 64).eval()


def ids(rows, length, *, pads=(), first=4):
    """Random ids with `pads[i]` pads on the right of row i."""
    found = torch.randint(first, 64, (rows, length), generator=torch.Generator().manual_seed(1))
    for row, num_pads in enumerate(pads):
        found[row, length - num_pads :] = 0
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("number", "tie"), list(enumerate(("none", "output", "all"))))
def test_check_1_parameter_counts(size, number, tie):
    with torch.device("meta"):
        model = TranslationModel(settings(size, tie=tie), SIZES[size][-1], SIZES[size][-1])
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[size][number]


def test_check_1_layers_of_base():
    with torch.device("meta"):
        model = TranslationModel(settings("base"), 32000, 32000)
    assert sum(one.numel() for one in model.encoder[0].parameters()) == 3_152_384
    assert sum(one.numel() for one in model.decoder[0].parameters()) == 4_204_032


@pytest.mark.parametrize(("tie", "num_matrices"), [("none", 3), ("output", 2), ("all", 1)])
def test_check_1_tied_matrices_are_one_and_stand_once_in_a_checkpoint(tie, num_matrices):
    model = tiny(tie=tie)
    matrices = [model.source_embedding.weight, model.target_matrix, model.output_matrix]
    state = model.state_dict()
    assert len({matrix.data_ptr() for matrix in matrices}) == num_matrices
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert sum(tensor.data_ptr() in {one.data_ptr() for one in matrices} for tensor in state.values()) == num_matrices


@pytest.mark.parametrize("position", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_check_2_a_target_token_changes_nothing_before_it(position, norm):
    model, source, target = tiny(position=position, norm=norm), ids(2, 9), ids(2, 8)
    for place in range(8):
        changed = target.clone()
        changed[:, place] = 63 - (changed[:, place] - 4)
        before, after = model(source, target), model(source, changed)
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.equal(before[:, place:], after[:, place:])


@pytest.mark.parametrize("position", ["sinusoidal", "rotary"])
def test_check_2_padding_changes_no_loss(position):
    model = tiny(position=position)
    source, target, labels = ids(4, 9, pads=(0, 2, 5)), ids(4, 8, pads=(0, 3, 1)), ids(4, 8, pads=(0, 3, 1))
    expected = token_sums(model(source, target), labels, smoothing=0.1)
    pad = nn.functional.pad
    for columns in (1, 2, 7, 16, 50):
        for source_pads, target_pads in ((columns, 0), (0, columns), (columns, columns)):
            logits = model(pad(source, (0, source_pads)), pad(target, (0, target_pads)))
            found = token_sums(logits, pad(labels, (0, target_pads)), smoothing=0.1)
            assert found.smoothed.item() == pytest.approx(expected.smoothed.item(), rel=1e-5)
            assert found.nll.item() == pytest.approx(expected.nll.item(), rel=1e-5)
            assert found.correct == expected.correct
            assert found.tokens == expected.tokens


def test_a_source_of_nothing_but_padding_gives_finite_numbers_and_gradients():
    model = tiny().train()
    source = ids(2, 5)
    source[1] = 0
    logits = model(source, ids(2, 4))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(one.grad.isfinite().all() for one in model.parameters())


@pytest.mark.parametrize("tie", ["none", "output", "all"])
def test_the_embedding_of_padding_is_zero_and_stays_so(tie):
    model = tiny(tie=tie).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    token_sums(model(ids(3, 6, pads=(2,)), ids(3, 5)), ids(3, 5), smoothing=0.1).smoothed.backward()
    optimizer.step()
    for matrix in (model.source_embedding.weight, model.target_matrix):
        assert not matrix[0].any()
        assert matrix[1:].any(1).all()


def test_initial_values():
    model = TranslationModel(settings("small"), 500, 500)
    assert model.source_embedding.weight[1:].std().item() == pytest.approx(256**-0.5, rel=0.02)
    bound = (6.0 / (256 + 1024)) ** 0.5
    assert model.encoder[0].feed_forward.wide.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not any(one.any() for name, one in model.named_parameters() if name.endswith("bias"))


def test_sinusoids_known_values():
    code = sinusoids(torch.tensor([0, 1, 100, 5000]), 512)
    assert code[0].tolist() == [0.0, 1.0] * 256
    assert code[1, :2].tolist() == pytest.approx([0.8414709848, 0.5403023059])
    assert code[2, 256:258].tolist() == pytest.approx([0.8414709848, 0.5403023059])  # 10000^(256/512) is 100
    assert code[3, 256:258].tolist() == pytest.approx([-0.2623748537, 0.9649660285])


def test_rotary_scores_hang_on_the_distance_only():
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64).unbind(0)
    here = [(rotate(query, torch.tensor([t])) * rotate(key, torch.tensor([t + 3]))).sum().item() for t in (0, 1, 50)]
    assert here == pytest.approx([here[0]] * 3)
    assert rotate(query, torch.tensor([7])).norm().item() == pytest.approx(query.norm().item())


def test_any_length_but_for_learned_positions():
    assert tiny()(ids(1, 300), ids(1, 200)).shape == (1, 200, 64)
    with pytest.raises(IndexError):
        tiny(position="learned")(ids(1, 129), ids(1, 5))


def test_one_step_at_a_time_is_the_whole_at_once():
    for position in ("sinusoidal", "learned", "rotary"):
        model = copy.deepcopy(tiny(position=position)).double()
        source, target = ids(3, 9, pads=(0, 4)), ids(3, 7)
        cache = model.start(*model.encode(source))
        steps = torch.stack([model.decode_step(target[:, place], cache) for place in range(7)], 1)
        assert torch.allclose(steps, model(source, target), rtol=0, atol=1e-12)


def test_attention_of_the_last_layer():
    model, source, target = tiny(), ids(2, 6, pads=(0, 2)), ids(2, 5)
    weights = cross_attention(model, source, target)
    assert weights.shape == (2, 5, 6)
    assert torch.allclose(weights.sum(2), torch.ones(2, 5))
    assert not weights[1, :, 4:].any()
    assert len(model.decoder[-1].cross_attention._forward_pre_hooks) == 0
