"""Check 8 of translation.md 16: known BLEU and chrF, from sums in any order and split."""

import math

import pytest
import torch

from tests.pass_sums import added
from trainer.engine.meter import perplexity
from trainer.tasks.translation.decode import Hypothesis
from trainer.tasks.translation.metrics import METRICS, Pair, TranslatedPass, teacher_metrics, teacher_sums
from trainer.tasks.translation.text_scores import TextScores
from trainer.tasks.translation.tokenizer import ListTokenizer

REFERENCES = [
    "the small red house stands near the river .",
    "she reads three old books every week .",
    "we will open the green door at seven .",
]
OUTPUTS = [
    "the small house stands near the river .",
    "she reads three old books each week .",
    "we will open the green door at eight .",
]


@pytest.fixture(scope="module")
def scores():
    return TextScores()


@pytest.mark.parametrize(
    ("outputs", "bleu", "chrf"),
    [(OUTPUTS, 68.1113, 80.4417), (REFERENCES, 100.0, 100.0), ([""] * 3, 0.0, 0.0), (["the small"] * 3, 0.0, 11.263)],
)
def test_check_8_known_answers(scores, outputs, bleu, chrf):
    total = scores.counts(outputs, REFERENCES).sum(0)
    assert scores.bleu(total) == pytest.approx(bleu, abs=5e-5 if bleu else 5e-3)
    assert scores.chrf(total) == pytest.approx(chrf, abs=5e-4)


def test_check_8_signatures(scores):
    assert scores.signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert scores.signatures["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.")


def translated(scores):
    """A pass over the three sentences, by words."""
    words = sorted({word for text in [*REFERENCES, *OUTPUTS] for word in text.split()})
    tokenizer = ListTokenizer("word", tuple(words))
    lengths = (9, 11, 50)
    pairs = [Pair(f"s{i}", text, lengths[i]) for i, text in enumerate(REFERENCES)]
    hypotheses = [Hypothesis(-1.0, -1.0, tuple(tokenizer.encode([text])[0])) for text in OUTPUTS]
    return TranslatedPass(pairs, tokenizer, 40, scores), hypotheses


def test_check_8_any_split_gives_the_same_scores(scores):
    a_pass, hypotheses = translated(scores)
    whole = a_pass.sums([0, 1, 2], hypotheses, 0.0)
    parts = [a_pass.sums([2], hypotheses[2:], 0.0), a_pass.sums([1, 0], hypotheses[1::-1], 0.0)]
    found = a_pass.metrics(added([whole]))
    assert a_pass.metrics(added(parts)) == found
    assert a_pass.samples(added(parts)) == a_pass.samples(added([whole]))
    assert found["bleu"] == pytest.approx(68.1113, abs=5e-5)
    assert found["bleu_to_10"] == pytest.approx(TextScores().bleu(scores.counts(OUTPUTS[:1], REFERENCES[:1])[0]))
    assert found["bleu_to_40"] is None
    assert set(found) <= set(METRICS)


def test_shares_of_odd_outputs(scores):
    a_pass, _ = translated(scores)
    odd = [
        Hypothesis(0.0, 0.0, ()),
        Hypothesis(0.0, 0.0, (4, 5, 6, 4, 5, 6, 3), is_complete=False),
        Hypothesis(0.0, 0.0, a_pass._tokenizer.encode([REFERENCES[2]])[0]),
    ]
    found = a_pass.metrics(added([a_pass.sums([0, 1, 2], odd, 6.0)]))
    third = pytest.approx(1 / 3)
    assert [found[name] for name in ("empty_share", "limit_share", "loop_share", "exact_match")] == [third] * 4
    assert found["unknown_share"] == pytest.approx(1 / 16)
    assert found["seconds_per_sentence"] == 2.0
    assert found["copy_share"] == 0.0


def test_samples_show_texts_and_the_worst_first(scores):
    a_pass, hypotheses = translated(scores)
    shown, worst = a_pass.samples(added([a_pass.sums([0, 1, 2], hypotheses, 0.0)]))
    assert [row["output"] for row in shown] == OUTPUTS
    assert [row["bleu"] for row in worst] == sorted(row["bleu"] for row in worst)
    assert len(worst) == 3


def test_perplexity_is_of_the_plain_loss_and_never_infinite():
    assert perplexity(math.log(7.0)) == pytest.approx(7.0)
    assert perplexity(50.1) is None
    assert perplexity(None) is None


def test_teacher_metrics_are_token_means():
    from trainer.tasks.translation.loss import token_sums

    logits, labels = torch.randn(4, 6, 9), torch.randint(0, 9, (4, 6))
    parts = [teacher_sums(token_sums(logits[s], labels[s], smoothing=0.1), labels[s]) for s in (slice(1), slice(1, 4))]
    found = teacher_metrics(added(parts))
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0).item()
    assert found["nll"] == pytest.approx(nll, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(nll), rel=1e-6)
    assert found["loss"] > 0
    assert teacher_metrics({name: torch.zeros(()) for name in parts[0]})["nll"] is None
