"""Looks through a packed data set: how much there is of what, and what is odd about it.

`check` reads every frame once, one recording at a time. Its findings are plain data (`to_json`) and a text for people
(`to_text`); `faults` names what makes training wrong, `remarks` what one should know.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.tasks.signs.packed import Recordings

_MAX_NAMED = 5
_FROZEN_SHARE = 0.9
"""From this share of frames equal to the one before on, a recording counts as frozen."""


@dataclass
class Findings:
    """What `check` found; counts are of recordings unless they say otherwise."""

    path: str
    layout: str
    normalisation: str
    num_recordings: int
    num_frames: int
    per_class: dict[str, int]
    per_signer: dict[str, int]
    per_session: dict[str, int]
    per_split: dict[str, int]
    length_quantiles: dict[str, float]
    """Frames: least, 5 %, median, 95 %, most, mean."""
    missing_share: dict[str, float]
    """Share of all frames in which a group was not found."""
    missing_share_by_signer: dict[str, dict[str, float]]
    never_found: dict[str, int]
    """Recordings in which a group was found in no frame."""
    frozen_frame_share: float
    frozen: list[str] = field(default_factory=list)
    non_finite: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    """Names of recordings with equal frames."""
    repeated_names: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return asdict(self)

    def to_text(self) -> str:
        """A table for a terminal."""
        return "\n".join(_text(self))


@dataclass
class _Tally:
    """What is added up while walking over the recordings."""

    missing: NDArray[np.int64]
    """Frames without each group, `[signers, groups]`."""
    never: NDArray[np.int64]
    num_frozen_frames: int = 0
    frozen: list[str] = field(default_factory=list)
    non_finite: list[str] = field(default_factory=list)
    by_content: dict[bytes, list[str]] = field(default_factory=dict)


def check(folder: str | Path, *, progress: Callable[[int, int | None], None] | None = None) -> Findings:
    """Verify a packed folder's digests and look through its recordings. Raises DataError if it is damaged."""
    return examine(Recordings.open(folder, verify=True), progress=progress)


def examine(data: Recordings, *, progress: Callable[[int, int | None], None] | None = None) -> Findings:
    """Look through recordings that are open already."""
    num_groups = data.schema.num_groups
    tally = _Tally(np.zeros((len(data.signers), num_groups), np.int64), np.zeros(num_groups, np.int64))
    for index in range(len(data)):
        _add(tally, data, index)
        if progress is not None:
            progress(index + 1, len(data))
    findings = _findings(data, tally)
    _judge(findings, data)
    return findings


def _add(tally: _Tally, data: Recordings, index: int) -> None:
    """Count one recording."""
    frames, name, schema = data.clip(index), data.names[index], data.schema
    if not np.isfinite(frames).all():
        tally.non_finite.append(name)
    if schema.visibility is not None:
        absent = np.stack([frames[:, rows, schema.visibility].max(axis=1) <= 0 for rows in schema.rows], axis=1)
        tally.missing[data.signer[index]] += absent.sum(axis=0)
        tally.never += absent.all(axis=0)
    num_same = int((frames[1:] == frames[:-1]).all(axis=(1, 2)).sum())
    tally.num_frozen_frames += num_same
    if len(frames) > 1 and num_same >= _FROZEN_SHARE * (len(frames) - 1):
        tally.frozen.append(name)
    content = hashlib.blake2b(frames.tobytes(), digest_size=16).digest()
    tally.by_content.setdefault(content, []).append(name)


