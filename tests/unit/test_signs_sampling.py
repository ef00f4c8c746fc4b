"""Frame sampling: the known values of both grids, presence-aware blending, padding, normalisation."""

import numpy as np
import pytest

from tests.signs_fakes import fake_recordings
from trainer.config.signs import SamplingSettings
from trainer.tasks.signs import sampling
from trainer.tasks.signs.normalise import normalise_frames, recording_centres, unroll
from trainer.tasks.signs.schema import Schema

KARSL = Schema.preset("karsl")


def grid(length, draws=None, **settings):
    return sampling.positions(np.array([length]), SamplingSettings(**settings), draws).at[0]


def test_centred_grid_has_its_known_values():
    assert grid(50).tolist() == list(range(50))
    np.testing.assert_allclose(grid(100), np.arange(50) * 2 + 0.5, atol=1e-12)
    np.testing.assert_allclose(grid(20)[[0, 1, 2, -2, -1]], [0, 0.1, 0.5, 18.9, 19], atol=1e-12)
    assert grid(1).tolist() == [0.0] * 50


def test_legacy_grid_has_its_known_values():
    twenty = grid(20, grid="legacy")
    np.testing.assert_allclose(twenty[[0, 1, 2, -1]], [0.2, 0.6, 1.0, 18.999999], atol=1e-9)
    np.testing.assert_allclose(grid(50, grid="legacy"), [*np.arange(49) + 0.5, 48.999999], atol=1e-9)


@pytest.mark.parametrize("kind", ["centred", "legacy"])
@pytest.mark.parametrize("length", [1, 2, 49, 50, 51, 4494])
def test_any_length_stays_inside_the_recording_and_in_order(length, kind):
    for jitter in (None, -0.4, 0.4):
        draws = None if jitter is None else sampling.Draws(np.full((1, 50), jitter), np.zeros(1, bool))
        at = grid(length, draws, grid=kind)
        assert at.shape == (50,)
        assert at.min() >= 0
        assert at.max() <= length - 1
        assert (np.diff(at) >= 0).all()


def test_jitter_moves_a_frame_by_its_share_of_a_bin():
    draws = sampling.Draws(np.full((1, 50), 0.4), np.zeros(1, bool))
    np.testing.assert_allclose(grid(100, draws)[:-1] - grid(100)[:-1], 0.8, atol=1e-9)
    np.testing.assert_allclose(grid(100, draws, grid="legacy")[:-1] - grid(100, grid="legacy")[:-1], 0.8, atol=1e-9)


def test_pad_mode_keeps_the_speed_and_says_what_is_padding():
    where = sampling.positions(np.array([3, 80]), SamplingSettings(mode="pad", frames=5))
    assert where.at.tolist() == [[0, 1, 2, 2, 2], [0, 1, 2, 3, 4]]
    assert where.valid.tolist() == [[True, True, True, False, False], [True] * 5]


def test_padded_training_clips_look_like_the_apps_buffer():
    draws = sampling.Draws(np.zeros((2, 5)), np.array([True, True]))
    where = sampling.positions(np.array([3, 8]), SamplingSettings(frames=5), draws)
    assert where.at.tolist() == [[0, 1, 2, 2, 2], [3, 4, 5, 6, 7]]
    assert where.valid.all()


def sample(recordings, rows, at):
    gather = sampling.plan_gather(recordings.starts[rows], recordings.lengths[rows], np.asarray(at, np.float64))
    frames = sampling.read_frames(recordings.frames, gather.frames)
    present = sampling.present_groups(frames, recordings.schema)
    clips = np.full((len(gather.low), recordings.schema.width), np.nan, np.float32)
    groups = sampling.blend(frames, present, gather, recordings.schema, clips)
    return clips.reshape(-1, *frames.shape[1:]), groups


def test_blending_is_linear_between_neighbours_and_exact_on_frames():
    recordings = fake_recordings([4, 6], "powerglove")
    at = [[0.25, 2.0, 3.0], [0.0, 4.5, 5.0]]
    clips, present = sample(recordings, np.array([0, 1]), at)
    first, second = recordings.frames[:4], recordings.frames[4:]
    expected = [0.75 * first[0] + 0.25 * first[1], first[2], first[3]]
    expected += [second[0], 0.5 * second[4] + 0.5 * second[5], second[5]]
    np.testing.assert_allclose(clips, np.stack(expected), atol=1e-6)
    assert np.array_equal(clips[1], first[2])
    assert present.all()


