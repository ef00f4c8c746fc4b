"""The generator: pure, in the KArSL layout, with bodies that move, and an unseen signer harder than a seen one."""

import numpy as np
import pytest

from trainer.tasks.signs.pack import pack
from trainer.tasks.signs.packed import Recordings
from trainer.tasks.signs.profile import profile_of
from trainer.tasks.signs.schema import Schema
from trainer.tasks.signs.synthetic import MAX_FRAMES, MIN_FRAMES, Corpus, record, source
from trainer.tasks.signs.synthetic_signer import signer_of
from trainer.tasks.signs.synthetic_words import word_of

KARSL = Schema.preset("karsl")
POSE, FACE, RIGHT, LEFT = KARSL.rows


@pytest.fixture(scope="module")
def clips():
    return {(w, s, r): record(0, w, s, r) for w in range(1, 9) for s in (1, 2, 3) for r in range(3)}


def test_a_recording_is_a_pure_function_of_its_arguments(clips):
    for key in [(1, 1, 0), (8, 3, 2)]:
        assert np.array_equal(record(0, *key), clips[key])
    others = [record(1, 1, 1, 0), record(0, 1, 1, 0, 0.9), clips[2, 1, 0], clips[1, 2, 0], clips[1, 1, 1]]
    assert not any(np.array_equal(other, clips[1, 1, 0]) for other in others)


def test_a_larger_corpus_contains_the_smaller_one():
    small = {item.name: item.frames for item in source(Corpus(2, 2, 2)).stream()}
    large = {item.name: item.frames for item in source(Corpus(3, 3, 3)).stream()}
    assert len(large) == 27
    assert all(np.array_equal(large[name], frames) for name, frames in small.items())


def test_frames_have_the_layout_of_karsl(clips):
    for frames in clips.values():
        assert frames.dtype == np.float32
        assert frames.shape[1:] == (184, 4)
        assert MIN_FRAMES <= len(frames) <= MAX_FRAMES
        assert np.isfinite(frames).all()
        assert profile_of(frames, KARSL) == "raw"
    assert 20 <= np.median([len(frames) for frames in clips.values()]) <= 27


def test_a_group_is_found_or_all_zero(clips):
    lost = 0
    for frames in clips.values():
        for rows in (FACE, RIGHT, LEFT):
            found = frames[:, rows, 3] > 0
            assert (found.all(axis=1) | ~found.any(axis=1)).all()
            assert (frames[:, rows][~found] == 0).all()
            lost += int((~found).any(axis=1).sum())
    assert lost > 0


def test_bodies_are_bodies(clips):
    """Shoulders keep their places, arms their lengths, the hand sits on the arm, the eyes are in the head."""
    for frames in clips.values():
        left, right = frames[:, 0, :2], frames[:, 1, :2]
        assert (left[:, 0] > right[:, 0]).all(), "an unmirrored camera sees the left shoulder on the right"
        width = np.linalg.norm(left - right, axis=1)
        assert width.std() < 0.05 * width.mean()
        for shoulder, elbow, wrist in ((0, 2, 4), (1, 3, 5)):
            for first, second in ((shoulder, elbow), (elbow, wrist)):
                length = np.linalg.norm(frames[:, first, :3] - frames[:, second, :3], axis=1)
                assert (length < 1.35 * width).all()
        for wrist, hand in ((5, RIGHT), (4, LEFT)):
            seen = frames[:, hand.start, 3] > 0
            gap = np.linalg.norm(frames[seen, wrist, :2] - frames[seen, hand.start, :2], axis=1)
            assert (gap < 0.02).all()
        rims = frames[:, FACE][:, 128:136].reshape(len(frames), 2, 4, 4).mean(axis=2)
        seen = frames[:, FACE.start, 3] > 0
        apart = np.linalg.norm(rims[seen, 0, :2] - rims[seen, 1, :2], axis=1)
        assert ((apart > 0.1 * width[seen]) & (apart < 0.25 * width[seen])).all()
        assert (rims[seen, 0, 0] < rims[seen, 1, 0]).all()


