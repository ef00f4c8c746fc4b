"""A packed folder into a store: `trainer prepare --to s3://...`.

    list what is there  -  put the pieces that are not  -  list again: is every size right?  -  put DATASET.json
    -  delete the pieces of the data set that was replaced

Until the index is put nothing exists, or the data set before; readers see the one or the other.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from trainer.checkpoint.store import Store, StoreConflict, StoreDamaged, StoreMissing
from trainer.errors import DataError, InfrastructureError
from trainer.tasks.data_index import INDEX, DataIndex, Piece, for_each, is_ours, plan
from trainer.telemetry.counting import Count

PIECE_BYTES = 4 * 2**20
"""What a cut costs, what a thread holds in memory, and the step of the bar; less than a part, so one request each."""


def push(
    folder: Path, names: Iterable[str], store: Store, *, overwrite: bool, parallel: int, count: Count
) -> DataIndex | None:
    """Put these files of `folder` into `store`; None if exactly these data are there already.

    A place that holds another data set is refused; with `overwrite` it is replaced, and every piece is put again, so
    that this also mends a damaged one. Foreign files are never touched. Raises DataError for all that and for files
    that change meanwhile; InfrastructureError if the store fails, and the same push then goes on where it was.
    """
    pieces = plan({name: _size(folder / name) for name in names}, PIECE_BYTES)
    there = objects_of(store)
    if INDEX in there and not overwrite:
        _refuse_other(store, DataIndex(tuple(for_each(pieces, partial(_hashed, folder), parallel, count))))
        return None
    trusted = {} if overwrite else there
    index = DataIndex(tuple(for_each(pieces, partial(_put, folder, store, trusted), parallel, count)))
    _check_arrived(store, index)
    try:
        store.put(INDEX, [index.to_bytes()], only_new=INDEX not in there)
    except StoreConflict:
        _refuse_other(store, index)
    store.delete(sorted(set(there) - {piece.key for piece in index.pieces} - {INDEX}))
    return index


def objects_of(store: Store) -> dict[str, int]:
    """Size of every object of the data sets that are or were there; asked before hours of packing, too.

    Raises DataError if there is anything else, InfrastructureError if the place cannot be reached or listed.
    """
    there: dict[str, int] = {}
    for entry in store.entries(""):
        if not is_ours(entry.key):
            raise DataError(f"{store.url} holds other files ({entry.key}), which are not touched; choose another place")
        there[entry.key] = entry.size_bytes
    return there


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _refuse_other(store: Store, index: DataIndex) -> None:
    """Raises DataError if the data set in `store` is another one, or cannot be read."""
    try:
        if store.get(INDEX) == index.to_bytes():
            return
        what = "holds another data set"
    except StoreMissing:
        what = "is being changed by somebody else"
    except StoreDamaged:
        what = "holds a damaged data set"
    raise DataError(f"{store.url} {what}; choose another place, or replace it with --overwrite")


def _read(folder: Path, piece: Piece) -> bytes:
    path = folder / piece.file
    try:
        with path.open("rb") as file:
            file.seek(piece.offset)
            data = file.read(piece.size_bytes)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if len(data) != piece.size_bytes:
        raise DataError(f"{path} became shorter while it was pushed; push again when nothing writes there")
    return data


def _hashed(folder: Path, piece: Piece) -> Piece:
    return replace(piece, sha256=sha256(_read(folder, piece)).hexdigest())


def _put(folder: Path, store: Store, there: dict[str, int], piece: Piece) -> Piece:
    """Put a piece unless the store has it: a `put` is atomic, so an object of this name has these bytes."""
    data = _read(folder, piece)
    hashed = replace(piece, sha256=sha256(data).hexdigest())
    if there.get(hashed.key) != piece.size_bytes:
        store.put(hashed.key, [data])
    return hashed


def _check_arrived(store: Store, index: DataIndex) -> None:
    """One look at the listing: what a server took and lost must not get an index. Raises InfrastructureError."""
    there = {entry.key: entry.size_bytes for entry in store.entries("pieces/")}
    lost = next((piece for piece in index.pieces if there.get(piece.key) != piece.size_bytes), None)
    if lost is not None:
        raise InfrastructureError(
            f"{store.url}/{lost.key} was written and is not there in full; is something else writing there? push again"
        )
