"""The landmark layout as data: which features a keypoint has, which keypoints form a group, what a mirror does to them.

A frame is `[K, F]`, its groups are consecutive rows, and flattening is row-major (column = F * row + feature). Every
other file of the task asks a `Schema` and knows no body part by itself, so bodies, hands and gloves are one code.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config.signs import SchemaSettings
from trainer.errors import SettingsError
from trainer.tasks.signs import karsl_layout as karsl

Anchor = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Rows whose mean is the origin, then two row sets; the 2-D distance of their means is the divisor."""
Edges = tuple[tuple[int, int], ...]

VISIBILITY = "v"
COORDINATES = ("x", "y", "z")


@dataclass(frozen=True)
class Group:
    """Keypoints that are found or missing as a whole; all row numbers count from the group's first row."""

    name: str
    points: int
    mirror: tuple[int, ...] | None = None
    """Row permutation under a horizontal flip; None keeps the rows."""
    swap_with: str | None = None
    """Group that changes places with this one under a flip."""
    anchor: Anchor | None = None
    """For `anchored` normalisation; None leaves the group as it is."""
    legacy: Anchor | None = None
    """For `legacy` normalisation, with the published project's accidental anchor points."""
    edges: Edges = ()
    """Pairs of rows to join when a frame is drawn."""


@dataclass(frozen=True)
class Schema:
    """Features and groups of one landmark layout."""

    name: str
    features: tuple[str, ...]
    groups: tuple[Group, ...]
    cyclic: tuple[str, ...] = ()
    """Features measured in turns (0..1 around the circle, negative where there is no reading), such as a roll."""

    def __post_init__(self) -> None:
        """Refuse what would fail deep inside. Raises SettingsError."""
        _check(self)

    @property
    def num_keypoints(self) -> int:
        """K: rows of a frame."""
        return sum(group.points for group in self.groups)

    @property
    def num_features(self) -> int:
        """F: values of a keypoint."""
        return len(self.features)

    @property
    def num_groups(self) -> int:
        """G."""
        return len(self.groups)

    @property
    def width(self) -> int:
        """K * F: columns of a flattened frame."""
        return self.num_keypoints * self.num_features

    @cached_property
    def rows(self) -> tuple[slice, ...]:
        """The rows of each group."""
        ends = np.cumsum([0, *(group.points for group in self.groups)]).tolist()
        return tuple(slice(first, last) for first, last in pairwise(ends))

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """The columns of each group in a flattened frame."""
        return tuple(slice(rows.start * self.num_features, rows.stop * self.num_features) for rows in self.rows)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names in the order of the rows."""
        return tuple(group.name for group in self.groups)

    @property
    def visibility(self) -> int | None:
        """Index of the feature `v`, None for a layout without it."""
        return self.features.index(VISIBILITY) if VISIBILITY in self.features else None

    @property
    def coordinates(self) -> tuple[int, ...]:
        """Indices of x, y, z, as far as there are any: the features that normalisation by anchors moves."""
        return tuple(self.features.index(name) for name in COORDINATES if name in self.features)

    @property
    def values(self) -> tuple[int, ...]:
        """Indices of all features but the visibility."""
        return tuple(i for i, name in enumerate(self.features) if name != VISIBILITY)

    @property
    def can_flip(self) -> bool:
        """A mirror image means something: there is an x, and some group says what becomes of its rows."""
        return "x" in self.features and any(group.mirror or group.swap_with for group in self.groups)

    @property
    def hands(self) -> tuple[int, ...]:
        """Groups that change places under a flip, else all groups; the ones whose loss is reported."""
        swapped = tuple(i for i, group in enumerate(self.groups) if group.swap_with)
        return swapped or tuple(range(self.num_groups))

    @cached_property
    def mirror_rows(self) -> NDArray[np.int64]:
        """Row permutation `[K]` of a whole frame under a flip: `mirrored = frame[mirror_rows]`."""
        parts = []
        for group in self.groups:
            source = self.group_names.index(group.swap_with or group.name)
            local = group.mirror or range(group.points)
            parts.append(self.rows[source].start + np.fromiter(local, np.int64))
        return np.concatenate(parts)

    @cached_property
    def mirror_groups(self) -> NDArray[np.int64]:
        """Group permutation `[G]` under a flip."""
        return np.array([self.group_names.index(group.swap_with or group.name) for group in self.groups], np.int64)

    @cached_property
    def edges(self) -> Edges:
        """Pairs of frame rows to join when a frame is drawn."""
        pairs = zip(self.rows, self.groups, strict=True)
        return tuple((a + rows.start, b + rows.start) for rows, group in pairs for a, b in group.edges)

    def with_derived(self, derive: Iterable[str]) -> "Schema":
        """The layout of what the model sees: `velocity` adds d<feature> for every coordinate, `length` adds one."""
        added: list[str] = []
        for what in derive:
            added += [f"d{self.features[i]}" for i in self.coordinates] if what == "velocity" else ["length"]
        return replace(self, features=(*self.features, *added))

    def unrolled(self) -> "Schema":
        """The layout after `normalise.unroll`: each cyclic feature is its sine, its cosine, and whether it is known."""
        features = [
            part
            for name in self.features
            for part in ((f"{name}_sin", f"{name}_cos", f"{name}_known") if name in self.cyclic else (name,))
        ]
        return replace(self, features=tuple(features), cyclic=())

    def to_json(self) -> dict[str, Any]:
        """Plain lists and texts, for headers and checkpoints."""
        return {
            "name": self.name,
            "features": list(self.features),
            "cyclic": list(self.cyclic),
            "groups": [{key: _plain(value) for key, value in vars(group).items()} for group in self.groups],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Schema":
        """The inverse of `to_json`. Raises KeyError or TypeError on something else."""
        groups = tuple(Group(**{key: _frozen(value) for key, value in group.items()}) for group in data["groups"])
        return cls(data["name"], tuple(data["features"]), groups, tuple(data["cyclic"]))

    @classmethod
    def preset(cls, name: str) -> "Schema":
        """One of the known layouts: karsl, mediapipe_hands, powerglove. Raises SettingsError."""
        if name not in PRESETS:
            raise SettingsError(f"data.dataset_schema.preset is {name!r}; there are: {', '.join(PRESETS)}, custom")
        return PRESETS[name]

    @classmethod
    def from_settings(cls, settings: SchemaSettings) -> "Schema":
        """The preset, or for `custom` what the settings say. Raises SettingsError."""
        if settings.preset != "custom":
            return cls.preset(settings.preset)
        groups = []
        for group in settings.groups:
            anchor = _anchor(group.name, group.anchor)
            mirror = tuple(group.mirror) if group.mirror is not None else None
            groups.append(Group(group.name, group.points, mirror, group.swap_with, anchor, anchor))
        return cls("custom", tuple(settings.features), tuple(groups), tuple(settings.cyclic))


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON would make them."""
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that a schema can be compared and hashed."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _anchor(name: str, rows: list[list[int]] | None) -> Anchor | None:
    """The three row lists of a custom group."""
    if rows is None:
        return None
    if len(rows) != 3 or not all(rows):
        raise SettingsError(f"data.dataset_schema.groups {name!r}: anchor needs three non-empty lists of rows")
    return tuple(rows[0]), tuple(rows[1]), tuple(rows[2])


