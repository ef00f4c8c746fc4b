"""Data sets in a store: pushing and fetching, cut, damaged, replaced, shared; on a store of files, which is as good."""

import resource
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from trainer.checkpoint.files import FileStore
from trainer.checkpoint.sealed import SealError, sealed
from trainer.checkpoint.store import StoreDamaged
from trainer.config.plain import PlainSettings
from trainer.config.s3 import S3Settings
from trainer.config.signs import SignsSettings
from trainer.errors import DataError, InfrastructureError, SettingsError
from trainer.tasks import remote
from trainer.tasks.data_index import INDEX, DataIndex, Piece, plan
from trainer.tasks.push import push
from trainer.tasks.remote import cache_root, fetch, fetched, local_path, split_url

NAMES = ("empty", "frames.bin", "names.txt", "sub/label.npy")
PIECE_BYTES = 2**16
NUM_PIECES = 6
"""Three of frames.bin, one of each other file."""


class Watched(FileStore):
    """Remembers what is asked of it; `before` may stand in the way of a call or change what it gives."""

    def __init__(self, path):
        super().__init__(path)
        self.gets, self.puts = [], []
        self.before_put = self.before_get = lambda key: None
        self.after_get = lambda key, data: data

    def get(self, key):
        self.before_get(key)
        self.gets.append(key)
        return self.after_get(key, super().get(key))

    def put(self, key, chunks, *, only_new=False):
        self.before_put(key)
        super().put(key, chunks, only_new=only_new)
        self.puts.append(key)


def make_data(folder, seed=0):
    (folder / "sub").mkdir(parents=True)
    content = np.random.default_rng(seed).bytes(2 * PIECE_BYTES + 1000)
    (folder / "frames.bin").write_bytes(content)
    (folder / "names.txt").write_text(f"names of {seed}\n")
    (folder / "sub" / "label.npy").write_bytes(content[:500])
    (folder / "empty").touch()
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr("trainer.tasks.push.PIECE_BYTES", PIECE_BYTES)


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.fixture
def store(tmp_path):
    return Watched(tmp_path / "bucket")


@pytest.fixture
def settings(tmp_path):
    return SignsSettings(cache=str(tmp_path / "cache"))


def put_there(data, store, overwrite=False, parallel=2, count=lambda done, total: None):
    return push(data, NAMES, store, overwrite=overwrite, parallel=parallel, count=count)


def content_of(folder):
    return {name: (folder / name).read_bytes() for name in NAMES}


def pieces_got(store):
    return [key for key in store.gets if key != INDEX]


def raises_after(calls, error):
    """A hook that lets so many calls pass."""
    left = iter(range(calls))

    def hook(key):
        if next(left, None) is None:
            raise error

    return hook


def test_what_is_pushed_is_fetched_once_and_then_looked_at_without_a_word(data, store, settings, capsys):
    index = put_there(data, store)
    folder = fetched(store, settings)
    assert content_of(folder) == content_of(data)
    assert folder.name == index.digest[:32]
    assert store.puts[-1] == INDEX
    assert "fetching" in capsys.readouterr().err
    store.gets.clear()
    assert fetched(store, settings) == folder
    assert store.gets == [INDEX]
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f".{folder.name}.lock"}


def test_both_tell_how_far_they_are_in_bytes(data, store):
    seen = []
    index = put_there(data, store, count=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (index.size_bytes, index.size_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) == NUM_PIECES


def test_pushing_the_same_again_puts_nothing(data, store):
    put_there(data, store)
    store.puts.clear()
    assert put_there(data, store) is None
    assert store.puts == []


def test_other_data_are_refused_and_replaced_on_request_without_a_moment_of_nothing(data, store, settings, tmp_path):
    put_there(data, store)
    other = make_data(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match=r"bucket holds another data set; .* --overwrite"):
        put_there(other, store)
    assert content_of(fetched(store, settings)) == content_of(data)
    store.before_put = lambda key: DataIndex.from_bytes(store.get(INDEX))  # raises if there were none
    new = put_there(other, store, overwrite=True)
    assert content_of(fetched(store, settings)) == content_of(other)
    assert {entry.key for entry in store.entries("pieces/")} == {piece.key for piece in new.pieces}


def test_foreign_files_are_never_touched(data, store):
    store.put("notes.txt", [b"mine"])
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"holds other files \(notes.txt\), which are not touched"):
            put_there(data, store, overwrite=overwrite)
    assert [entry.key for entry in store.entries("")] == ["notes.txt"]


