"""Landmark layouts: the known numbers of the KArSL rows, mirrors that undo themselves, JSON, errors."""

import json

import numpy as np
import pytest

from trainer.config.signs import GroupSettings, SchemaSettings
from trainer.errors import SettingsError
from trainer.tasks.signs import karsl_layout as karsl
from trainer.tasks.signs.schema import PRESETS, Schema


def test_karsl_rows_and_columns_are_those_of_the_published_layout():
    schema = Schema.preset("karsl")
    assert (schema.num_keypoints, schema.num_features, schema.width) == (184, 4, 736)
    assert [(c.start, c.stop) for c in schema.columns] == [(0, 24), (24, 568), (568, 652), (652, 736)]
    assert [(r.start, r.stop) for r in schema.rows] == [(0, 6), (6, 142), (142, 163), (163, 184)]
    assert schema.visibility == 3


def test_face_subset_has_the_known_landmarks_at_the_known_rows():
    assert len(karsl.FACE_MESH) == 136
    assert list(karsl.FACE_MESH) == sorted(set(karsl.FACE_MESH))
    assert karsl.FACE_MESH[126:] == (454, 466, 469, 470, 471, 472, 474, 475, 476, 477)
    assert not {468, 473, 1, 4} & set(karsl.FACE_MESH)  # iris centres and nose
    midline = [mesh for row, mesh in enumerate(karsl.FACE_MESH) if karsl.face_mirror()[row] == row]
    assert midline == [0, 10, 13, 14, 17, 152]


def test_mirror_swaps_shoulders_eye_corners_and_hands():
    rows = Schema.preset("karsl").mirror_rows
    assert rows[:6].tolist() == [1, 0, 3, 2, 5, 4]
    right, left = 6 + karsl.FACE_MESH.index(33), 6 + karsl.FACE_MESH.index(263)
    assert (rows[right], rows[left]) == (left, right)
    assert rows[142:163].tolist() == list(range(163, 184))
    assert Schema.preset("karsl").mirror_groups.tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize("name", PRESETS)
def test_mirror_undoes_itself_and_json_keeps_everything(name):
    schema = Schema.preset(name)
    assert np.array_equal(schema.mirror_rows[schema.mirror_rows], np.arange(schema.num_keypoints))
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_edges_stay_inside_their_group_and_hands_have_all_connections():
    schema = Schema.preset("karsl")
    assert len(karsl.HAND_EDGES) == len(set(karsl.HAND_EDGES)) == 21
    for group, rows in zip(schema.groups, schema.rows, strict=True):
        assert all(0 <= a < group.points and 0 <= b < group.points for a, b in group.edges)
        joined = {row for edge in group.edges for row in edge}
        assert joined == set(range(group.points)), f"{group.name} {rows}"


def test_glove_has_no_visibility_and_is_never_mirrored():
    schema = Schema.preset("powerglove")
    assert (schema.width, schema.num_groups, schema.visibility, schema.can_flip) == (8, 1, None, False)


def test_derived_features_follow_the_recorded_ones():
    schema = Schema.preset("mediapipe_hands").with_derived(["velocity", "length"])
    assert schema.features == ("x", "y", "z", "v", "dx", "dy", "dz", "length")


def test_custom_layout_comes_from_the_settings():
    hands = [GroupSettings(name=a, points=3, swap_with=b) for a, b in (("left", "right"), ("right", "left"))]
    schema = Schema.from_settings(SchemaSettings(preset="custom", features=["x", "y"], groups=hands))
    assert schema.mirror_rows.tolist() == [3, 4, 5, 0, 1, 2]
    assert schema.can_flip


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mirror": [1, 2, 0]}, "mirror"),
        ({"mirror": [0, 1]}, "mirror"),
        ({"swap_with": "other"}, "swap_with"),
        ({"anchor": [[0], [1], [3]]}, "anchor"),
        ({"anchor": [[0], [1]]}, "anchor"),
        ({"anchor": [[0], [1], [2]]}, "x and y"),
        ({"name": "a b"}, "name"),
    ],
)
def test_a_broken_group_is_one_line_that_names_it(change, word):
    group = GroupSettings(**({"name": "a", "points": 3} | change))
    with pytest.raises(SettingsError, match=word) as caught:
        Schema.from_settings(SchemaSettings(preset="custom", features=["x"], groups=[group]))
    assert "\n" not in str(caught.value)
