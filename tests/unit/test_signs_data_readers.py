"""Readers of the KArSL layouts: the same clips from each, and one clear line for every kind of damage."""

import os
import pickle
import shutil
import subprocess

import numpy as np
import pytest

from tests.signs_layouts import (
    data_settings,
    make_clips,
    source_at,
    stream_of,
    write_labels,
    write_mmap,
    write_npz,
)
from trainer.errors import DataError
from trainer.tasks.bad_samples import BadSamples
from trainer.tasks.signs.pack import pack
from trainer.tasks.signs.packed import Recordings
from trainer.tasks.signs.readers.source import BadSample
from trainer.tasks.signs.recordings import open_recordings

WORDS = [2, 3, 7]


@pytest.fixture(scope="module")
def clips():
    return make_clips(WORDS)


@pytest.fixture(scope="module")
def originals(tmp_path_factory, clips):
    root = tmp_path_factory.mktemp("layouts")
    write_npz(root / "npz", clips)
    write_mmap(root / "mmap", clips)
    return root


@pytest.fixture
def npz(originals, tmp_path):
    return shutil.copytree(originals / "npz", tmp_path / "npz")


@pytest.fixture
def mmap(originals, tmp_path):
    return shutil.copytree(originals / "mmap", tmp_path / "mmap")


def by_place(items):
    """Clips by word, signer, split and order, whatever the layout names them."""
    found = {}
    for item in items:
        found.setdefault((item.word, int(item.signer), item.split), []).append(item.frames)
    return found


def test_npz_gives_the_clips_exactly_and_in_the_order_of_their_names(npz, clips):
    found = by_place(stream_of(npz))
    assert {key: len(frames) for key, frames in found.items()} == {key: len(pair) for key, pair in clips.items()}
    for key, pairs in clips.items():
        for (_, expected), frames in zip(pairs, found[key], strict=True):
            assert np.array_equal(frames, expected)


def test_mmap_gives_the_same_clips_within_half_precision(mmap, clips):
    found = by_place(stream_of(mmap))
    assert found.keys() == clips.keys()
    for key, pairs in clips.items():
        for (_, expected), frames in zip(pairs, found[key], strict=True):
            np.testing.assert_allclose(frames, expected, rtol=1e-3, atol=1e-4)


def test_packed_gives_the_same_clips_as_its_source(npz, tmp_path):
    source = source_at(npz)
    packed = Recordings.open(pack(source, tmp_path / "packed"), verify=True)
    items = list(source.stream())
    assert packed.names == [item.name for item in items]
    assert packed.given_split == [item.split for item in items]
    for index, item in enumerate(items):
        assert np.array_equal(packed.clip(index), item.frames)
        assert packed.classes[packed.label[index]].word == item.word
        assert packed.signers[packed.signer[index]] == item.signer


@pytest.mark.parametrize("layout", ["npz", "mmap"])
@pytest.mark.parametrize(("first", "last", "signers"), [(1, None, []), (3, 7, []), (2, 2, ["02"]), (4, 7, ["1"])])
def test_any_word_range_and_signers_have_contiguous_class_ids(
    layout, first, last, signers, npz, mmap, clips, tmp_path, request
):
    path = request.getfixturevalue(layout)
    settings = data_settings(path, signers=signers, selected_signs_from=first, selected_signs_to=last)
    data = open_recordings(settings, cache=tmp_path / "cache")
    words = [word for word in WORDS if first <= word <= (last or 502)]
    assert [info.word for info in data.classes] == words
    assert sorted(set(data.label.tolist())) == list(range(len(words)))
    for index in range(len(data)):
        key = (words[data.label[index]], int(data.signers[data.signer[index]]), data.given_split[index])
        assert any(
            frames.shape == data.clip(index).shape and np.allclose(frames, data.clip(index), rtol=1e-3, atol=1e-4)
            for _, frames in clips[key]
        )


def test_labels_are_text_in_both_languages(npz):
    write_labels(npz)
    classes = source_at(npz).classes
    assert [(info.word, info.name, info.native) for info in classes] == [(2, "1", "1"), (3, "2", "2"), (7, "6", "6")]


def test_a_word_that_the_label_file_lacks_is_named(npz):
    write_labels(npz, num_words=5)
    with pytest.raises(DataError, match=r"has word 7, but .*KARSL-502_Labels\.json names words 1 to 5"):
        source_at(npz)


def test_the_day_in_a_clip_name_is_the_session(npz):
    sessions = {item.session for item in stream_of(npz) if item.signer == "01"}
    assert sessions == {"01/01_01_26", "01/02_01_26"}


