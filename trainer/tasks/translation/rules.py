"""The warning signs of a translation run: the general ones on its un-smoothed loss, and those of text and decoding."""

from trainer.telemetry.rules import Rule
from trainer.telemetry.rules_machine import UnsteadySpeed
from trainer.telemetry.rules_outputs import RatioAbove, RatioBelow, ShareAbove
from trainer.telemetry.rules_passes import AccuracyStuck, GoodEnough, Leak
from trainer.telemetry.rules_start import BadStart, FactAbove, Padding, RateOffPlan, TinyBatch
from trainer.telemetry.warnings import general_rules

_LENGTH = "length of the outputs over that of the references"


def rules() -> list[Rule]:
    """All of them, in the order in which they speak."""
    general = [rule for rule in general_rules(loss="nll") if rule.name not in ("one_class", "unsteady_speed")]
    return [
        *general,
        # Samples a second jump with the length of the sentences, tokens do not.
        UnsteadySpeed(rate="tokens"),
        BadStart(outputs="target_vocab_size"),
        RateOffPlan(),
        AccuracyStuck(loss="nll"),
        GoodEnough(),
        Leak(),
        TinyBatch(),
        Padding(),
        RatioBelow("short_output", "length_ratio", _LENGTH, "raise decode.alpha, check that <eos> is "
                   "learned in its place, and look for truncated targets", 0.8),
        RatioAbove("long_output", "length_ratio", _LENGTH, "lower decode.alpha, and check that <eos> is learned", 1.25),
        ShareAbove("loops", "loop_share", "outputs repeat three tokens", "set decode.no_repeat_ngram=3, or train "
                   "longer", 0.10),
        ShareAbove("copying", "copy_share", "outputs are copies of the source", "is the wrong side in the target "
                   "file? Else train longer", 0.50),
        ShareAbove("empty", "empty_share", "outputs are empty", "set decode.min_len, and check how <eos> is made",
                   0.01),
        ShareAbove("unknowns", "unknown_label_share", "tokens are <unk>", "a larger vocabulary, another kind of "
                   "tokenizer, or the same normalisation for all text", 0.01, pass_name="val"),
        FactAbove("truncated", "data.over_limit_share", "training pairs are longer than the limit", "raise "
                  "data.max_source_len and data.max_target_len"),
    ]  # fmt: skip
