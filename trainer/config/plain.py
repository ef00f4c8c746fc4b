"""Settings of the function `train(...)`: the common ones; model, data and loss come as arguments."""

from typing import Literal

from trainer.config.base import setting
from trainer.config.settings import CommonSettings


class PlainSettings(CommonSettings):
    """All settings of a run of `train(...)`."""

    task: Literal["plain"] = setting("plain")
    fingerprint: str | None = setting(None)
    """What the caller brought (weights by name and shape, optimizer, scheduler), so that others are another run."""
