"""The open layout, the Auslan files, and the door that finds out which layout it is."""

import csv
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.signs_layouts import data_settings, make_clips, source_at, stream_of, write_labels, write_mmap, write_npz
from trainer.config.signs import SchemaSettings, SignsData
from trainer.errors import DataError, SettingsError
from trainer.tasks.bad_samples import BadSamples
from trainer.tasks.signs.pack import pack
from trainer.tasks.signs.packed import Recordings
from trainer.tasks.signs.recordings import open_recordings

ROW = "0.015625, 0.0, -0.25, 0.083333, -1.0, -1.0, 0.25, 0.75, 0.5, 0.25, 0.25, 0x0, 0x1, 0x0, 0x3F\n"
GLOVE = SchemaSettings(preset="powerglove")


def write_glove(root):
    """Two signers, one of them in two sessions, two signs, a calibration and an empty file."""
    for session in ("ann1", "ann2", "bob1"):
        folder = root / "signs" / session
        folder.mkdir(parents=True)
        for sign in ("God0", "God1", "change(mind)0"):
            (folder / f"{sign}.sign").write_text(ROW * (3 + len(session)))
        (folder / "cal-left0.sign").write_text(ROW)
    (root / "signs/bob1/God0.sign").write_text("")
    return root


def write_open(root, rows, columns=("path", "label", "signer", "split")):
    root.mkdir(parents=True, exist_ok=True)
    with (root / "index.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return root


def frames(seed=0, num_frames=4):
    return np.random.default_rng(seed).normal(size=(num_frames, 8)).astype(np.float32)


@pytest.fixture
def three_kinds(tmp_path):
    """One recording as .npy, .npz and .csv, with and without a split."""
    root = tmp_path / "open"
    root.mkdir()
    np.save(root / "a.npy", frames(1))
    np.savez(root / "b.npz", frames(2).reshape(4, 1, 8))
    np.savetxt(root / "c.csv", frames(3), delimiter=",", header=",".join("abcdefgh"), comments="")
    rows = [("a.npy", "yes", "ann", "train"), ("b.npz", "no", "bob", "test"), ("c.csv", "yes", "bob", "")]
    return write_open(root, rows)


def test_open_layout_reads_all_three_kinds(three_kinds):
    items = stream_of(three_kinds, preset="powerglove")
    assert [(i.word, i.signer, i.split, i.name) for i in items] == [
        (2, "ann", "train", "a.npy"),
        (1, "bob", "test", "b.npz"),
        (2, "bob", "", "c.csv"),
    ]
    assert [info.name for info in source_at(three_kinds, preset="powerglove").classes] == ["no", "yes"]
    for seed, item in enumerate(items, start=1):
        np.testing.assert_allclose(item.frames[:, 0], frames(seed), rtol=1e-6)


def test_open_labels_that_are_numbers_are_word_ids(tmp_path):
    np.save(tmp_path / "a.npy", frames())
    write_open(tmp_path, [("a.npy", "12", "s", ""), ("a.npy", "3", "s", "")])
    assert [info.word for info in source_at(tmp_path, preset="powerglove").classes] == [3, 12]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((4, 7)), r"a\.npy \(index\.csv line 2\): cannot be read \(shape \[4, 7\], expected \[frames, 8\]"),
        (np.array(["x"]), "values of type"),
        (None, r"a\.npy \(index\.csv line 2\): is missing"),
    ],
)
def test_a_bad_open_recording_is_named_with_its_line(tmp_path, content, message):
    if content is not None:
        np.save(tmp_path / "a.npy", content)
    np.save(tmp_path / "b.npy", frames())
    write_open(tmp_path, [("a.npy", "x", "s", ""), ("b.npy", "x", "s", "")])
    with pytest.raises(DataError, match=message):
        pack(source_at(tmp_path, preset="powerglove"), tmp_path / "set")
    bad = BadSamples("skip")
    assert len(Recordings.open(pack(source_at(tmp_path, preset="powerglove"), tmp_path / "set", bad=bad))) == 1


def test_open_pickles_and_paths_outside_are_refused(tmp_path):
    root = tmp_path / "data"
    write_open(root, [("a.npy", "x", "s", "")])
    np.save(root / "a.npy", np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"a\.npy .*holds pickled objects, refused"):
        stream_of(root, preset="powerglove")
    np.save(tmp_path / "b.npy", frames())
    write_open(root, [("../b.npy", "x", "s", "")])
    assert stream_of(root, preset="powerglove")[0].reason == "lies outside of the data folder"


def test_an_index_with_an_empty_field_is_named_by_line(tmp_path):
    write_open(tmp_path, [("a.npy", "x", "s", ""), ("b.npy", "", "s", "")])
    with pytest.raises(DataError, match=r"index\.csv, line 3: label is empty"):
        source_at(tmp_path, preset="powerglove")


def test_auslan_folder_and_tar_are_the_same(tmp_path):
    root = write_glove(tmp_path / "data")
    with tarfile.open(tmp_path / "signs.tar.gz", "w:gz") as tar:
        tar.add(root / "signs", "signs")
    for path in (root, root / "signs", tmp_path / "signs.tar.gz", tmp_path):
        bad = BadSamples("fail")
        target = tmp_path / f"set-{path.name}-{len(path.parts)}"
        data = Recordings.open(pack(source_at(path, "auslan"), target, bad=bad))
        assert (len(data), bad.num_tolerated, data.signers) == (8, 1, ["ann", "bob"])
        assert "bob1/God0.sign: is empty" in bad.lines[0]
        assert data.names[0] == "ann1/God0"
        assert data.sessions == ["ann1", "ann2", "bob1"]
        assert [info.name for info in data.classes] == ["God", "change(mind)"]
        expected = [0.015625, 0.0, -0.25, 0.083333, 0.25, 0.75, 0.5, 0.25]
        np.testing.assert_allclose(data.clip(0)[0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(ROW + "1, 2, 3\n", "has 3 fields in row 2, expected 15"), (ROW.replace("0.25", "?"), "no number")],
)
def test_a_damaged_sign_file_is_named(tmp_path, text, reason):
    write_glove(tmp_path)
    (tmp_path / "signs/ann1/God1.sign").write_text(text)
    with pytest.raises(DataError, match=rf"ann1/God1\.sign: .*{reason}"):
        pack(source_at(tmp_path), tmp_path / "set")


