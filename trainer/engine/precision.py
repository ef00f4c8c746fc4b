"""Number formats: one rule for one process, DDP, the function `train(...)` and the chart."""

from contextlib import AbstractContextManager, nullcontext

import torch

from trainer.config.settings import PrecisionSettings
from trainer.errors import SettingsError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The resolved format, its autocast block and, for fp16 only, the loss scaler."""

    def __init__(self, settings: PrecisionSettings, device: torch.device) -> None:
        self.name = resolve(settings.amp, device)
        self.device = device
        self.scaler: torch.amp.GradScaler | None = None
        if self.name == "fp16":
            if device.type == "mps":
                raise SettingsError("precision.amp fp16 needs a loss scaler, which Apple GPUs lack; use fp32 or bf16")
            self.scaler = torch.amp.GradScaler(device.type, init_scale=settings.init_scale)
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = settings.tf32
            torch.backends.cudnn.allow_tf32 = settings.tf32

    def autocast(self) -> AbstractContextManager[object]:
        """The block in which the forward pass runs."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.name])


def resolve(name: str, device: torch.device) -> str:
    """`auto` as a format: bf16 on CUDA (fp16 where the GPU has no bf16), fp32 elsewhere (bf16 is slower on CPUs)."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
