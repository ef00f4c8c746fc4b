"""What a user should be told of a corpus once, at the start: pairs that were left out or look odd, sizes, batches."""

from collections.abc import Mapping
from typing import Any

from trainer.config.translation import TranslationSettings
from trainer.tasks.translation.batching import Fill

_ODD = {
    "empty": "with an empty side left out",
    "duplicates": "more than once",
    "ratio_outliers": "with one side over three times as long as the other",
}
_LARGE_PADDING = 0.1


def remarks(report: Mapping[str, Any], fill: Fill, settings: TranslationSettings) -> list[str]:
    """One line for each thing there is to say; `report` is that of the corpus."""
    lines = []
    for split in ("train", "val", "test"):
        found = report.get(split, {})
        counts = [f"{found[name]:,} {what}" for name, what in _ODD.items() if found.get(name)]
        if found.get("over_limit"):
            done = "dropped" if split == "train" and settings.data.long_pairs == "drop" else "cut"
            counts.append(f"{found['over_limit']:,} {done}, being over data.max_source_len or max_target_len")
        counts += [
            f"{share:.2%} of the {side} tokens unknown"
            for side, num_unknown in found.get("unknown_tokens", {}).items()
            if (share := num_unknown / max(found["tokens"][side], 1)) > 0
        ]
        if counts:
            lines.append(f"{split}: of {found['pairs']:,} pairs {'; '.join(counts)}")
    if report.get("bad_lines"):
        lines.append(f"{report['bad_lines']:,} lines that are no pair were left out (data.bad_samples: skip)")
    if report.get("shared_sources"):
        lines.append(f"{report['shared_sources']:,} training sources are evaluated, too (data.allow_overlap)")
    if fill.padding_share > _LARGE_PADDING:
        lines.append(f"{fill.padding_share:.0%} of the target cells are padding; data.batch_by: tokens has less")
    return lines + _vocabulary(report["vocabulary"], settings)


def _vocabulary(sizes: Mapping[str, int], settings: TranslationSettings) -> list[str]:
    """The real sizes, where somebody asked for more than the text supports."""
    asked = {"source": settings.tokenizer.vocab_size}
    asked["target"] = settings.tokenizer.target_vocab_size or asked["source"]
    if settings.tokenizer.path is not None or all(sizes[side] == asked[side] for side in asked):
        return []
    return [f"the vocabularies have {sizes['source']:,} and {sizes['target']:,} tokens: the text supports no more"]
