"""Augmentation: mirror images, the affine known value, missing rows, keyed draws."""

import math

import numpy as np
import pytest

from tests.signs_fakes import fake_recordings
from trainer.config.signs import AugmentSettings, SamplingSettings
from trainer.tasks.signs.augment import Augmenter, Change, affine_matrix, crop, hold, warp
from trainer.tasks.signs.karsl_layout import FACE_MESH
from trainer.tasks.signs.sampling import present_groups
from trainer.tasks.signs.schema import Schema

KARSL = Schema.preset("karsl")
EVERYTHING = {
    "flip": 0.5,
    "affine": 1.0,
    "time_warp": 0.5,
    "frame_drop": 0.2,
    "group_drop": 0.3,
    "noise": 0.1,
    "axis_scale": 0.2,
}


def augmenter(schema=KARSL, raw=False, **settings):
    return Augmenter(AugmentSettings(**settings), SamplingSettings(), schema, raw, seed=7)


def frames(num=40):
    made = fake_recordings([num], seed=5).frames * 2 - 1
    made[..., 3] = (made[..., 3] > 0).astype(np.float32)
    made[made[..., 3] == 0] = 0.0
    return made


def flipped(values, raw=False):
    made = augmenter(raw=raw, flip=1.0, affine=0.0)
    change = made.draw_change(np.arange(1), np.array([True]), 0)
    present = present_groups(values, KARSL)
    return made.change_frames(values.copy(), present, np.zeros(len(values), np.int64), change)


def test_flipping_twice_is_the_identity_bit_for_bit():
    values = frames()
    once, present = flipped(values)
    twice, present_again = flipped(once)
    assert np.array_equal(twice, values)
    assert not np.array_equal(once, values)
    assert np.array_equal(present_again, present_groups(values, KARSL))
    assert np.array_equal(present, present_groups(once, KARSL))


def test_flip_swaps_shoulders_eye_corners_and_hands_and_negates_x():
    values = frames()
    once, _ = flipped(values)
    sign = np.array([-1, 1, 1, 1], np.float32)
    assert np.array_equal(once[:, 0], values[:, 1] * sign)
    assert np.array_equal(once[:, 142:163], values[:, 163:184] * sign)
    assert np.array_equal(once[:, 6 + FACE_MESH.index(33)], values[:, 6 + FACE_MESH.index(263)] * sign)


def test_raw_coordinates_are_mirrored_inside_the_image():
    values = fake_recordings([20]).frames
    once, present = flipped(values, raw=True)
    np.testing.assert_allclose(once[:, 0, 0], 1 - values[:, 1, 0], atol=1e-7)
    for group, rows in enumerate(KARSL.rows):
        assert not once[~present[:, group], rows].any()


def test_affine_has_its_known_value():
    matrix = affine_matrix(np.array([math.radians(15)]), np.array([1.15]), ("x", "y", "z"))[0]
    moved = np.array([1.0, 0.0, 2.0]) @ matrix + np.array([0.1, -0.1, 0.0])
    np.testing.assert_allclose(moved, [1.21081, 0.19764, 2.3], atol=1e-5)


def test_shift_moves_the_pose_only_and_never_what_is_missing():
    made = augmenter(flip=0.0, affine=1.0, degrees=0.0, scale=0.0, shift=0.5)
    change = made.draw_change(np.arange(8), np.ones(8, bool), 0)
    assert change.offset[:, 0, :2].all()
    assert not change.offset[:, 1:].any()
    assert not change.offset[:, :, 2:].any()


def test_raw_coordinates_turn_about_the_middle_of_the_image():
    made = augmenter(raw=True, flip=1.0, affine=1.0, shift=0.0)
    change = made.draw_change(np.arange(4), np.ones(4, bool), 0)
    middle = np.array([0.5, 0.5, 0.0, 1.0], np.float32)
    for clip in range(4):
        np.testing.assert_allclose(middle @ change.matrix[clip] + change.offset[clip, 2], middle, atol=1e-6)


