"""From the setting `run.store` to a store; the one place that knows which kinds there are."""

from pathlib import Path

from trainer.checkpoint.files import FileStore
from trainer.checkpoint.store import Store
from trainer.config.s3 import S3Settings
from trainer.errors import SettingsError


def open_store(url: str, s3: S3Settings | None = None) -> Store:
    """The store behind a URL: `file:///folder`, `file://folder` below the working directory, `s3://bucket/prefix`.

    Nothing is asked of a server yet. Raises SettingsError for anything else.
    """
    kind, separator, place = url.partition("://")
    if "@" in place.partition("/")[0]:
        raise SettingsError("run.store must not hold credentials; they come from the environment or AWS files")
    if not separator:
        raise SettingsError(f"run.store is {url!r}, which is no URL; for a folder write file://{url}")
    if kind == "s3":
        from trainer.checkpoint.s3.store import S3Store  # boto3 takes 0.2 s to import

        return S3Store(place, s3 or S3Settings())
    if kind != "file":
        raise SettingsError(
            f"run.store is {url!r}: there is no store of the kind {kind!r}; use file://folder or s3://bucket/prefix"
        )
    if not place:
        raise SettingsError(f"run.store is {url!r}, which names no folder; write file://checkpoints")
    return FileStore(Path(place).expanduser())
