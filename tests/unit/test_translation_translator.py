"""The translator: text in, text out, whatever the batch; and what the passes make of it."""

import pytest
import torch

from tests.pass_sums import added
from trainer.config.translation import TranslationSettings
from trainer.tasks.translation.corpora import pairs
from trainer.tasks.translation.decode import sampler
from trainer.tasks.translation.task import create, model_name, spread
from trainer.tasks.translation.translate import Translator, padded


@pytest.fixture(scope="module")
def task():
    return create(
        TranslationSettings.model_validate(
            {
                "data": {"layout": "embedded", "corpus": "reverse", "pairs": 300, "max_source_len": 16},
                "model": {"d_model": 16, "num_heads": 2, "num_layers": 1, "d_ff": 32},
                "decode": {"beam_size": 3, "batch_size": 7, "translate_samples": 5},
            }
        )
    )


@pytest.fixture(scope="module")
def translator(task):
    torch.manual_seed(0)
    model = task.build_model()
    model.output.weight.data.mul_(4.0)
    tokenizers = task.corpus.tokenizers
    return Translator(model, tokenizers.source, tokenizers.target, task.settings)


TEXTS = ["a b c", "", "z", "q w e r t y u i o p", "   ", "a b c", "x ? y"]


def test_every_text_has_its_translation_and_an_empty_one_stays_empty(translator):
    found = translator.translate(TEXTS)
    assert [bool(one.tokens) for one in found] == [True, False, True, True, False, True, True]
    assert [one.text for one in found][1::3] == ["", ""]
    assert found[0] == found[5]
    assert all(one.text == " ".join(one.text.split()) for one in found)


def test_a_sentence_alone_or_in_a_batch_of_64(translator):
    texts = [source for source, _ in pairs("reverse", 3, 64)]
    together = translator.translate(texts)
    assert together[::4] == [translator.translate([text])[0] for text in texts[::4]]
    assert len({one.text for one in together}) > 5


def test_nbest_holds_the_best_first(translator):
    [found] = translator.translate(["a b c d"], num_best=3)
    assert len(found.nbest) == 3
    assert found.nbest[0].tokens == found.tokens
    assert len(translator.translate(["a b c d"], num_best=99)[0].nbest) == 3


def test_long_sentences_are_cut_and_counted(translator):
    before = translator.num_truncated
    long = "a b c d e f g h i j k l m n o p q r"
    assert translator.translate([long])[0].tokens == translator.translate([" ".join(long.split()[:15])])[0].tokens
    assert translator.num_truncated == before + 1


def test_sampling_differs_from_draw_to_draw_and_repeats_with_its_seed(translator):
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return [one.text for one in translator.translate(["a b c", "d e"], choose=sampler(generator, temperature=2.0))]

    assert drawn(1) == drawn(1) != drawn(2)


def test_rows_are_padded_on_the_right():
    assert padded([[4, 2], [5, 6, 2]]).tolist() == [[4, 2, 0], [5, 6, 2]]


def test_passes_of_the_task(task):
    passes = {one.name: one for one in task.passes()}
    assert list(passes) == ["val", "test", "val_translate", "test_translate"]
    assert len(passes["val_translate"].data) == 5
    assert len(passes["test_translate"].data) == len(task.corpus.test)
    assert {name for name, one in passes.items() if one.evaluate} == {"val_translate", "test_translate"}
    assert task.settings.schedule.width == 16
    assert task.best_metric == "val/nll"
    assert "nll" in passes["test"].metrics
    assert "bleu" in passes["val_translate"].metrics
    assert not set(passes["val"].metrics) & set(passes["val_translate"].metrics)


def test_counts_are_the_target_tokens(task):
    plan = task.plan()
    indices = plan.batch(0, 0)
    labels = task.train_data().take(indices, 0)["labels"]
    assert task.counts(indices, 0) == {"smoothed": float((labels != 0).sum())}


def test_training_metrics_that_follow_from_the_means(task):
    torch.manual_seed(0)
    model, batch = task.build_model(), task.train_data().take(task.plan().batch(0, 0), 0)
    sums = task.loss(model, batch).sums
    tokens = float((batch["labels"] != 0).sum())
    means = {name: value.item() / tokens for name, value in sums.items()}
    found = means | task.derived(means, tokens, 2.0)
    assert "cells" not in means
    assert found["padding_share"] == pytest.approx((batch["labels"] == 0).float().mean().item())
    assert found["tokens_per_sec"] == tokens / 2.0
    assert found["perplexity"] == pytest.approx(torch.tensor(found["nll"]).exp().item())


def test_a_decoded_pass_brings_samples_and_attention(task):
    torch.manual_seed(0)
    model = task.build_model().eval()
    a_pass = next(one for one in task.passes() if one.name == "val_translate")
    parts = [a_pass.evaluate(model, a_pass.data.take(torch.arange(*ends).numpy(), 0)) for ends in ((0, 2), (2, 5))]
    result = task.summarize("val_translate", added(parts))
    assert set(result.metrics) == set(a_pass.metrics)
    assert [row["source"] for row in result.detail["samples"]] == [source for source, _ in a_pass.data.texts]
    assert result.always == {"samples": result.detail["samples"][:5]}
    for picture, (source, _) in zip(result.detail["attention"], a_pass.data.texts, strict=False):
        assert picture["source"] == [*source.split(), "<eos>"]
        assert len(picture["weights"]) == len(picture["output"])
        assert [sum(row) for row in picture["weights"]] == pytest.approx([1.0] * len(picture["output"]), abs=1e-2)
    assert len(result.detail["attention"]) == 2


def test_positions_are_spread_and_stay_the_same():
    assert spread(10, 4).tolist() == [0, 3, 6, 9]
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert spread(3, None).tolist() == [0, 1, 2]


def test_the_run_is_named_after_the_model(task):
    assert model_name(task.settings) == "d16_h2_l1"
    assert task.model_name == "d16_h2_l1"


def test_the_tokenizers_lie_beside_the_weights(task):
    from trainer.tasks.translation.tokenizer import TokenizerPair

    [(name, content)] = task.files.items()
    assert name == "tokenizer.json"
    assert TokenizerPair.from_bytes(content).digest == task.info()["tokenizer_digest"]