def test_a_push_that_was_cut_leaves_no_data_set_and_goes_on_where_it_was(data, store, settings):
    store.before_put = raises_after(3, InfrastructureError("the network is gone"))
    with pytest.raises(InfrastructureError, match="network"):
        put_there(data, store)
    with pytest.raises(DataError, match=r"no data set at file://.*; .* trainer prepare --task signs SOURCE --to file"):
        fetched(store, settings)
    store.before_put = lambda key: None
    before = len(store.puts)
    assert 1 <= before <= 3
    put_there(data, store)
    assert len(store.puts) == NUM_PIECES + 1
    assert content_of(fetched(store, settings)) == content_of(data)


def test_a_server_that_loses_a_piece_gets_no_index(data, store):
    store.before_put = lambda key: store.delete(store.puts[-1:])
    with pytest.raises(InfrastructureError, match="was written and is not there in full"):
        put_there(data, store, parallel=1)
    assert INDEX not in store.puts


def test_another_push_that_was_faster_is_not_overwritten(data, store, tmp_path):
    other = make_data(tmp_path / "other", seed=1)

    def be_faster(key):
        if key == INDEX:
            store.before_put = lambda key: None
            put_there(other, store)

    store.before_put = be_faster
    with pytest.raises(DataError, match="holds another data set"):
        put_there(data, store)
    store.delete([entry.key for entry in store.entries("")])

    def be_faster_with_the_same(key):
        if key == INDEX:
            store.before_put = lambda key: None
            put_there(data, store)

    store.before_put = be_faster_with_the_same
    assert put_there(data, store).sizes == {name: len(content) for name, content in content_of(data).items()}


def test_a_file_that_shrinks_meanwhile_is_no_data_set(data, store):
    store.before_put = lambda key: (data / "frames.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"frames\.bin became shorter while it was pushed"):
        put_there(data, store)
    with pytest.raises(DataError, match=r"cannot read .*gone"):
        push(data, ["gone"], store, overwrite=False, parallel=1, count=lambda done, total: None)


def test_a_fetch_that_was_cut_brings_only_what_is_missing(data, store, settings):
    put_there(data, store)
    store.before_get = raises_after(4, InfrastructureError("the network is gone"))
    with pytest.raises(InfrastructureError, match="network"):
        fetched(store, settings)
    assert not [path for path in cache_root(settings).iterdir() if not path.name.startswith(".")]
    store.before_get = lambda key: None
    first = pieces_got(store)
    store.gets.clear()
    assert content_of(fetched(store, settings)) == content_of(data)
    assert first
    assert not set(first) & set(pieces_got(store))


def test_half_written_bytes_of_a_killed_fetch_are_fetched_again(data, store, settings):
    index = put_there(data, store)
    partial = cache_root(settings) / f".{index.digest[:32]}.partial"
    shutil.copytree(data, partial)
    content = bytearray((data / "frames.bin").read_bytes())
    content[PIECE_BYTES + 7 : PIECE_BYTES + 99] = bytes(92)
    (partial / "frames.bin").write_bytes(bytes(content))
    assert content_of(fetched(store, settings)) == content_of(data)
    assert pieces_got(store) == [piece.key for piece in index.pieces if piece.offset == PIECE_BYTES]


@pytest.mark.parametrize("damage", ["flipped", "cut", "refused"])
def test_wrong_bytes_are_asked_for_again_and_refused_the_second_time(data, store, settings, damage):
    index = put_there(data, store)
    bad = next(piece.key for piece in index.pieces if piece.offset == PIECE_BYTES)
    left = [1]

    def spoil(key, content):
        if key != bad or not left[0]:
            return content
        left[0] -= 1
        if damage == "refused":
            raise StoreDamaged("its own checksum")
        return content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:]

    store.after_get = spoil
    left[0] = 2
    with pytest.raises(DataError, match=rf"{store.url}/{bad} \(frames\.bin\) is damaged: its digest was wrong 2 times"):
        fetched(store, settings)
    left[0] = 1
    assert content_of(fetched(store, settings)) == content_of(data)
    assert store.gets.count(bad) == 4


