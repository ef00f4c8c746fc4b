"""From the store back to a state: the newest checkpoint of which every byte is right.

    latest.json (hint) -> folders behind it -> newest manifest -> size and SHA-256 of every file -> tensors
                                                   `- anything wrong: say so, step back to the one before

Three requests find the newest checkpoint, however many there are; a full listing comes only when that one is bad. A
medium that cannot be read is not "no checkpoint": `InfrastructureError` goes through.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoint.attempts import get_json
from trainer.checkpoint.crash import point
from trainer.checkpoint.manifest import MANIFEST_FILE, FileRecord, FolderName, Manifest, ManifestError
from trainer.checkpoint.run import CHECKPOINTS, Emit, Run
from trainer.checkpoint.state import STATE_FILE, TENSORS, file_of
from trainer.checkpoint.store import Store, StoreDamaged, StoreMissing
from trainer.checkpoint.tensors import CHUNK_BYTES, TensorsError, load_tensors
from trainer.errors import InfrastructureError, RunError
from trainer.telemetry.events import CheckpointRejected

LATEST_HINT = "latest.json"
BEST_HINT = "best.json"


class Rejected(Exception):
    """A checkpoint is not what its manifest says; the text says why, `kind` is one of `events.REJECTIONS`."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Restored:
    """A verified checkpoint in memory; the tensors are the caller's own."""

    key: str
    """Name of its folder, `<step>-<attempt>`."""
    step: int
    epoch: int
    meta: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    manifest: Manifest
    files: dict[str, bytes] = field(default_factory=dict)
    """What lies beside the weights (tokenizers); always loaded."""


def restore(run: Run, emit: Emit) -> Restored | None:
    """The newest good checkpoint of a run; None when the run has none yet.

    Every bad one on the way is reported. Raises RunError when all are bad (a start from scratch must be asked for),
    or when there is none and `run.resume` is `required`.
    """
    restored = _newest_good(run.store, run.name, _any, emit, run.rejected, None)
    if restored is None:
        if run.resume == "required":
            raise RunError(f"run.resume is required, but run {run.name} in {run.store.url} has no checkpoint yet")
        return None
    run.restored_from = restored.key
    point("in_restore")
    return restored


def load_checkpoint(
    store: Store, run: str, which: str = "latest", emit: Emit | None = None, parts: Collection[str] | None = None
) -> Restored | None:
    """A checkpoint by `latest`, `best`, step or folder name; None when there is no such one.

    `parts` (for example `["model"]`) loads and verifies only those tensors. Raises RunError when it is damaged;
    `latest` steps back as a resume would.
    """
    tell = emit or _silent
    if which == "latest":
        return _newest_good(store, run, _any, tell, set(), parts)
    if which == "best":
        return _newest_good(store, run, _best, tell, set(), parts, hint=BEST_HINT)
    wanted = int(which) if which.isdecimal() else None
    names = [name for name in folder_names(store, run) if str(name) == which or name.step == wanted]
    for name in reversed(names):
        manifest = read_manifest_or_raise(store, run, name)
        if manifest is not None:
            return _load_or_raise(store, run, name, manifest, parts)
    return None


def folder_names(store: Store, run: str, after: str = "") -> list[FolderName]:
    """The checkpoint folders of a run in order, with and without manifest; one request."""
    names = (FolderName.parse(name) for name in store.folders(f"{run}/{CHECKPOINTS}", after))
    return sorted(name for name in names if name is not None)


def read_hint(store: Store, run: str, hint: str) -> FolderName | None:
    """Where a hint points; None for a missing, damaged or foreign one."""
    record = get_json(store, f"{run}/{hint}")
    checkpoint = record.get("checkpoint") if record and record.get("run") == run else None
    return FolderName.parse(checkpoint) if isinstance(checkpoint, str) else None


def read_manifest(store: Store, run: str, name: FolderName) -> Manifest | None:
    """The manifest of a folder; None when the folder is no checkpoint. Raises Rejected."""
    try:
        manifest = Manifest.from_bytes(store.get(f"{run}/{CHECKPOINTS}{name}/{MANIFEST_FILE}"))
    except StoreMissing:
        return None
    except (ManifestError, StoreDamaged) as error:
        raise Rejected(str(error), "manifest") from error
    if (manifest.step, manifest.attempt) != (name.step, name.attempt):
        raise Rejected(f"manifest is that of step {manifest.step}, attempt {manifest.attempt}", "manifest")
    return manifest


def read_manifest_or_raise(store: Store, run: str, name: FolderName) -> Manifest | None:
    """As `read_manifest`, for a checkpoint that was asked for by name. Raises RunError."""
    try:
        return read_manifest(store, run, name)
    except Rejected as error:
        raise RunError(f"checkpoint {name} of run {run} in {store.url} is damaged: {error}") from error