def _check(schema: Schema) -> None:
    """Every rule of a layout; the first one broken is a SettingsError that names the group."""
    where = f"dataset_schema {schema.name!r}"
    if not schema.groups or not schema.features:
        raise SettingsError(f"{where} needs at least one feature and one group")
    if len(set(schema.features)) < schema.num_features or len(set(schema.group_names)) < schema.num_groups:
        raise SettingsError(f"{where}: names of features and of groups must be unique")
    if not set(schema.cyclic) <= set(schema.features) - {*COORDINATES, VISIBILITY}:
        raise SettingsError(f"{where}: cyclic must name features other than x, y, z, v, got {list(schema.cyclic)}")
    sizes = {group.name: group.points for group in schema.groups}
    partners = {group.name: group.swap_with for group in schema.groups}
    for group in schema.groups:
        _check_group(f"{where}, group {group.name!r}", group, sizes, partners)
        if (group.anchor or group.legacy) and not {"x", "y"} <= set(schema.features):
            raise SettingsError(f"{where}, group {group.name!r}: an anchor needs features named x and y")


def _check_group(where: str, group: Group, sizes: dict[str, int], partners: dict[str, str | None]) -> None:
    """Mirror is an involution of the rows, swapping is mutual and of equal size, anchors lie inside."""
    if not group.name.isidentifier():
        raise SettingsError(f"{where}: the name must be made of letters, digits and underscores")
    if group.mirror is not None:
        twice = [group.mirror[i] for i in group.mirror if 0 <= i < len(group.mirror)]
        if len(group.mirror) != group.points or twice != list(range(group.points)):
            raise SettingsError(f"{where}: mirror must permute its {group.points} rows and undo itself")
    other = group.swap_with
    if other is not None and (partners.get(other) != group.name or sizes.get(other) != group.points):
        raise SettingsError(f"{where}: swap_with {other!r} must be a group of equal size that swaps back")
    rows = [row for anchor in (group.anchor, group.legacy) if anchor for part in anchor for row in part]
    if any(not 0 <= row < group.points for row in rows):
        raise SettingsError(f"{where}: anchor names a row outside its {group.points} rows")


_XYZV = (*COORDINATES, VISIBILITY)
_HAND_ANCHOR: Anchor = ((0,), (2,), (17,))


def _hand(name: str, other: str) -> Group:
    """A MediaPipe hand, centred on its wrist and divided by thumb MCP to little-finger MCP."""
    return Group(name, 21, None, other, _HAND_ANCHOR, _HAND_ANCHOR, karsl.HAND_EDGES)


_POSE = Group("pose", 6, (1, 0, 3, 2, 5, 4), None, ((0, 1), (0,), (1,)), ((0,), (0,), (1,)), karsl.POSE_EDGES)
_RIMS = (tuple(range(128, 132)), tuple(range(132, 136)))
_FACE = Group(
    "face",
    len(karsl.FACE_MESH),
    karsl.face_mirror(),
    None,
    (_RIMS[0] + _RIMS[1], *_RIMS),
    ((1,), (132,), (128,)),
    karsl.face_edges(),
)
_GLOVE = ("x", "y", "z", "roll", "thumb", "fore", "index", "ring")

PRESETS: dict[str, Schema] = {
    "karsl": Schema("karsl", _XYZV, (_POSE, _FACE, _hand("rh", "lh"), _hand("lh", "rh"))),
    "mediapipe_hands": Schema("mediapipe_hands", _XYZV, (_hand("rh", "lh"), _hand("lh", "rh"))),
    "powerglove": Schema("powerglove", _GLOVE, (Group("glove", 1),), cyclic=("roll",)),
}