@pytest.mark.parametrize("raw", [False, True])
def test_missing_rows_stay_exactly_zero_under_everything(raw):
    values = frames(64)
    values[::3, KARSL.rows[1]] = 0.0
    made, clip = augmenter(raw=raw, **EVERYTHING), np.arange(64) // 4
    change = made.draw_change(np.arange(16), np.ones(16, bool), 3)
    out, present = made.change_frames(values, present_groups(values, KARSL), clip, change)
    clips, groups = out.reshape(16, 4, 184, 4), present.reshape(16, 4, 4)
    made.add_noise(clips, groups, np.arange(16), 3)
    assert not groups.all()
    for group, rows in enumerate(KARSL.rows):
        assert not clips[:, :, rows][~groups[:, :, group]].any()
    assert change.dropped.any()
    assert not change.dropped[:, 0].any()
    assert set(np.unique(clips[..., 3])) <= {0.0, 1.0}


def test_draws_hang_on_seed_epoch_and_sample_alone():
    made, some = augmenter(**EVERYTHING), np.array([3, 99, 12])

    def draw(indices, epoch) -> Change:
        return made.draw_change(indices, np.ones(len(indices), bool), epoch)

    alone, among = draw(some[1:2], 4), draw(some, 4)
    assert np.array_equal(alone.matrix[0], among.matrix[1])
    assert not np.array_equal(among.matrix, draw(some, 5).matrix)
    assert np.array_equal(made.draw_sampling(some, 4).jitter[2], made.draw_sampling(some[2:], 4).jitter[0])
    assert np.abs(made.draw_sampling(np.arange(200), 0).jitter).max() == pytest.approx(0.4, abs=1e-2)
    partner, share = made_mixup().draw_mixup(some, 1000, 1)
    again, same = made_mixup().draw_mixup(some[::-1], 1000, 1)
    assert np.array_equal(partner, again[::-1])
    assert np.array_equal(share, same[::-1])


def made_mixup():
    return augmenter(mixup=0.4)


def test_shares_of_flips_and_affines_are_as_set():
    change = augmenter(flip=0.25, affine=0.5).draw_change(np.arange(4000), np.ones(4000, bool), 0)
    assert change.flip.mean() == pytest.approx(0.25, abs=0.03)
    plain = np.abs(np.abs(change.matrix) - np.eye(4)).max((1, 2)) == 0
    assert plain.mean() == pytest.approx(0.5, abs=0.03)
    angle = np.degrees(np.arctan2(-change.matrix[:, 1, 0], change.matrix[:, 1, 1]))
    scale = change.matrix[:, 2, 2]
    assert np.abs(angle).max() == pytest.approx(15, abs=0.1)
    assert (scale.min(), scale.max()) == (pytest.approx(0.85, abs=2e-3), pytest.approx(1.15, abs=2e-3))


def test_words_with_handedness_and_gloves_are_not_mirrored():
    barred = augmenter(flip=1.0).draw_change(np.arange(4), np.array([True, False, True, False]), 0)
    assert barred.flip.tolist() == [True, False, True, False]
    glove = augmenter(Schema.preset("powerglove"), flip=1.0).draw_change(np.arange(4), np.ones(4, bool), 0)
    assert not glove.flip.any()
    assert (glove.matrix[:, 0, 0] > 0).all()


def test_warp_keeps_order_ends_and_the_identity():
    at = np.broadcast_to(np.linspace(0, 99, 50), (3, 50)).copy()
    lengths = np.full(3, 100)
    assert np.allclose(warp(at, lengths, np.zeros((3, 2))), at)
    warped = warp(at, lengths, np.array([[0.99, 0.99], [-0.99, 0.99], [0.99, -0.99]]))
    assert (np.diff(warped) >= 0).all()
    assert np.abs(warped - at).max() > 5
    assert np.abs(warped[:, [0, -1]] - at[:, [0, -1]]).max() < 1.5


def test_dropped_frames_hold_the_last_kept_one():
    at = np.array([[0.0, 1.0, 2.0, 3.0]])
    assert hold(at, np.array([[True, False, True, True]])).tolist() == [[0.0, 1.0, 1.0, 1.0]]


def test_crop_squeezes_the_grid_into_what_is_left():
    at = np.arange(10.0)[None]
    head, tail = np.array([[0.1]]), np.array([[0.2]])
    cut = crop(at, np.array([10]), head, tail)
    np.testing.assert_allclose(cut[0, [0, 9]], [0.85, 7.15])
    assert (np.diff(cut) > 0).all()
    np.testing.assert_allclose(crop(at, np.array([10]), 0 * head, 0 * tail), at)