def test_a_damaged_piece_in_the_store_is_mended_by_pushing_with_overwrite(data, store, settings):
    index = put_there(data, store)
    piece = next(piece for piece in index.pieces if piece.file == "names.txt")
    store.put(piece.key, [b"x" * piece.size_bytes])
    with pytest.raises(DataError, match=r"names\.txt.*push the data again with --overwrite"):
        fetched(store, settings)
    assert put_there(data, store, overwrite=True) == index
    assert content_of(fetched(store, settings)) == content_of(data)


def test_a_piece_that_is_gone_is_bad_data_but_a_replaced_data_set_is_worth_a_retry(data, store, settings, tmp_path):
    index = put_there(data, store)
    store.delete([index.pieces[1].key])
    with pytest.raises(DataError, match=r"pieces/.* \(frames\.bin\) is missing"):
        fetched(store, settings)
    put_there(data, store, overwrite=True)
    shutil.rmtree(cache_root(settings))
    other = make_data(tmp_path / "other", seed=1)

    def replace(key):
        if key != INDEX:
            store.before_get = lambda key: None
            put_there(other, store, overwrite=True)

    store.before_get = replace
    with pytest.raises(InfrastructureError, match="was replaced while it was fetched; start again"):
        fetched(store, settings.model_copy(update={"s3": S3Settings(parallel=1)}))
    assert content_of(fetched(store, settings)) == content_of(other)


@pytest.mark.parametrize("damage", ["cut", "longer", "gone"])
def test_a_cached_file_of_the_wrong_size_is_fetched_again(data, store, settings, damage):
    index = put_there(data, store)
    file = fetched(store, settings) / "frames.bin"
    content = file.read_bytes()
    {
        "cut": lambda: file.write_bytes(content[: PIECE_BYTES + 5]),
        "longer": lambda: file.write_bytes(content + b"more"),
        "gone": lambda: file.unlink(),
    }[damage]()
    store.gets.clear()
    assert content_of(fetched(store, settings)) == content_of(data)
    lost = {"cut": [1, 2], "longer": [], "gone": [0, 1, 2]}[damage]
    frames = [piece.key for piece in index.pieces if piece.file == "frames.bin"]
    assert sorted(pieces_got(store)) == sorted(frames[number] for number in lost)


def test_a_flipped_byte_in_the_cache_is_found_and_mended_where_that_is_asked_for(data, store, settings):
    put_there(data, store)
    file = fetched(store, settings) / "frames.bin"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(bytes(content))
    store.gets.clear()
    fetched(store, settings)
    assert store.gets == [INDEX]
    assert content_of(fetched(store, settings, verify=True)) == content_of(data)
    assert len(pieces_got(store)) == 1


