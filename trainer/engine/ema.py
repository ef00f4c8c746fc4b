"""Exponential moving average of the weights; evaluated and exported in place of them when it is on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.config.settings import EmaSettings


class Ema:
    """Keeps `average = decay * average + (1 - decay) * weight` for every floating parameter (buffers are copied)."""

    def __init__(self, settings: EmaSettings, model: nn.Module) -> None:
        self._settings = settings
        self._model = model
        self.tensors: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._live().items()}

    def update(self, updates: int) -> None:
        """Take in the weights after update number `updates`."""
        if updates % self._settings.every:
            return
        # The decay grows from 0.1 so that the first, random weights are forgotten (as in Tan and Le 2019).
        decay = min(self._settings.decay, (1 + updates) / (10 + updates))
        live = self._live()
        averages = [self.tensors[name] for name in live if live[name].is_floating_point()]
        weights = [value for value in live.values() if value.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1.0 - decay)
            for name, value in live.items():
                if not value.is_floating_point():
                    self.tensors[name].copy_(value)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model carries the averages during the block, its own weights afterwards."""
        live = self._live()
        kept = {name: value.detach().clone() for name, value in live.items()}
        _copy(live, self.tensors)
        try:
            yield
        finally:
            _copy(live, kept)

    def _live(self) -> dict[str, Tensor]:
        """The model's own tensors by name."""
        return self._model.state_dict()


def _copy(targets: dict[str, Tensor], sources: dict[str, Tensor]) -> None:
    """Copy tensor by tensor, in place."""
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(sources[name])
