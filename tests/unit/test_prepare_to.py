"""`trainer prepare --to`: what goes where, and every place that opens data by a URL."""

import shutil

import pytest

from trainer.checkpoint.files import FileStore
from trainer.cli import main, packing
from trainer.config.signs import SignsSettings
from trainer.errors import DataError
from trainer.tasks.data_index import INDEX
from trainer.tasks.registry import load
from trainer.tasks.signs.packed import Recordings
from trainer.tasks.signs.recordings import recordings_of

SMALL = ["--words", "3", "--signers", "2", "--repetitions", "3"]
URL = "s3://bucket/signs"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "signs"
    assert main(["prepare", "--synthetic", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory of its own, with the recordings in `signs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER__CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def signs(original, place):
    return shutil.copytree(original, place / "signs")


@pytest.fixture
def store(place, monkeypatch):
    """What stands behind s3:// here."""
    store = FileStore(place / "bucket")
    monkeypatch.setattr(packing, "open_store", lambda url, s3: store)
    return store


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_cache(place):
    return [path.name for path in (place / "cache").iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([], "got 0 paths"),
        (["--synthetic"], "got 0 paths and --synthetic"),
        (["a"], "got 1 paths"),
        (["a", "b", "c"], "got 3 paths"),
        (["--synthetic", "a", "b"], "got 2 paths and --synthetic"),
        (["--to", URL], "got 0 paths"),
        (["a", "b", "c", "--to", URL], "got 3 paths"),
        (["--synthetic", "a", "b", "--to", URL], "got 2 paths and --synthetic"),
        (["a", "b", "--show", "1", "c"], "got 3 paths"),
        (["a", URL], f"TARGET is a folder of this machine; for a store write --to {URL}"),
        (["--synthetic", URL], f"for a store write --to {URL}"),
        (["a", "--to", "data/signs"], "--to is data/signs, which is no URL; for a folder leave --to out"),
        (["a", "b", "--to", "file:///c"], "--to file:///c and TARGET b are both folders; keep one"),
        (["a", "--to", "gs://bucket/x"], "gs://bucket/x is no place for data"),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(line, said, place, capsys):
    assert main(["prepare", *line]) == 2
    assert said in capsys.readouterr().err
    assert list(place.iterdir()) == []


def test_to_a_file_url_is_a_folder_like_target(original, place, capsys):
    assert main(["prepare", "--synthetic", "--to", f"file://{place}/made", *SMALL]) == 0
    assert f"in {place}/made" in capsys.readouterr().out
    assert content_of(place / "made") == content_of(original)


def test_packed_data_are_copied_to_a_file_url(signs, place, capsys):
    assert main(["prepare", "signs", "--to", "file://copy"]) == 0
    assert content_of(place / "copy") == content_of(signs)
    assert main(["prepare", "signs", "--to", "file://copy"]) == 3
    assert "copy exists already" in capsys.readouterr().err
    (place / "copy" / "frames.bin").write_bytes(b"")
    assert main(["prepare", "signs", "--to", "file://copy", "--overwrite"]) == 0
    assert content_of(place / "copy") == content_of(signs)
    assert sorted(path.name for path in place.iterdir()) == ["copy", "signs"]


def test_generated_data_are_pushed_and_leave_nothing_here(store, place, original, capsys):
    assert main(["prepare", "--synthetic", "--to", URL, *SMALL]) == 0
    assert f"train: --data {store.url}" in capsys.readouterr().out
    assert in_cache(place) == []
    there = [entry.key for entry in store.entries("")]
    assert INDEX in there
    assert main(["prepare", str(original), "--to", URL]) == 0
    assert "nothing to push, they are there already: 18 recordings" in capsys.readouterr().out
    assert [entry.key for entry in store.entries("")] == there


def test_with_a_target_both_are_made(store, place, original):
    assert main(["prepare", "--synthetic", "here", "--to", URL, *SMALL]) == 0
    assert content_of(place / "here") == content_of(original)
    assert store.get(INDEX)


def test_only_files_of_the_data_set_are_pushed(store, signs):
    (signs / "notes.txt").write_text("mine")
    assert main(["prepare", "signs", "--to", URL]) == 0
    assert b"notes.txt" not in store.get(INDEX)


def test_damaged_data_are_not_pushed(store, signs, capsys):
    content = bytearray((signs / "frames.bin").read_bytes())
    content[1000] ^= 1
    (signs / "frames.bin").write_bytes(bytes(content))
    assert main(["prepare", "signs", "--to", URL]) == 3
    assert "frames.bin does not have the digest" in capsys.readouterr().err
    assert list(store.entries("")) == []


def test_a_taken_place_is_refused_before_anything_is_packed(store, place, capsys):
    store.put("notes.txt", [b"mine"])
    assert main(["prepare", "--synthetic", "--to", URL, *SMALL]) == 3
    assert "holds other files (notes.txt)" in capsys.readouterr().err
    assert not (place / "cache").exists()


def test_a_push_that_fails_or_was_killed_leaves_no_folder_behind(store, place, monkeypatch):
    def fail(*_, **__):
        (folder,) = in_cache(place)
        raise DataError(folder)

    with monkeypatch.context() as patched:
        patched.setattr(packing, "push", fail)
        assert main(["prepare", "--synthetic", "--to", URL, *SMALL]) == 3
    assert in_cache(place) == []
    with monkeypatch.context() as patched:
        patched.setattr(packing.shutil, "rmtree", lambda *_, **__: None)  # as if killed
        patched.setattr(packing, "push", fail)
        assert main(["prepare", "--synthetic", "--to", URL, *SMALL]) == 3
    assert len(in_cache(place)) == 1
    assert main(["prepare", "--synthetic", "--to", URL, *SMALL]) == 0
    assert in_cache(place) == []


def test_a_run_opens_data_by_a_file_url_where_they_lie(original):
    settings = SignsSettings(data={"path": f"file://{original}"})
    assert recordings_of(settings).path == original
    assert settings.data.path == f"file://{original}"


def test_every_door_to_recordings_goes_through_the_store(original, monkeypatch):
    monkeypatch.setattr("trainer.tasks.signs.recordings.local_path", lambda url, settings: {URL: original}[url])
    settings = SignsSettings(data={"path": URL}, batch_size=8)
    assert recordings_of(settings).digest == Recordings.open(original).digest
    task = load("signs").create(settings)
    assert (task.recordings.path, settings.data.path) == (original, URL)
    assert [name for name, _ in load("signs", "folds").folds(settings)] == ["01", "02"]