def test_of_several_at_once_one_fetches_and_the_others_wait(data, store, settings, monkeypatch):
    put_there(data, store)
    waits = threading.Semaphore(0)
    monkeypatch.setattr(remote, "_say_waiting", lambda url: waits.release())

    def let_others_come(key):
        if key != INDEX and not come.is_set():
            assert all(waits.acquire(timeout=30) for _ in range(2))
            come.set()

    come = threading.Event()
    store.before_get = let_others_come
    found = []
    one_piece_at_a_time = settings.model_copy(update={"s3": S3Settings(parallel=1)})
    threads = [threading.Thread(target=lambda: found.append(fetched(store, one_piece_at_a_time))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert sorted(pieces_got(store)) == sorted(set(pieces_got(store)))


def test_only_the_first_rank_of_a_node_says_that_it_waits(monkeypatch, capsys):
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        remote._say_waiting("s3://bucket/data")
        assert capsys.readouterr().err.count("waiting for another process") == lines


def test_a_full_disk_names_folder_and_setting(data, store, settings, monkeypatch):
    put_there(data, store)
    cache = cache_root(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PIECE_BYTES, hard))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(InfrastructureError, match=f"cannot write {cache}/.* `cache` chooses another folder"):
            fetched(store, settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    usage = shutil.disk_usage(cache)._replace(free=1000)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(InfrastructureError, match=f"{cache} has 1.0 kB free, the data need .* kB; .*`cache`"):
            fetched(store, settings)
    assert content_of(fetched(store, settings)) == content_of(data)


def test_a_cache_that_cannot_be_made_names_the_setting(data, store, tmp_path, monkeypatch):
    put_there(data, store)
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match=r"cannot write .*file/cache.*`cache`"):
        fetched(store, SignsSettings(cache=str(tmp_path / "file" / "cache")))
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(SettingsError, match=r"cache is ~/.cache/trainer, but this user has no home folder"):
        cache_root(SignsSettings())


def test_an_index_reads_back_and_every_flipped_bit_is_seen(data, store):
    index = put_there(data, store)
    stored = store.get(INDEX)
    assert DataIndex.from_bytes(stored) == index
    assert index.sizes == {name: (data / name).stat().st_size for name in NAMES}
    for position in range(0, len(stored), 7):
        changed = bytearray(stored)
        changed[position] ^= 1
        with pytest.raises(SealError):
            DataIndex.from_bytes(bytes(changed))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../b", ".hidden", "a//b", "a/", "", "a\\b"])
def test_an_index_that_leads_out_of_the_folder_is_refused(store, settings, name):
    piece = {"size_bytes": 1, "sha256": "00" * 32}
    store.put(INDEX, [sealed({"format": 1, "files": {name: [piece]}})])
    with pytest.raises(DataError, match=r"DATASET.json is damaged .*has a file of the name"):
        fetched(store, settings)


@pytest.mark.parametrize("body", [{"format": 1}, {"format": 1, "files": {}}, {"format": 1, "files": {"a": [{}]}}])
def test_an_index_that_says_nothing_is_refused(store, settings, body):
    store.put(INDEX, [sealed(body)])
    with pytest.raises(DataError, match=r"names no files|lacks a field"):
        fetched(store, settings)
    store.put(INDEX, [sealed({"format": 2, "files": {}})])
    with pytest.raises(DataError, match="has format 2, this version reads 1"):
        fetched(store, settings)


def test_pieces_cover_a_file_whatever_its_size():
    for size in (0, 1, 9, 10, 11, 35):
        pieces = plan({"a": size}, 10)
        assert [piece.offset for piece in pieces] == list(range(0, max(size, 1), 10))
        assert sum(piece.size_bytes for piece in pieces) == size
    assert plan({"b": 1, "a": 1}, 10) == (Piece("a", 0, 1), Piece("b", 0, 1))


def test_a_file_url_is_a_folder_and_a_path_stays_what_it_is(tmp_path, settings):
    assert local_path(f"file://{tmp_path}/set/", settings) == tmp_path / "set"
    assert local_path("file://data/set", settings) == Path("data/set")
    assert local_path("data/set", settings) == Path("data/set")
    assert split_url("s3://bucket/data/set/") == ("s3", "bucket/data/set")


@pytest.mark.parametrize("url", ["gs://bucket/data", "s3://", "file://", "s3:///"])
def test_a_url_that_means_nothing_is_a_wrong_setting(url, settings):
    with pytest.raises(SettingsError, match=f"^{url} is no place for data"):
        local_path(url, settings)


def test_credentials_in_a_url_are_refused_and_not_repeated(settings):
    with pytest.raises(SettingsError, match="must not hold credentials") as caught:
        local_path("s3://key:secret@bucket/data", settings)
    assert "secret" not in str(caught.value)


def test_nothing_is_fetched_where_data_are_no_url(tmp_path):
    assert not fetch(SignsSettings(data={"path": str(tmp_path / "nowhere")}))
    assert not fetch(SignsSettings(data={"path": f"file://{tmp_path}/nowhere"}))
    assert not fetch(SignsSettings())
    assert not fetch(PlainSettings())