def verify_files(
    store: Store, run: str, name: FolderName, manifest: Manifest, folder: Path, only: Collection[str] | None = None
) -> dict[str, Path]:
    """Local paths of the files of a checkpoint after size and SHA-256 of each were found right. Raises Rejected."""
    paths: dict[str, Path] = {}
    for file, record in manifest.files.items():
        if only is not None and file not in only:
            continue
        key = f"{run}/{CHECKPOINTS}{name}/{file}"
        try:
            paths[file] = _fetch_verified(store, key, folder / file, file, record)
        except Rejected:
            # Once more: a byte that flipped on the way must not condemn a good checkpoint.
            paths[file] = _fetch_verified(store, key, folder / file, file, record)
    return paths


def _fetch_verified(store: Store, key: str, target: Path, file: str, record: FileRecord) -> Path:
    try:
        path = store.fetch(key, target)
    except StoreMissing:
        raise Rejected(f"{file} is missing", "missing") from None
    except StoreDamaged as error:
        raise Rejected(f"{file} is damaged in the store: {error}", "unreadable") from error
    _verify_file(path, file, record)
    return path


def _newest_good(
    store: Store,
    run: str,
    wanted: Callable[[Manifest], bool],
    emit: Emit,
    rejected: set[str],
    parts: Collection[str] | None,
    hint: str = LATEST_HINT,
) -> Restored | None:
    """Walk from the newest to the oldest; RunError when there were candidates and none was good."""
    reasons: list[str] = []
    for name in _candidates(store, run, hint):
        try:
            manifest = read_manifest(store, run, name)
            if manifest is not None and wanted(manifest):
                return _load(store, run, name, manifest, parts)
            if manifest is None and name == read_hint(store, run, hint):
                raise Rejected(f"{hint} points to it, but it has no manifest", "manifest")
        except Rejected as error:
            rejected.add(str(name))
            reasons.append(f"{name}: {error}")
            emit(CheckpointRejected(step=name.step, checkpoint=str(name), reason=str(error), kind=error.kind))
    if reasons:
        raise RunError(
            f"no good checkpoint is left of run {run} in {store.url} ({'; '.join(reasons)}); "
            "bring one back from a copy, or start anew with another run.name"
        )
    return None


def _candidates(store: Store, run: str, hint: str) -> Iterator[FolderName]:
    """Folders from newest to oldest: those behind the hint, its own, and only then all others."""
    hinted = read_hint(store, run, hint)
    if hinted is not None:
        yield from reversed(folder_names(store, run, after=str(hinted)))
        yield hinted
    rest = folder_names(store, run)
    yield from reversed([name for name in rest if hinted is None or name < hinted])


def _load(store: Store, run: str, name: FolderName, manifest: Manifest, parts: Collection[str] | None) -> Restored:
    beside = {file for file in manifest.files if not file.endswith(TENSORS)} - {STATE_FILE}
    only = None if parts is None else {STATE_FILE, *beside, *(file_of(part) for part in parts)}
    with tempfile.TemporaryDirectory(prefix="trainer-restore-") as scratch:
        paths = verify_files(store, run, name, manifest, Path(scratch), only)
        try:
            meta = json.loads(paths[STATE_FILE].read_bytes())
            tensors = {path.stem: load_tensors(path) for file, path in paths.items() if file.endswith(TENSORS)}
            files = {file: paths[file].read_bytes() for file in beside}
        except (TensorsError, ValueError, KeyError) as error:
            raise Rejected(f"a file of right digest cannot be read: {error}", "unreadable") from error
        except OSError as error:
            raise _unreadable(Path(error.filename or scratch), error) from error
    return Restored(str(name), manifest.step, manifest.epoch, meta, tensors, manifest, files)


def _load_or_raise(
    store: Store, run: str, name: FolderName, manifest: Manifest, parts: Collection[str] | None
) -> Restored:
    try:
        return _load(store, run, name, manifest, parts)
    except Rejected as error:
        raise RunError(f"checkpoint {name} of run {run} in {store.url} is damaged: {error}") from error


def _verify_file(path: Path, name: str, record: FileRecord) -> None:
    """Size first, which costs nothing, then the digest."""
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        size_bytes = path.stat().st_size
        if size_bytes != record.size_bytes:
            raise Rejected(f"{name} has {size_bytes} bytes instead of {record.size_bytes}", "size")
        with path.open("rb", buffering=0) as stream:
            while num_bytes := stream.readinto(buffer):
                hasher.update(buffer[:num_bytes])
    except FileNotFoundError:
        raise Rejected(f"{name} is missing", "missing") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    if hasher.hexdigest() != record.sha256:
        raise Rejected(f"{name} does not match its SHA-256", "digest")


def _unreadable(path: Path, error: OSError) -> InfrastructureError:
    return InfrastructureError(f"cannot read {path}: {error.strerror or error}; check the disk or volume of run.store")


def _any(_: Manifest) -> bool:
    return True


def _best(manifest: Manifest) -> bool:
    return manifest.is_best


def _silent(_: object) -> None:
    """Nobody asked to hear of it."""
