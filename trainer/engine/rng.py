"""Dropout and every other draw inside the model: keyed by (seed, purpose, step, rank), never carried.

The default generators are re-keyed at the start of each step, so there is no random state to save. Seeding the
generator object costs 1 us; `torch.manual_seed` also walks all devices and costs 110 to 170 us.
"""

import torch

from trainer.data.keys import derive


def rekey(device: torch.device, seed: int, purpose: str, *position: int) -> None:
    """Put the CPU's and the device's default generator into the state that (seed, purpose, position) names."""
    key = derive(seed, purpose, *position) >> 1
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)