def test_the_real_auslan_files(shared_data, tmp_path):
    file = shared_data("auslan_powerglove/signs_10words.tar.gz")
    bad = BadSamples("fail")
    data = Recordings.open(pack(source_at(file), tmp_path / "set", bad=bad), verify=True)
    assert (len(data), len(data.classes), bad.lines) == (700, 10, [])
    assert data.signers == ["adam", "andrew", "john", "stephen", "waleed"]
    assert np.bincount(data.signer).tolist() == [80, 80, 180, 160, 200]
    assert np.bincount(data.label).tolist() == [70] * 10
    assert data.frames.shape[1:] == (1, 8)


@pytest.mark.parametrize(
    ("layout", "write"),
    [
        ("karsl_npz", lambda path: write_npz(path, make_clips([1]))),
        ("karsl_mmap", lambda path: write_mmap(path, make_clips([1]))),
        ("auslan", write_glove),
    ],
)
def test_auto_finds_the_layout(tmp_path, layout, write):
    write(tmp_path / "data")
    assert source_at(tmp_path / "data").layout == layout
    other = "open" if layout != "open" else "auslan"
    with pytest.raises(DataError, match="is not in the layout open"):
        source_at(tmp_path / "data", other)


def test_a_folder_without_a_known_layout_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="none of the known layouts"):
        source_at(tmp_path)


@pytest.mark.parametrize(
    "settings", [SignsData(), SignsData(path="nowhere"), SignsData(path="nowhere", layout="packed")]
)
def test_missing_data_name_the_command_that_would_generate_some(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="trainer prepare --synthetic data/signs") as error:
        open_recordings(settings)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_source_is_packed_once_and_again_when_it_changes(three_kinds, tmp_path):
    notes = []
    settings = data_settings(three_kinds, dataset_schema=GLOVE)
    first = open_recordings(settings, cache=tmp_path / "cache", note=notes.append)
    again = open_recordings(settings, cache=tmp_path / "cache", note=notes.append)
    assert (first.path, len(notes)) == (again.path, 1)
    assert "packing" in notes[0]
    np.save(three_kinds / "a.npy", frames(9, 7))
    changed = open_recordings(settings, cache=tmp_path / "cache", note=notes.append)
    assert changed.path != first.path
    assert changed.lengths[0] == 7


def test_of_several_that_start_together_one_packs(three_kinds, tmp_path):
    notes = []
    settings = data_settings(three_kinds, dataset_schema=GLOVE)
    with ThreadPoolExecutor(4) as pool:
        starts = [pool.submit(open_recordings, settings, cache=tmp_path / "cache", note=notes.append) for _ in range(4)]
    assert len({start.result().path for start in starts}) == 1
    assert len(notes) == 1


def test_a_path_beside_generated_data_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"data\.layout is synthetic, which reads no files"):
        open_recordings(data_settings(tmp_path, layout="synthetic"))


def test_a_label_file_that_comes_later_is_seen(tmp_path):
    write_npz(tmp_path / "data", make_clips([1]))
    before = open_recordings(data_settings(tmp_path / "data"), cache=tmp_path / "cache")
    write_labels(tmp_path / "data")
    after = open_recordings(data_settings(tmp_path / "data"), cache=tmp_path / "cache")
    assert [before.classes[0].name, after.classes[0].name] == ["0001", "0"]


def test_skipped_samples_are_told(three_kinds, tmp_path):
    notes = []
    np.save(three_kinds / "a.npy", np.full((3, 8), np.nan))
    settings = data_settings(three_kinds, dataset_schema=GLOVE, bad_samples="skip")
    assert len(open_recordings(settings, cache=tmp_path / "cache", note=notes.append)) == 2
    assert "left out" in notes[1]
    assert "a.npy (index.csv line 2): has NaN" in notes[1]


def test_a_schema_set_on_purpose_must_be_the_datas(tmp_path):
    write_glove(tmp_path / "data")
    cache = tmp_path / "cache"
    assert open_recordings(data_settings(tmp_path / "data"), cache=cache).schema.name == "powerglove"
    hands = data_settings(tmp_path / "data", dataset_schema=SchemaSettings(preset="mediapipe_hands"))
    with pytest.raises(
        SettingsError, match=r"dataset_schema is 'mediapipe_hands' \[42, 4\], but .* 'powerglove' \[1, 8\]"
    ):
        open_recordings(hands, cache=cache)


def test_a_word_or_signer_outside_of_the_set_is_refused(tmp_path):
    write_glove(tmp_path / "data")
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match="has words 1 to 2, asked for 1 to 3"):
        open_recordings(data_settings(tmp_path / "data", selected_signs_to=3), cache=cache)
    with pytest.raises(DataError, match="has no signer carol; there are: ann, bob"):
        open_recordings(data_settings(tmp_path / "data", signers=["carol"]), cache=cache)
