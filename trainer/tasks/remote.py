"""Data sets in a store, fetched once a node: `--data s3://...`. `push.py` puts them there.

    <url>/DATASET.json, pieces/...  ─►  <cache>/.<digest>.partial/  ─► verified, renamed ─►  <cache>/<digest>/

The contract: a cached folder exists when every byte of it was verified, because it is renamed into place last. What is
verified are pieces, so a cut costs a few of them and not a file. A `file://` URL is a folder and used where it lies.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from trainer.checkpoint.sealed import SealError
from trainer.checkpoint.store import Store, StoreDamaged, StoreMissing
from trainer.checkpoint.stores import open_store
from trainer.config.settings import CommonSettings
from trainer.errors import DataError, InfrastructureError, SettingsError, TrainerError
from trainer.tasks.data_index import INDEX, DataIndex, Piece, for_each
from trainer.tasks.disk import disk_errors, one_at_a_time
from trainer.telemetry.counting import Count, counting
from trainer.telemetry.text import size

TRIES = 2
"""Of a piece that arrives with wrong bytes: the first time it may have been the network."""


def is_url(path: str) -> bool:
    """Whether `data.path` is more than a path."""
    return "://" in path


def fetch(settings: CommonSettings) -> bool:
    """Bring the data of a run to this node, if they lie in a store; says whether they do.

    Nodes are done at different times, by more than a collective waits.
    """
    path: str | None = getattr(getattr(settings, "data", None), "path", None)
    if path is None or not is_url(path):
        return False
    local_path(path, settings)
    return split_url(path)[0] != "file"


def local_path(url: str, settings: CommonSettings, *, verify: bool = False) -> Path:
    """The folder of this machine with the data of a path or URL; those of an object store are fetched into `cache`.

    The local ranks share it: one fetches, the others wait. A folder that is whole is asked for its sizes and nothing
    more; with `verify` its digests are compared, too, and what is damaged is fetched again. Raises DataError when there
    is no data set or its bytes are wrong, SettingsError for a URL that means nothing, InfrastructureError when store
    or disk fail.
    """
    if not is_url(url):
        return Path(url)
    kind, place = split_url(url)
    if kind == "file":
        return Path(place).expanduser()
    return fetched(open_store(f"{kind}://{place}", settings.s3), settings, verify=verify)


def split_url(url: str) -> tuple[str, str]:
    """`file` or `s3`, and the place behind it. Raises SettingsError for all else."""
    kind, _, place = url.partition("://")
    if "@" in place.partition("/")[0]:
        raise SettingsError("a data URL must not hold credentials; they come from the environment or AWS files")
    if kind not in ("file", "s3") or not place.strip("/"):
        raise SettingsError(f"{url} is no place for data; write s3://bucket/folder or file:///folder")
    return kind, place.rstrip("/")


def cache_root(settings: CommonSettings) -> Path:
    """The folder of the setting `cache`. Raises SettingsError where `~` means nothing."""
    try:
        return Path(settings.cache).expanduser().absolute()
    except RuntimeError:  # a user without a name or HOME, as in many pods
        raise SettingsError(f"cache is {settings.cache}, but this user has no home folder: choose another") from None


def fetched(store: Store, settings: CommonSettings, *, verify: bool = False) -> Path:
    """The cached folder of the data set in `store`, made now if it is not whole. Raises as `local_path`."""
    index = read_index(store, settings.task)
    folder = cache_root(settings) / index.digest[:32]
    if _is_whole(folder, index, verify):
        return folder
    advice = "the setting `cache` chooses another folder"
    with one_at_a_time(folder, waiting=partial(_say_waiting, store.url), advice=advice), disk_errors(folder, advice):
        if _is_whole(folder, index, verify):
            return folder
        unfinished = folder.with_name(f".{folder.name}.partial")
        if folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            folder.rename(unfinished)
        unfinished.mkdir(exist_ok=True)
        _check_space(unfinished, index, advice)
        print(f"fetching {store.url} ({size(index.size_bytes)}) into {folder}, once", file=sys.stderr)
        with counting("fetching", mode=settings.telemetry.progress, in_bytes=True) as count:
            _complete(unfinished, index, store, settings.s3.parallel, count)
        unfinished.rename(folder)
        _sync(folder.parent)
        for text in store.notices:
            print(f"note: {text}", file=sys.stderr)
        return folder


def read_index(store: Store, task: str = "signs") -> DataIndex:
    """What the data set in `store` consists of. Raises DataError if there is none for `task`, or a damaged one."""
    try:
        return DataIndex.from_bytes(store.get(INDEX))
    except StoreMissing:
        line = f"trainer prepare --task {task} SOURCE --to {store.url}"
        raise DataError(f"there is no data set at {store.url}; to put one there: {line}") from None
    except (StoreDamaged, SealError) as error:
        raise DataError(f"{store.url}/{INDEX} is damaged ({error}); push the data again with --overwrite") from error


def _say_waiting(url: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the other ranks of a node would say the same
        print(f"waiting for another process of this machine, which fetches {url}", file=sys.stderr)


def _is_whole(folder: Path, index: DataIndex, verify: bool) -> bool:
    """Whether every file is there in its size; with `verify`, with its bytes."""
    for name, size_bytes in index.sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size_bytes:
            return False
    return not verify or all(_holds(folder, piece) for piece in index.pieces)


def _holds(folder: Path, piece: Piece) -> bool:
    with (folder / piece.file).open("rb") as file:
        file.seek(piece.offset)
        return piece.is_of(file.read(piece.size_bytes))


def _check_space(folder: Path, index: DataIndex, advice: str) -> None:
    """Refuse now rather than after hours. Raises InfrastructureError."""
    there = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    missing, free = index.size_bytes - there, shutil.disk_usage(folder).free
    if missing > free:
        raise InfrastructureError(
            f"{folder.parent} has {size(free)} free, the data need {size(missing)}; free space there, or {advice}"
        )


def _complete(folder: Path, index: DataIndex, store: Store, parallel: int, count: Count) -> None:
    """Bring every piece that the folder does not hold yet."""
    for name, size_bytes in index.sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("ab") as file:
            if file.tell() > size_bytes:
                file.truncate(size_bytes)
    for_each(index.pieces, partial(_bring, folder, store, index), parallel, count)
    for name in index.sizes:
        _sync(folder / name)


def _bring(folder: Path, store: Store, index: DataIndex, piece: Piece) -> int:
    """One piece, from the store unless it is there from an attempt before; its size in bytes. Raises DataError."""
    if _holds(folder, piece):
        return piece.size_bytes
    for _ in range(TRIES):
        try:
            data = store.get(piece.key)
        except StoreMissing:
            raise _missing(store, index, piece) from None
        except StoreDamaged:
            continue
        if piece.is_of(data):
            with (folder / piece.file).open("r+b") as file:
                file.seek(piece.offset)
                file.write(data)
            return piece.size_bytes
    what = f"{store.url}/{piece.key} ({piece.file}) is damaged: its digest was wrong {TRIES} times"
    raise DataError(f"{what}; push the data again with --overwrite")


def _missing(store: Store, index: DataIndex, piece: Piece) -> TrainerError:
    """Why a piece is not there: another data set took the place of this one, or it was lost."""
    if read_index(store).digest != index.digest:
        return InfrastructureError(f"{store.url} was replaced while it was fetched; start again")
    return DataError(f"{store.url}/{piece.key} ({piece.file}) is missing; push the data again with --overwrite")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
