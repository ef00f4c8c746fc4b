"""From the setting `run.store` to a store; the one place that knows which kinds there are."""

from pathlib import Path

from trainer.checkpoint.files import FileStore
from trainer.checkpoint.store import Store
from trainer.errors import SettingsError


def open_store(url: str) -> Store:
    """The store behind a URL: `file:///folder`, or `file://folder` below the working directory.

    Raises SettingsError for anything else.
    """
    kind, separator, place = url.partition("://")
    if not separator:
        raise SettingsError(f"run.store is {url!r}, which is no URL; for a folder write file://{url}")
    if kind != "file":
        raise SettingsError(f"run.store is {url!r}: there is no store of the kind {kind!r}; use file://folder")
    if not place:
        raise SettingsError(f"run.store is {url!r}, which names no folder; write file://checkpoints")
    return FileStore(Path(place).expanduser())
