"""From a checkpoint to a translator: everything that is needed lies in it, the corpus is not."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.config.translation import TranslationSettings
from trainer.errors import DataError, RunError
from trainer.tasks.translation.task import build
from trainer.tasks.translation.tokenizer import FILE, TokenizerPair
from trainer.tasks.translation.translate import Translator


def load_translator(
    settings: TranslationSettings, weights: Mapping[str, Tensor], files: Mapping[str, bytes], device: torch.device
) -> Translator:
    """The model of these weights on a device, with the tokenizers among a checkpoint's files.

    Raises DataError for tokenizers that are missing or not the run's own, RunError for weights of another model.
    """
    if FILE not in files:
        raise DataError(f"the checkpoint holds no {FILE}, so its weights cannot be used; take another checkpoint")
    tokenizers = TokenizerPair.from_bytes(files[FILE])
    tokenizers.check(settings.tokenizer.digest, "the run")
    model = build(settings, tokenizers.source.size, tokenizers.target.size)
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"the checkpoint does not fit the model of these settings: {reason}") from error
    return Translator(model.to(device), tokenizers.source, tokenizers.target, settings)
