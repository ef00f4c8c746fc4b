"""Which recordings train, validate and test: by keyed hash of names, so new recordings never move old ones.

With `by: signer` no signer is in two splits; with `by: session` no session is. Signers named for `test` are in no other
split, whatever decides about the others, so that what chooses the best checkpoint (`val`) has never seen them. Given
`test` recordings never train; where signers are named, those of a training signer are left out altogether.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config.signs import SplitSettings
from trainer.data.keys import derive
from trainer.errors import DataError
from trainer.tasks.signs.packed import Recordings

Indices = NDArray[np.int64]
Splits = dict[str, Indices]

_TRAIN, _VAL, _TEST, _OUT = range(4)


def split(recordings: Recordings, settings: SplitSettings) -> Splits:
    """Sorted indices of `train`, `val` and `test` (which may be empty).

    Raises DataError for an unknown signer, and if nothing is left to train on.
    """
    by_signer = settings.by == "signer" or bool(settings.val_signers)
    test = recordings.signer_ids(settings.test_signers)
    if by_signer:
        part = _by_signer(recordings, settings)[recordings.signer]
    elif settings.by == "session":
        part = _by_share(recordings.sessions, settings)[recordings.session]
    else:
        part = _by_clip(recordings, settings)
    if test and not by_signer:
        part = np.where(part == _TEST, _TRAIN, part)
        part[np.isin(recordings.signer, test)] = _TEST
    if settings.use_given:
        part = _respect_given(part, recordings.given_split, by_signer or bool(test))
    parts = {"train": _TRAIN, "val": _VAL, "test": _TEST}
    result = {name: np.flatnonzero(part == which).astype(np.int64) for name, which in parts.items()}
    if not len(result["train"]):
        raise DataError(f"{recordings.path}: no recording is left to train on (data.split)")
    return result


def folds(recordings: Recordings, settings: SplitSettings) -> list[tuple[str, SplitSettings]]:
    """Leave one signer out: for each signer the settings of the fold that tests on it.

    Validation stays with the other signers: the held-out one must not choose the checkpoint it is measured with.

    Raises DataError if there is one signer only.
    """
    if len(recordings.signers) < 2:
        raise DataError(f"{recordings.path} has one signer only, so none can be left out")
    change: dict[str, Any] = {"by": "clip" if settings.by == "signer" else settings.by, "val_signers": []}
    return [(name, settings.model_copy(update={**change, "test_signers": [name]})) for name in recordings.signers]


def _by_signer(recordings: Recordings, settings: SplitSettings) -> NDArray[np.int64]:
    """The split of each signer: as named, or by share of the signers."""
    val, test = (recordings.signer_ids(names) for names in (settings.val_signers, settings.test_signers))
    both = set(val) & set(test)
    if both:
        names = ", ".join(recordings.signers[i] for i in sorted(both))
        raise DataError(f"signer {names} is in both data.split.val_signers and data.split.test_signers")
    part = np.full(len(recordings.signers), _TRAIN, np.int64)
    if not val:
        part = _by_share(recordings.signers, settings)
        part[part == _TEST] = _TRAIN if test else _TEST
    part[val], part[test] = _VAL, _TEST
    return part


def _by_share(names: Sequence[str], settings: SplitSettings) -> NDArray[np.int64]:
    """The split of each signer or session: the first of the hashed order validate, the next test.

    A share above 0 takes at least one; what trains is never empty unless the shares say so.
    """
    order = np.argsort([derive(settings.seed, "split", name) for name in names])
    counts = [max(1, round(share * len(names))) if share else 0 for share in (settings.val_share, settings.test_share)]
    part = np.full(len(names), _TRAIN, np.int64)
    part[order[: counts[0]]] = _VAL
    part[order[counts[0] : sum(counts)]] = _TEST
    return part


def _by_clip(recordings: Recordings, settings: SplitSettings) -> NDArray[np.int64]:
    """The split of each recording, from the hash of its own name alone."""
    draws = np.array([derive(settings.seed, "split", name) * 2.0**-64 for name in recordings.names])
    ends = (settings.val_share, settings.val_share + settings.test_share)
    return np.where(draws < ends[0], _VAL, np.where(draws < ends[1], _TEST, _TRAIN)).astype(np.int64)


def _respect_given(part: NDArray[np.int64], given: Sequence[str], by_signer: bool) -> NDArray[np.int64]:
    """Lay the source's own split over ours.

    Given test recordings test, and then no others do; given validation recordings validate, and then no others do.
    Where signers decide, a given recording may only leave the training set.
    """
    names = np.array(given)
    if by_signer:
        return np.where((part == _TRAIN) & np.isin(names, ("val", "test")), _OUT, part)
    for name, which in (("val", _VAL), ("test", _TEST)):
        if (names == name).any():
            part = np.where(part == which, _TRAIN, part)
    return np.where(names == "test", _TEST, np.where(names == "val", _VAL, part))
