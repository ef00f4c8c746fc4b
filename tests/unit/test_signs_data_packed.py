"""The packed form: written whole or not at all, checked when opened, bad samples named and counted."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from trainer.errors import DataError, InfrastructureError
from trainer.tasks.bad_samples import BadSample, BadSamples
from trainer.tasks.signs.pack import pack
from trainer.tasks.signs.packed import ClassInfo, Recordings
from trainer.tasks.signs.readers.source import Recording, Source
from trainer.tasks.signs.schema import Schema

GLOVE = Schema.preset("powerglove")


def glove_recording(index, num_frames=5, **changes):
    frames = np.random.default_rng(index).normal(size=(num_frames, 1, 8)).astype(np.float32)
    word, signer = 10 * (1 + index % 3), f"{1 + index % 2:02d}"
    item = Recording(frames, word, signer, f"{signer}/a", f"clip{index}", "", f"file{index}")
    return replace(item, **changes)


def source_of(items, schema=GLOVE, layout="open"):
    classes = [ClassInfo(word, f"w{word}", "كلمة") for word in (10, 20, 30)]
    return Source(layout, "somewhere", schema, classes, ["01", "02"], lambda: iter(items), "key")


def some(num=6):
    return [glove_recording(i, 3 + i) for i in range(num)]


def with_nan(index):
    item = glove_recording(index)
    item.frames[2, 0, 3] = np.nan
    return item


def test_what_was_packed_comes_back(tmp_path):
    items = some()
    data = Recordings.open(pack(source_of(items), tmp_path / "set"), verify=True)
    assert (len(data), data.names, data.lengths.tolist()) == (6, [i.name for i in items], [3, 4, 5, 6, 7, 8])
    assert data.label.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.schema == GLOVE
    assert data.classes[0] == ClassInfo(10, "w10", "كلمة")
    assert all(np.array_equal(data.clip(i), item.frames) for i, item in enumerate(items))


def test_float16_rounds_once_and_halves_the_file(tmp_path):
    items = some()
    half = Recordings.open(pack(source_of(items), tmp_path / "half", dtype="float16"))
    assert np.array_equal(half.clip(1), items[1].frames.astype(np.float16).astype(np.float32))
    assert (tmp_path / "half/frames.bin").stat().st_size == 2 * 8 * sum(half.lengths)


def test_equal_recordings_have_equal_digests_and_others_do_not(tmp_path):
    first, again, other = (
        Recordings.open(pack(source_of(items), tmp_path / str(i))).digest
        for i, items in enumerate((some(), some(), [*some(5), glove_recording(9)]))
    )
    assert first == again != other


@pytest.mark.parametrize("name", ["frames.bin", "offsets.npy", "names.txt", "label.npy"])
def test_a_shortened_file_is_named(tmp_path, name):
    file = pack(source_of(some()), tmp_path / "set") / name
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DataError, match=rf"{name} has \d+ bytes, its header says \d+") as error:
        Recordings.open(tmp_path / "set")
    assert error.value.exit_code == 3


@pytest.mark.parametrize("name", ["frames.bin", "signer.npy", "names.txt"])
def test_a_flipped_byte_is_found_on_request(tmp_path, name):
    file = pack(source_of(some()), tmp_path / "set") / name
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(bytes(content))
    if name != "signer.npy":
        Recordings.open(tmp_path / "set")
    with pytest.raises(DataError, match=rf"{name} does not have the digest"):
        Recordings.open(tmp_path / "set", verify=True)


def test_a_missing_file_and_a_changed_header_are_named(tmp_path):
    folder = pack(source_of(some()), tmp_path / "set")
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps({**header, "num_frames": 1}))
    with pytest.raises(DataError, match=r"header\.json was changed after packing"):
        Recordings.open(folder)
    (folder / "header.json").write_text(json.dumps(header))
    (folder / "names.txt").unlink()
    with pytest.raises(DataError, match=r"names\.txt is missing"):
        Recordings.open(folder)
    (folder / "header.json").write_text("{")
    with pytest.raises(DataError, match=r"header\.json cannot be read"):
        Recordings.open(folder)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (with_nan(3), r"file3: has NaN or infinite values, first in frame 2"),
        (glove_recording(3, frames=np.zeros((4, 2, 8), np.float32)), r"file3: has shape \[4, 2, 8\], expected"),
        (glove_recording(3, frames=np.zeros((0, 1, 8), np.float32)), r"file3: has no frames"),
        (glove_recording(3, word=31), r"file3: has the unknown word id 31"),
        (glove_recording(3, signer="99"), r"file3: has the unknown signer '99'"),
        (glove_recording(3, split="dev"), r"file3: has the unknown split 'dev'"),
        (BadSample("file3", "is odd"), r"file3: is odd"),
    ],
)
def test_a_bad_sample_fails_by_default_and_is_skipped_on_request(tmp_path, bad, message):
    items = [*some(3), bad, *some(2)]
    with pytest.raises(DataError, match=message):
        pack(source_of(items), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    policy = BadSamples("skip")
    assert len(Recordings.open(pack(source_of(items), tmp_path / "set", bad=policy), verify=True)) == 5
    assert policy.num_skipped == len(policy.lines) == 1


def test_skip_ends_when_its_budget_is_used_up(tmp_path):
    items = [with_nan(0), with_nan(1), glove_recording(2), with_nan(3)]
    pack(source_of(items), tmp_path / "enough", bad=BadSamples("skip", 3))
    with pytest.raises(DataError, match=r"file3: .*bad sample 3, data\.bad_budget is 2"):
        pack(source_of(items), tmp_path / "set", bad=BadSamples("skip", 2))


def test_a_known_gap_is_counted_and_never_an_error(tmp_path):
    policy = BadSamples("fail")
    pack(source_of([*some(), BadSample("empty.sign", "is empty", tolerated=True)]), tmp_path / "set", bad=policy)
    assert (policy.num_skipped, policy.num_tolerated, policy.lines) == (0, 1, ["empty.sign: is empty"])


def test_values_too_large_for_float16_are_a_bad_sample(tmp_path):
    item = glove_recording(0, frames=np.full((2, 1, 8), 1e6, np.float32))
    with pytest.raises(DataError, match=r"file0: has values beyond float16; pack it as float32"):
        pack(source_of([item]), tmp_path / "set", dtype="float16")
    pack(source_of([item]), tmp_path / "set", dtype="float32")


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"somewhere .* has no usable recording"):
        pack(source_of([]), tmp_path / "set")


def test_a_target_is_replaced_only_if_asked_and_only_if_packed(tmp_path):
    folder = pack(source_of(some(2)), tmp_path / "set")
    with pytest.raises(DataError, match="exists already"):
        pack(source_of(some(3)), folder)
    pack(source_of(some(3)), folder, overwrite=True)
    assert len(Recordings.open(folder, verify=True)) == 3
    with pytest.raises(DataError, match="file0"):
        pack(source_of([with_nan(0)]), folder, overwrite=True)
    assert len(Recordings.open(folder, verify=True)) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(DataError, match="is no packed data set"):
        pack(source_of(some()), tmp_path / "mine", overwrite=True)


def test_a_disk_that_refuses_is_an_infrastructure_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InfrastructureError, match="cannot write"):
        pack(source_of(some()), tmp_path / "file" / "set")


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    def stream():
        yield from some()
        raise OSError(28, "No space left on device")

    with pytest.raises(InfrastructureError, match="No space left"):
        pack(replace(source_of([]), stream=stream), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def karsl_frames(seed=0):
    frames = np.random.default_rng(seed).uniform(0.2, 0.8, (4, 184, 4)).astype(np.float32)
    frames[..., 3] = 1
    frames[0, 142:163] = 0
    return frames


def legacy(frames):
    """As the public extraction stores it with `--adjusted`: every group moved and divided."""
    frames = frames.copy()
    for rows, (origin, first, second) in (
        (slice(0, 6), (0, 0, 1)),
        (slice(6, 142), (1, 132, 128)),
        (slice(142, 163), (0, 2, 17)),
        (slice(163, 184), (0, 2, 17)),
    ):
        part = frames[:, rows]
        found = part[:, :, 3].max(axis=1) > 0
        size = np.linalg.norm(part[:, first, :2] - part[:, second, :2], axis=-1)
        moved = (part[..., :3] - part[:, origin : origin + 1, :3]) / np.maximum(size, 1e-6)[:, None, None]
        part[found, :, :3] = moved[found]
    return frames


def karsl_source(*clips):
    items = [Recording(frames, 10, "01", "", f"c{i}", "", f"file{i}") for i, frames in enumerate(clips)]
    return source_of(items, Schema.preset("karsl"), "karsl_npz")


def test_raw_and_normalised_recordings_are_told_apart(tmp_path):
    raw = pack(karsl_source(karsl_frames()), tmp_path / "raw")
    adjusted = pack(karsl_source(legacy(karsl_frames())), tmp_path / "adjusted")
    assert (Recordings.open(raw).normalisation, Recordings.open(adjusted).normalisation) == ("raw", "legacy")


def test_a_mix_of_raw_and_normalised_is_refused_even_when_skipping(tmp_path):
    with pytest.raises(DataError, match="file0 is raw but file1 is legacy"):
        pack(karsl_source(karsl_frames(), legacy(karsl_frames(1))), tmp_path / "set", bad=BadSamples("skip"))


def test_recordings_that_are_neither_are_bad_samples(tmp_path):
    with pytest.raises(DataError, match="file0: is neither raw nor normalised"):
        pack(karsl_source(300 * karsl_frames()), tmp_path / "set")


@pytest.mark.parametrize(
    ("words", "signers", "expected"),
    [(None, [], 6), (range(10, 21), [], 4), (range(20, 31), ["02"], 2), (None, ["1"], 3), (range(15, 26), [], 2)],
)
def test_select_keeps_frames_and_numbers_classes_anew(tmp_path, words, signers, expected):
    items = some()
    chosen = Recordings.open(pack(source_of(items), tmp_path / "set")).select(words, signers)
    assert len(chosen) == expected
    by_name = {item.name: item for item in items}
    for i, name in enumerate(chosen.names):
        assert np.array_equal(chosen.clip(i), by_name[name].frames)
        assert chosen.classes[chosen.label[i]].word == by_name[name].word
        assert chosen.signers[chosen.signer[i]] == by_name[name].signer
    assert set(chosen.label.tolist()) <= set(range(len(chosen.classes)))


@pytest.mark.parametrize("words", [range(1, 11), range(30, 32), range(40, 50)])
def test_a_word_outside_of_the_set_is_refused(tmp_path, words):
    data = Recordings.open(pack(source_of(some()), tmp_path / "set"))
    with pytest.raises(DataError, match=rf"has words 10 to 30, asked for {words.start} to {words.stop - 1}"):
        data.select(words)


def test_an_unknown_signer_is_refused_with_the_list_of_known_ones(tmp_path):
    data = Recordings.open(pack(source_of(some()), tmp_path / "set"))
    with pytest.raises(DataError, match=r"has no signer 07, bob; there are: 01, 02"):
        data.select(signers=["07", "01", "bob"])