def _findings(data: Recordings, tally: _Tally) -> Findings:
    groups = data.schema.group_names
    frames_of = np.bincount(data.signer, weights=data.lengths, minlength=len(data.signers))
    shares = tally.missing / np.maximum(frames_of, 1)[:, None]
    total = int(data.lengths.sum())
    quantiles = np.quantile(data.lengths, [0, 0.05, 0.5, 0.95, 1])
    lengths = dict(zip(("least", "5 %", "median", "95 %", "most"), quantiles.tolist(), strict=True))
    counts = np.bincount(data.label, minlength=len(data.classes)).tolist()
    return Findings(
        path=str(data.path),
        layout=data.layout,
        normalisation=data.normalisation,
        num_recordings=len(data),
        num_frames=total,
        per_class={f"{info.word} {info.name}": n for info, n in zip(data.classes, counts, strict=True)},
        per_signer=_counts(data.signer, data.signers),
        per_session=_counts(data.session, data.sessions),
        per_split=dict(Counter(data.given_split)),
        length_quantiles={**lengths, "mean": float(data.lengths.mean())},
        missing_share=_named(groups, tally.missing.sum(axis=0) / total),
        missing_share_by_signer={name: _named(groups, shares[i]) for i, name in enumerate(data.signers)},
        never_found={name: int(n) for name, n in zip(groups, tally.never, strict=True)},
        frozen_frame_share=tally.num_frozen_frames / total,
        frozen=tally.frozen,
        non_finite=tally.non_finite,
        duplicates=[names for names in tally.by_content.values() if len(names) > 1],
        repeated_names=[name for name, n in Counter(data.names).items() if n > 1],
    )


def _judge(found: Findings, data: Recordings) -> None:
    """Say in words what is wrong or worth knowing."""
    empty = [name for name, n in found.per_class.items() if n == 0]
    if found.non_finite:
        found.faults.append(
            f"{len(found.non_finite)} recordings with NaN or infinite values: {_some(found.non_finite)}"
        )
    if found.repeated_names:
        found.faults.append(f"{len(found.repeated_names)} names are used twice: {_some(found.repeated_names)}")
    if found.duplicates:
        pairs = [" = ".join(names) for names in found.duplicates]
        found.remarks.append(f"{len(pairs)} sets of recordings with equal frames: {_some(pairs)}")
    if empty:
        found.remarks.append(f"{len(empty)} words without a recording: {_some(empty)}")
    if found.frozen:
        found.remarks.append(f"{len(found.frozen)} recordings that hardly move: {_some(found.frozen)}")
    lengths = found.length_quantiles
    if lengths["most"] > 10 * lengths["median"]:
        longest = data.names[int(data.lengths.argmax())]
        found.remarks.append(f"the longest recording has {lengths['most']:.0f} frames: {longest}")


def _text(found: Findings) -> list[str]:
    lengths = ", ".join(f"{name} {value:.4g}" for name, value in found.length_quantiles.items())
    splits = ", ".join(f"{name or 'none given'} {n:,}" for name, n in sorted(found.per_split.items()))
    lines = [
        f"{found.path} ({found.layout}, {found.normalisation})",
        f"  recordings  {found.num_recordings:,} of {len(found.per_class):,} words, {found.num_frames:,} frames",
        f"  frames      {lengths}; {found.frozen_frame_share:.1%} equal to the one before",
        f"  per word    {_spread(found.per_class)}",
        f"  sessions    {len(found.per_session)}: {_spread(found.per_session)}",
        f"  splits      {splits}",
        "",
        f"  {'signer':<12}{'recordings':>12}" + "".join(f"{'no ' + name:>10}" for name in found.missing_share),
    ]
    for signer, count in found.per_signer.items():
        shares = found.missing_share_by_signer[signer].values()
        lines.append(f"  {signer:<12}{count:>12,}" + "".join(f"{share:>10.1%}" for share in shares))
    lines.append("")
    lines += [f"  fault: {line}" for line in found.faults] + [f"  note: {line}" for line in found.remarks]
    return lines if found.faults or found.remarks else [*lines, "  nothing odd found"]


def _counts(column: NDArray[np.int64], names: list[str]) -> dict[str, int]:
    counts = np.bincount(column, minlength=len(names)).tolist()
    return {name: n for name, n in zip(names, counts, strict=True) if n}


def _named(names: tuple[str, ...], values: NDArray[Any]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _spread(counts: dict[str, int]) -> str:
    least, most = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    if counts[least] == counts[most]:
        return f"{counts[least]:,} each"
    return f"{counts[least]:,} ({least}) to {counts[most]:,} ({most})"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