def test_bones_of_a_hand_keep_their_length(clips):
    for frames in clips.values():
        seen = frames[frames[:, RIGHT.start, 3] > 0][:, RIGHT, :3]
        if len(seen) > 3:
            palm = np.linalg.norm(seen[:, 0] - seen[:, 9], axis=1)
            assert palm.std() < 0.15 * palm.mean()


def test_hands_move_more_than_shoulders(clips):
    for frames in clips.values():
        travel = np.ptp(frames[:, :6, :2], axis=0).sum(axis=1)
        assert max(travel[4:]) > 5 * max(travel[:2])


def test_any_number_of_words_is_distinct():
    words = [word_of(0, number) for number in range(1, 701)]
    assert len({word.gloss for word in words}) == 700
    assert word_of(0, 700) is words[-1]
    assert {name for word in words for name in [word.gloss.split(" | ")[4]]} == {"one", "both", "alternating", "base"}


def test_some_signers_are_left_handed_and_sign_with_the_other_hand():
    handed = [signer_of(0, number, 0.5).left_handed for number in range(1, 200)]
    assert 5 < sum(handed) < 45
    one_handed = next(n for n in range(1, 50) if " one " in word_of(0, n).gloss)
    left = 1 + handed.index(True)
    travel = np.ptp(record(0, one_handed, left, 0)[:, 4:6, :2], axis=0).sum(axis=1)
    assert travel[0] > 3 * travel[1]


def test_one_handed_words_often_lack_the_other_hand():
    one_handed = next(n for n in range(1, 50) if " one " in word_of(0, n).gloss)
    shares = [(record(0, one_handed, 1, r)[:, LEFT.start, 3] == 0).mean() for r in range(20)]
    assert 0.4 < np.mean(np.array(shares) == 1) < 1


def features(frames, steps=8):
    """Wrists and finger tips relative to the shoulders, resampled: enough for a nearest neighbour."""
    middle = frames[:, :2, :2].mean(axis=1)
    width = np.linalg.norm(frames[:, 0, :2] - frames[:, 1, :2], axis=1)[:, None, None]
    tips = [142 + j for j in (4, 8, 12, 16, 20)] + [163 + j for j in (4, 8, 12, 16, 20)]
    wrists = [142] * 5 + [163] * 5
    hands = (frames[:, tips, :2] - frames[:, wrists, :2]) / width
    arms = (frames[:, 2:6, :2] - middle[:, None]) / width
    columns = np.concatenate([1.5 * arms, hands], axis=1).reshape(len(frames), -1)
    at = np.linspace(0, len(frames) - 1, steps)
    return np.stack([np.interp(at, np.arange(len(frames)), column) for column in columns.T]).ravel()


def nearest_accuracy(values, labels, train, test):
    distance = ((values[test][:, None] - values[train][None]) ** 2).sum(axis=-1)
    return float((labels[train][distance.argmin(axis=1)] == labels[test]).mean())


def test_difficulty_is_about_unseen_signers():
    seen, unseen = {}, {}
    for difficulty in (0.0, 0.5, 1.0):
        keys = [(w, s, r) for w in range(1, 13) for s in (1, 2, 3) for r in range(3)]
        values = np.stack([features(record(3, *key, difficulty)) for key in keys])
        word, signer, repetition = np.array(keys).T
        seen[difficulty] = nearest_accuracy(values, word, repetition > 0, repetition == 0)
        unseen[difficulty] = np.mean([nearest_accuracy(values, word, signer != s, signer == s) for s in (1, 2, 3)])
    assert min(seen.values()) > 0.9
    assert unseen[0.0] > 0.95
    assert unseen[1.0] < unseen[0.5] < unseen[0.0]
    assert unseen[0.5] < seen[0.5] - 0.1


def test_the_corpus_packs_with_names_sessions_and_settings(tmp_path):
    corpus = Corpus(words=3, signers=2, repetitions=2, seed=4)
    data = Recordings.open(pack(source(corpus), tmp_path / "set"), verify=True)
    assert (len(data), data.signers, data.normalisation, data.schema) == (12, ["01", "02"], "raw", KARSL)
    assert len(set(data.names)) == 12
    assert data.sessions == ["01/01_01_26", "01/02_01_26", "02/01_02_26", "02/02_02_26"]
    assert data.classes[2].name == word_of(4, 3).gloss
