"""Dropout and every other draw inside the model: keyed by (seed, purpose, step, rank), never carried.

The default generators are re-keyed at the start of each step, so there is no random state to save. Seeding the
generator object costs 1 us; `torch.manual_seed` also walks all devices and costs 110 to 170 us.
"""

from functools import lru_cache

import torch

from trainer.data.keys import derive

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1


def rekey(device: torch.device, seed: int, purpose: str, *position: int) -> None:
    """Put the CPU's and the device's default generator into the state that (seed, purpose, position) names."""
    key = _base(seed, purpose)
    for number in position:
        # The golden-ratio step of SplitMix64; the Mersenne twister's own seeding scrambles neighbours apart.
        key = (key * 0x2545F4914F6CDD1D + (number + 1) * _GAMMA) & _MASK
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)


@lru_cache(maxsize=64)
def _base(seed: int, purpose: str) -> int:
    """The key of a purpose; kept, because hashing it costs more than all the rest of a re-keying."""
    return derive(seed, purpose) & _MASK