def test_all_missing_npz_files_are_named_at_once(npz, tmp_path):
    (npz / "karsl-kps/01-train/0003.npz").unlink()
    (npz / "karsl-kps/02-test/0007.npz").unlink()
    with pytest.raises(DataError, match=r"lacks 2 files .*01-train/0003\.npz, 02-test/0007\.npz"):
        pack(source_at(npz), tmp_path / "packed")
    bad = BadSamples("skip")
    pack(source_at(npz), tmp_path / "packed", bad=bad)
    assert bad.num_skipped == 1


def test_a_truncated_npz_is_named_and_the_others_are_read(npz, tmp_path):
    file = npz / "karsl-kps/01-train/0002.npz"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DataError, match=r"01-train/0002\.npz.*truncated") as error:
        pack(source_at(npz), tmp_path / "packed")
    assert error.value.exit_code == 3
    assert not (tmp_path / "packed").exists()
    assert sum(isinstance(item, BadSample) for item in stream_of(npz)) == 1
    assert len(stream_of(npz)) == 1 + 18 - 2


def test_an_npz_that_is_damaged_inside_names_the_clip(npz):
    file = npz / "karsl-kps/01-train/0002.npz"
    content = bytearray(file.read_bytes())
    middle = len(content) // 4
    content[middle : middle + 64] = bytes(64)
    file.write_bytes(bytes(content))
    bad = [item for item in stream_of(npz) if isinstance(item, BadSample)]
    assert len(bad) == 1
    assert "0002.npz, clip 01_01_0002_" in bad[0].where


def test_pickled_objects_in_an_npz_are_refused_under_any_policy(npz, tmp_path):
    np.savez(npz / "karsl-kps/01-train/0002.npz", clip=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"0002\.npz, clip clip: holds pickled objects, refused"):
        pack(source_at(npz), tmp_path / "packed", bad=BadSamples("skip"))


def test_a_mmap_shorter_than_its_shape_file_says_is_refused(mmap):
    file = mmap / "train_X.mmap"
    os.truncate(file, file.stat().st_size - 4)
    with pytest.raises(DataError, match=r"train_X\.mmap has \d+ bytes, its shape file says \d+") as error:
        source_at(mmap)
    assert error.value.exit_code == 3


@pytest.mark.parametrize("name", ["test_X_shape.npy", "test_y.npz", "test_X_map_samples_lens.npy"])
def test_a_missing_companion_of_a_mmap_is_named(mmap, name):
    (mmap / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        source_at(mmap)


def test_a_table_that_does_not_fit_the_frames_is_refused(mmap):
    np.save(mmap / "train_X_map_samples_lens.npy", np.array({2: {1: [3]}}, dtype=object))
    with pytest.raises(DataError, match=r"train_X_map_samples_lens\.npy counts 3 frames"):
        source_at(mmap)


class Surprise:
    """What an attacker's pickle does: it asks for a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("surprise", "name"),
    [
        (Surprise(os.system, "true"), r"(posix|nt)\.system"),
        (Surprise(subprocess.getoutput, "true"), r"subprocess\.getoutput"),
        (Surprise(eval, "1"), r"builtins\.eval"),
        (Surprise(np.fromfile, "x"), r"numpy(\._core)?\.\w+(\.\w+)*"),
    ],
)
def test_a_surprise_in_the_table_of_lengths_is_refused_by_name(mmap, surprise, name):
    np.save(mmap / "train_X_map_samples_lens.npy", np.array({2: {1: surprise}}, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=rf"train_X_map_samples_lens\.npy is refused: it asks for {name}") as error:
        source_at(mmap)
    assert error.value.exit_code == 3


def test_tables_of_old_and_new_numpy_are_read(mmap):
    """numpy 2 moved its functions to `numpy._core`; files of numpy 1 name `numpy.core`."""
    file = mmap / "train_X_map_samples_lens.npy"
    content = file.read_bytes()
    assert b"numpy._core.multiarray" in content
    before = source_at(mmap).num_recordings
    table = pickle.loads(content[content.index(b"\x80") :])
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        stream.write(pickle.dumps(table, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert source_at(mmap).num_recordings == before


def test_a_damaged_table_is_one_line(mmap):
    os.truncate(mmap / "train_X_map_samples_lens.npy", 150)
    with pytest.raises(DataError, match=r"train_X_map_samples_lens\.npy is damaged"):
        source_at(mmap)
