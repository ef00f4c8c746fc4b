"""What `trainer prepare` makes: a packed folder, and where --to says so its copy in a store.

SOURCE or --synthetic ─► pack ─► TARGET, or a folder beside the cache ─┬─► --to s3://bucket/folder
SOURCE that is packed already (a folder or the URL of one) ────────────┴─► --to file:///folder: a copy
"""

import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint.store import Store
from trainer.checkpoint.stores import open_store
from trainer.cli.output import will_note
from trainer.config.hierarchy import TOYS, HierarchySettings
from trainer.config.signs import SignsSettings
from trainer.config.translation import TranslationSettings
from trainer.errors import SettingsError
from trainer.tasks import registry
from trainer.tasks.disk import disk_errors, one_at_a_time
from trainer.tasks.push import objects_of, push
from trainer.tasks.remote import cache_root, is_url, local_path, split_url
from trainer.telemetry.counting import counting

PreparedSettings = SignsSettings | TranslationSettings | HierarchySettings
"""Of the tasks whose data can be prepared."""


@dataclass(frozen=True)
class Order:
    """What a command line asks for."""

    settings: PreparedSettings
    source: str | None
    """What is packed or pushed; None: nothing, or generated recordings."""
    target: str | None
    to: str | None
    makes: bool
    """Whether anything is packed or pushed; else `target` is only looked at."""
    dtype: str = "float32"
    overwrite: bool = False

    @property
    def place(self) -> str:
        """Where the packed data are afterwards, in the user's words."""
        return self.to or self.target or ""


def read_order(
    paths: list[str],
    settings: PreparedSettings,
    *,
    synthetic: bool,
    looks: bool,
    to: str | None,
    dtype: str,
    overwrite: bool,
) -> Order:
    """What the paths of a command line mean. Raises SettingsError for too many, too few, and wrong pairs."""
    needs_none = settings.data.layout in ("embedded", *TOYS)
    only_looks = looks and len(paths) == 1 - needs_none and not synthetic and to is None
    sources, targets = ([], paths) if synthetic or only_looks else (paths[:1], paths[1:])
    if len(sources) != (not synthetic and not only_looks) or len(targets) > 1 or not (targets or to or only_looks):
        raise SettingsError(
            "prepare takes SOURCE and TARGET (`trainer prepare karsl-502 data/signs`), TARGET alone with --synthetic, "
            "a packed folder with --show or --check; with --to URL, TARGET may be left out; "
            f"got {len(paths)} paths{' and --synthetic' if synthetic else ''}"
        )
    source, target = next(iter(sources), None), next(iter(targets), None)
    if target and is_url(target) and not only_looks:
        raise SettingsError(f"TARGET is a folder of this machine; for a store write --to {target}")
    if to and not is_url(to):
        raise SettingsError(f"--to is {to}, which is no URL; for a folder leave --to out: trainer prepare SOURCE {to}")
    if to and target and split_url(to)[0] == "file":
        raise SettingsError(f"--to {to} and TARGET {target} are both folders; keep one of them")
    return Order(settings, source, target, to, not only_looks, dtype, overwrite)


@contextmanager
def packed(order: Order, *, verify: bool) -> Iterator[tuple[Path | None, str]]:
    """The packed folder, made and pushed as ordered, and one line that says what there is; none for generated data.

    With `verify` the digests of a folder that is only looked at are compared where that can mend it (in the cache).
    Raises what `prepare_data`, `local_path` and `push` raise.
    """
    if not order.makes and not order.target:
        yield None, ""
        return
    if not order.makes:
        yield local_path(order.place, order.settings, verify=verify), f"{order.place} is packed already"
        return
    room = registry.load(order.settings.task, "prepare")
    source = local_path(order.source, order.settings) if order.source else None
    is_packed = source is not None and order.to and not order.target and room.is_packed(source, order.settings.data)
    if order.to is None or split_url(order.to)[0] == "file":
        target = local_path(order.place, order.settings)
        prepared = room.copy_packed(source, target, order.overwrite) if is_packed else _pack(order, source, target)
        yield target, prepared.summary()
        return
    store = open_store(order.to, order.settings.s3)
    will_note(store.notices)
    if is_packed:
        prepared = room.open_packed(source)
        yield prepared.path, _push(order, prepared, store)
        return
    objects_of(store)  # a wrong place is better found before packing than after it
    with nullcontext(Path(order.target)) if order.target else _scratch(order) as target:
        prepared = _pack(order, source, target)
        yield target, _push(order, prepared, store)


def _pack(order: Order, source: Path | None, target: Path) -> Any:
    """Pack with a bar on a terminal; one line on stderr for each sample that was left out."""
    room = registry.load(order.settings.task, "prepare")
    with counting("packing", mode=order.settings.telemetry.progress) as count:
        prepared = room.prepare_data(
            order.settings.data,
            target,
            source=source,
            synthetic=source is None,
            dtype=order.dtype,
            overwrite=order.overwrite,
            progress=count,
        )
    for line in prepared.left_out:
        print(f"left out: {line}", file=sys.stderr)
    return prepared


def _push(order: Order, prepared: Any, store: Store) -> str:
    settings = order.settings
    with counting("pushing", mode=settings.telemetry.progress, in_bytes=True) as count:
        parallel = settings.s3.parallel
        index = push(prepared.path, prepared.files, store, overwrite=order.overwrite, parallel=parallel, count=count)
    what: str = prepared.summary(store.url)
    return f"nothing to push, they are there already: {what}" if index is None else f"{what}; train: --data {store.url}"


@contextmanager
def _scratch(order: Order) -> Iterator[Path]:
    """A folder beside the cache for what is only pushed; what a killed push to the same place left there goes first."""
    name = hashlib.sha256(str(order.to).encode()).hexdigest()[:16]
    folder = cache_root(order.settings) / f"push-{name}"
    advice = "the setting `cache` chooses another folder"
    with one_at_a_time(folder, advice=advice):
        with disk_errors(folder, advice):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        try:
            yield folder / "data"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
