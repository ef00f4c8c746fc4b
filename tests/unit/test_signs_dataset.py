"""The data set: batches that hang on the sample alone, derived features, mixup, input statistics."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.signs_fakes import fake_recordings
from trainer.config.signs import AugmentSettings, SamplingSettings, SignsData, SignsModel
from trainer.errors import DataError
from trainer.tasks.signs.dataset import SignsDataSet, Source, input_statistics
from trainer.tasks.signs.model import STTransformer
from trainer.tasks.signs.schema import Schema

LENGTHS = [1, 2, 23, 49, 50, 51, 120, 30, 17, 40]
HARD = AugmentSettings(time_warp=0.5, frame_drop=0.1, group_drop=0.2, noise=0.02, axis_scale=0.1, mixup=0.3)


def view(seed=None, preset="karsl", lengths=LENGTHS, **data):
    source = Source(fake_recordings(lengths, preset), SignsData(**data))
    return SignsDataSet(source, np.arange(len(lengths)), seed=seed)


def test_a_batch_has_the_promised_keys_shapes_and_kinds():
    batch = view().take(np.array([6, 0, 3]), 0)
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in batch.items()}
    assert shapes == {
        "keypoints": ((3, 50, 736), torch.float32),
        "present": ((3, 50, 4), torch.bool),
        "label": ((3,), torch.int64),
        "signer": ((3,), torch.int64),
        "index": ((3,), torch.int64),
        "length": ((3,), torch.int64),
    }
    assert batch["index"].tolist() == [6, 0, 3]
    assert batch["label"].tolist() == [0, 0, 0]
    assert batch["length"].tolist() == [120, 1, 49]


@pytest.mark.parametrize(
    ("preset", "normalise"),
    [("karsl", "anchored"), ("karsl", "none"), ("powerglove", "recording"), ("mediapipe_hands", "legacy")],
)
@pytest.mark.parametrize("seed", [None, 11])
def test_a_sample_is_the_same_in_any_batch_thread_and_order(preset, normalise, seed):
    data = view(seed, preset, normalise=normalise, augment=HARD, derive=["velocity", "length"])
    whole = data.take(np.arange(10), 5)
    order = np.array([7, 2, 9, 0, 4])
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda rows: data.take(rows, 5), [order, *(np.array([i]) for i in range(10))]))
    for name, value in whole.items():
        assert torch.equal(parts[0][name], value[order]), name
        assert torch.equal(torch.cat([part[name] for part in parts[1:]]), value), name


def test_training_changes_with_the_epoch_and_evaluation_does_not():
    assert torch.equal(view().take(np.arange(10), 0)["keypoints"], view().take(np.arange(10), 1)["keypoints"])
    train = view(3)
    assert not torch.equal(train.take(np.arange(10), 0)["keypoints"], train.take(np.arange(10), 1)["keypoints"])


def test_evaluation_of_a_fifty_frame_clip_is_the_clip():
    data = view(normalise="none")
    batch = data.take(np.array([4]), 0)
    recordings = data.source.recordings
    start = int(recordings.starts[4])
    assert np.array_equal(batch["keypoints"][0].numpy(), recordings.frames[start : start + 50].reshape(50, 736))


def test_missing_groups_are_exactly_zero_whatever_happens():
    batch = view(5, augment=HARD).take(np.arange(10), 0)
    clips = batch["keypoints"].view(10, 50, 184, 4)
    assert not batch["present"].all()
    for group, rows in enumerate(Schema.preset("karsl").rows):
        assert not clips[:, :, rows][~batch["present"][:, :, group]].any()


@pytest.mark.parametrize("preset", ["karsl", "powerglove"])
@pytest.mark.parametrize("mode", ["stretch", "pad"])
def test_the_model_finds_the_present_groups_of_a_clip_by_itself(preset, mode):
    normalise = "recording" if preset == "powerglove" else "anchored"
    data = view(5, preset, normalise=normalise, sampling=SamplingSettings(mode=mode), derive=["velocity"])
    batch = data.take(np.arange(10), 0)
    made = STTransformer(data.source.input_schema, 3, SignsModel(size="t_4_2"))
    assert torch.equal(made.present_in(batch["keypoints"]), batch["present"])
    if mode == "pad":
        assert not batch["present"][0, 1:].any()


def test_velocity_is_the_difference_where_a_group_is_there_twice_and_length_is_logarithmic():
    data = view(normalise="none", derive=["velocity", "length"])
    batch = data.take(np.array([4]), 0)
    clip = batch["keypoints"].view(50, 184, 8).numpy()
    present = batch["present"][0].numpy()
    np.testing.assert_allclose(clip[1:, 0, 4:7], clip[1:, 0, :3] - clip[:-1, 0, :3], atol=1e-6)
    assert not clip[0, :, 4:7].any()
    assert clip[0, 0, 7] == pytest.approx(np.log(51), rel=1e-6)
    both = present[1:, 2] & present[:-1, 2]
    assert not both.all()
    assert not clip[1:, 142:163, 4:7][~both].any()


def test_mixup_blends_with_a_partner_that_the_batch_does_not_choose():
    settings = AugmentSettings(flip=0, affine=0, mixup=1.0)
    data = view(9, normalise="none", augment=settings, sampling=SamplingSettings(jitter=0))
    plain = view(normalise="none").take(np.arange(10), 0)["keypoints"]
    batch = data.take(np.array([3]), 2)
    partner, share = data.partners(np.array([3]), 2)
    assert batch["label_b"].item() == data.labels[partner[0]]
    assert batch["mix"].item() == pytest.approx(float(share[0]))
    blended = share[0] * plain[3] + (1 - share[0]) * plain[partner[0]]
    pose = slice(0, 568)
    np.testing.assert_allclose(batch["keypoints"][0, :, pose], blended[:, pose], atol=1e-5)


def test_statistics_are_those_of_the_present_values_whatever_the_batches():
    data = view()
    mean, variance = input_statistics(data)
    batch = data.take(np.arange(10), 0)
    clips, present = batch["keypoints"].double(), batch["present"]
    seen = clips[..., 568:652][present[..., 2]]
    torch.testing.assert_close(mean[568 + 4 : 568 + 7], seen.mean(0)[4:7].float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        variance[568 + 4 : 568 + 7], seen.var(0, correction=0)[4:7].float(), rtol=1e-4, atol=1e-4
    )
    assert variance[568] == 1.0  # the wrist is always the origin
    assert variance[571] == 0.25  # visibility, never below half its range


def test_words_that_must_not_be_mirrored_are_not():
    settings = AugmentSettings(flip=1.0, affine=0, flip_except=[1])
    data = view(3, normalise="none", augment=settings, sampling=SamplingSettings(jitter=0))
    plain = view(normalise="none").take(np.arange(10), 0)["keypoints"]
    same = (data.take(np.arange(10), 0)["keypoints"] == plain).flatten(1).all(1)
    assert same.tolist() == [label == 0 for label in data.labels]


def test_a_recording_without_frames_is_named():
    with pytest.raises(DataError, match="fake: recording clip1 "):
        view(lengths=[3, 0, 2])


def test_class_weights_travel_with_the_batch():
    source = Source(fake_recordings(LENGTHS), SignsData())
    data = SignsDataSet(source, np.arange(10), class_weights=np.array([0.5, 1.0, 2.0], np.float32))
    assert data.take(np.array([0, 1, 2]), 0)["weight"].tolist() == [0.5, 1.0, 2.0]