def test_only_needed_frames_are_read_and_each_once():
    gather = sampling.plan_gather(np.array([100, 0]), np.array([4494, 3]), np.array([[0.5, 7.0, 4493.0], [0, 0, 2]]))
    assert gather.frames.tolist() == [100, 101, 107, 4593, 0, 2]
    assert gather.clip.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_group_is_blended_only_where_both_frames_have_it():
    frames = np.ones((4, 184, 4), np.float32)
    frames[1:] = np.array([2.0, 4.0, 8.0])[:, None, None]
    rows = KARSL.rows[2]
    frames[0, rows] = frames[3, rows] = 0.0
    recordings = fake_recordings([4], frames=frames)
    clips, present = sample(recordings, np.array([0]), [[0.0, 0.25, 1.5, 2.75, 3.0]])
    assert clips[:, rows].max((1, 2)).tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    assert clips[:, rows].min((1, 2)).tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    assert clips[:, 0, 0].tolist() == [1.0, 1.25, 3.0, 7.0, 8.0]
    assert present[:, 2].tolist() == [False, True, True, True, False]


def test_a_position_that_only_rounding_moved_off_a_frame_takes_that_frame():
    gather = sampling.plan_gather(np.array([0]), np.array([9]), np.array([[3.0 + 1e-12, 5.0 - 1e-12]]))
    assert gather.low.tolist() == gather.high.tolist()


def normalised(frames, profile, schema=KARSL):
    frames = frames.copy()
    normalise_frames(frames, sampling.present_groups(frames, schema), schema, profile)
    return frames


def raw_frames(num=6):
    return fake_recordings([num], seed=3).frames


def test_anchored_profile_centres_and_scales_each_group():
    out = normalised(raw_frames(), "anchored")
    pose, face, right = (out[:, rows] for rows in KARSL.rows[:3])
    np.testing.assert_allclose(pose[:, :2, :3].mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(pose[:, 0, :2] - pose[:, 1, :2], axis=1), 1, atol=1e-5)
    rims = face[:, 128:132].mean(1), face[:, 132:136].mean(1)
    np.testing.assert_allclose(rims[0][:, :3] + rims[1][:, :3], 0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(rims[0][:, :2] - rims[1][:, :2], axis=1), 1, atol=1e-4)
    found = right[..., 3].all(1)
    assert np.array_equal(right[found][:, 0, :3], np.zeros((found.sum(), 3)))
    np.testing.assert_allclose(np.linalg.norm(right[found][:, 2, :2] - right[found][:, 17, :2], axis=1), 1, atol=1e-5)


def test_legacy_profile_uses_the_published_rows():
    frames = raw_frames()
    out = normalised(frames, "legacy")
    face = frames[:, KARSL.rows[1]]
    distance = np.linalg.norm(face[:, 132, :2] - face[:, 128, :2], axis=1)  # mesh 474 and 469
    expected = (face[..., :3] - face[:, 1:2, :3]) / distance[:, None, None]
    np.testing.assert_allclose(out[:, KARSL.rows[1], :3], expected, rtol=1e-4, atol=1e-4)
    assert not out[:, 0, :3].any()
    assert np.array_equal(out[..., 3], frames[..., 3])


def test_anchored_from_legacy_is_anchored_from_raw_and_missing_hands_stay_zero():
    frames = raw_frames()
    frames[2, KARSL.rows[2]] = 0.0
    direct, again = normalised(frames, "anchored"), normalised(normalised(frames, "legacy"), "anchored")
    np.testing.assert_allclose(direct, again, rtol=1e-3, atol=1e-3)
    assert not direct[2, KARSL.rows[2]].any()
    np.testing.assert_array_equal(normalised(frames, "none"), frames)


def test_recordings_are_centred_on_their_mean_position_only():
    recordings = fake_recordings([7, 9], "powerglove")
    centres = recording_centres(recordings.frames, recordings.starts, recordings.lengths, recordings.schema)
    second = recordings.frames[7:, 0]
    np.testing.assert_allclose(centres[1, 0, :3], second[:, :3].mean(0), atol=1e-6)
    assert not centres[:, :, 3:].any()


def test_a_turn_becomes_sine_cosine_and_whether_it_is_known():
    schema = Schema.preset("powerglove")
    frames = np.zeros((3, 1, 8), np.float32)
    frames[:, 0, 3] = [0.0, 0.25, -1.0]
    frames[:, 0, 4] = 0.5
    unrolled = unroll(frames, schema)
    assert schema.unrolled().features[3:7] == ("roll_sin", "roll_cos", "roll_known", "thumb")
    np.testing.assert_allclose(unrolled[:, 0, 3:6], [[0, 1, 1], [1, 0, 1], [0, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(unrolled[:, 0, 6], 0.5)
