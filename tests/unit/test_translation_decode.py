"""Check 7 of translation.md 16: greedy and beam search, their cache, their limits."""

import itertools
from dataclasses import replace

import pytest
import torch

from trainer.config.translation import TranslationModelSettings
from trainer.tasks.translation.decode import (
    DecodeOptions,
    beam_search,
    decode,
    greedy,
    length_penalty,
    limits_of,
    sampler,
)
from trainer.tasks.translation.model import TranslationModel
from trainer.tasks.translation.steppers import Cached, Uncached, for_decoding

OPTIONS = DecodeOptions(max_len=40)
VOCAB = 30


def wild_model(seed=0, vocab=VOCAB, **values):
    """Untrained, with sharper answers, so that outputs differ in length and content."""
    torch.manual_seed(seed)
    sizes = {"d_model": 32, "num_heads": 4, "num_layers": 2, "d_ff": 64, **values}
    model = TranslationModel(TranslationModelSettings(**sizes), vocab, vocab)
    model.output.weight.data.mul_(3.0)
    return for_decoding(model)


def sentences(count, seed=1, longest=14):
    """Ids with `<eos>` at the end of sources of length 1 to `longest`, padded."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.randint(4, VOCAB, (count, longest), generator=draw)
    for row, length in enumerate(torch.randint(1, longest + 1, (count,), generator=draw).tolist()):
        found[row, length - 1] = 2
        found[row, length:] = 0
    return found


def run(model, source, options, kind=Cached):
    return decode(kind(model, source), source, options)


def test_check_7_a_beam_of_one_is_greedy():
    model, source = wild_model(), sentences(200)
    limits = limits_of(source, OPTIONS.max_len)
    with torch.no_grad():
        one = greedy(Cached(model, source), limits, OPTIONS, source.device)
        beam = beam_search(Cached(model, source), limits, OPTIONS, source.device)
    assert [[hypothesis] for hypothesis in one] == beam
    assert len({len(hypothesis.tokens) for hypothesis in one}) > 10
    assert 0 < sum(hypothesis.is_complete for hypothesis in one) < 200


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("position", ["sinusoidal", "learned", "rotary"])
def test_check_7_cached_is_uncached(beam_size, position):
    model, source = wild_model(position=position), sentences(40)
    options = replace(OPTIONS, beam_size=beam_size, num_best=beam_size)
    assert run(model, source, options) == run(model, source, options, Uncached)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_check_7_a_sentence_reads_the_same_in_any_batch(beam_size):
    model, source = wild_model(), sentences(64)
    options = replace(OPTIONS, beam_size=beam_size, num_best=beam_size)
    together = run(model, source, options)
    reversed_rows = run(model, source.flip(0), options)[::-1]
    wider = run(model, torch.nn.functional.pad(source, (0, 37)), options)
    lengths = (source != 0).sum(1).tolist()
    alone = [run(model, source[i : i + 1, :length], options)[0] for i, length in enumerate(lengths[:12])]
    assert together == reversed_rows == wider
    assert together[:12] == alone


def test_check_7_beam_search_finds_likelier_outputs_than_greedy():
    model, source = wild_model(3), sentences(100)
    options = replace(OPTIONS, alpha=0.0)
    one, four = (run(model, source, replace(options, beam_size=size)) for size in (1, 4))
    means = [sum(best[0].log_probability for best in found) / 100 for found in (one, four)]
    assert means[1] > means[0]


def test_check_7_eos_at_once_and_the_limit():
    model, source = wild_model(), sentences(20)
    for beam_size in (1, 3):
        options = replace(OPTIONS, beam_size=beam_size, max_len=6)
        for [found] in run(model, source, options):
            assert len(found.tokens) + found.is_complete <= 6
        assert all(len(found.tokens) <= 12 for [found] in run(model, sentences(20, longest=1), OPTIONS))
    model.output.weight.data.zero_()
    with torch.no_grad():  # the last hidden state is a constant of norm sqrt(d): make <eos> likeliest everywhere
        model.decoder_norm.weight.zero_()
        model.decoder_norm.bias.fill_(1.0)
        model.output.weight[2] = 1.0
    for beam_size in (1, 3):
        assert all(found.tokens == () for [found] in run(model, source, replace(OPTIONS, beam_size=beam_size)))
        least = run(model, source, replace(OPTIONS, beam_size=beam_size, min_len=3))
        assert {len(found.tokens) for [found] in least} == {3}


def test_beam_search_finds_what_trying_everything_finds():
    model = wild_model(5, vocab=7)
    source = torch.tensor([[4, 5, 2], [6, 2, 0]])
    options = DecodeOptions(beam_size=1500, alpha=0.6, max_len=4, num_best=85)
    for row, found in enumerate(run(model, source, options)):
        every = []
        for tokens in (one for size in range(4) for one in itertools.product((3, 4, 5, 6), repeat=size)):
            ids = torch.tensor([[1, *tokens]])
            log_p = model(source[row : row + 1], ids)[0].log_softmax(-1)
            total = sum(log_p[place, token].item() for place, token in enumerate([*tokens, 2]))
            every.append((total / length_penalty(len(tokens) + 1, 0.6), tokens))
        every.sort(reverse=True)
        assert [one.tokens for one in found] == [tokens for _, tokens in every]
        assert [one.score for one in found] == pytest.approx([score for score, _ in every], abs=1e-6)


class Sure:
    """Knows one sentence: 0.9 for its next token, the rest spread evenly, as label smoothing teaches."""

    def __init__(self, sentence):
        self.sentence, self.place = sentence, 0

    def step(self, ids):
        logits = torch.full((len(ids), VOCAB), 0.1 / VOCAB).double()
        logits[:, self.sentence[min(self.place, len(self.sentence) - 1)]] += 0.9
        self.place += 1
        return logits.log()

    def select(self, sentences, rows):
        pass


def test_a_sure_sentence_is_written_to_its_end():
    sentence = [*range(4, 20), 2]
    source = torch.tensor([[4] * 12])
    for beam_size in (1, 2, 4, 8):
        [[found]] = decode(Sure(sentence), source, replace(OPTIONS, beam_size=beam_size))
        assert found.tokens == tuple(sentence[:-1])


def test_length_penalty_known_values():
    assert [round(length_penalty(size, 0.6), 4) for size in (1, 5, 10, 20)] == [1, 1.3587, 1.7329, 2.3544]


def test_length_limit_known_values():
    assert limits_of(torch.tensor([[4, 2, 0], [4, 5, 2], [2, 0, 0]]), 15) == [14, 15, 12]


def test_ties_go_to_the_lowest_id():
    model, source = wild_model(), sentences(3)
    model.output.weight.data.zero_()
    for beam_size in (1, 4):
        [[found], *_] = run(model, source, replace(OPTIONS, beam_size=beam_size, max_len=5, min_len=99))
        assert found.tokens == (3, 3, 3, 3, 3)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_no_ngram_twice_and_nothing_reserved(beam_size):
    model, source = wild_model(), sentences(40)
    options = replace(OPTIONS, beam_size=beam_size, no_repeat_ngram=2, num_best=beam_size)
    for hypothesis in itertools.chain(*run(model, source, options)):
        pairs = list(itertools.pairwise(hypothesis.tokens))
        assert len(set(pairs)) == len(pairs)
        assert not {0, 1, 2} & set(hypothesis.tokens)


def test_nbest_is_sorted_and_without_doubles():
    for found in run(wild_model(), sentences(20), replace(OPTIONS, beam_size=5, num_best=5)):
        complete = [one.score for one in found if one.is_complete]
        assert complete == sorted(complete, reverse=True)
        assert len({(one.tokens, one.is_complete) for one in found}) == len(found) == 5


def test_sampling_draws_from_the_likeliest():
    units = torch.tensor([[0.5, 0.3, 0.15, 0.05]] * 500).double().log()
    units = (units / 2.0**-26).round().long()
    generator = torch.Generator().manual_seed(0)
    plain = sampler(generator)(units).bincount(minlength=4) / 500
    assert plain.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.06)
    assert sampler(generator, top_k=2)(units).unique().tolist() == [0, 1]
    assert sampler(generator, top_p=0.6)(units).unique().tolist() == [0, 1]
    assert sampler(generator, top_p=1e-9)(units).unique().tolist() == [0]
    assert sampler(generator, temperature=0.01)(units).unique().tolist() == [0]
