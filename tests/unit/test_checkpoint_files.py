import errno
import fcntl
import os
import resource
import signal
from pathlib import Path

import pytest

from trainer.checkpoint.files import FileStore, _create_locked
from trainer.checkpoint.store import StoreConflict, StoreMissing
from trainer.checkpoint.stores import open_store
from trainer.errors import InfrastructureError, SettingsError


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "store")


def hidden(store):
    return sorted(path.name for path in store.path.rglob(".~*"))


def in_child(work):
    """Run `work` in a forked child; its exit status (what it returned, or minus the signal)."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = work() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_was_put_comes_back_whole(store):
    store.put("run/a/b.bin", [b"one", memoryview(b"two"), bytearray(b"")])
    assert store.get("run/a/b.bin") == b"onetwo"
    assert store.fetch("run/a/b.bin", Path("unused")).read_bytes() == b"onetwo"
    assert hidden(store) == []


def test_a_put_syncs_the_file_once_before_it_is_seen_and_the_folder_after(store, monkeypatch):
    target = store.path / "r" / "x"
    store.put("r/other", [b""])
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append((os.path.isdir(f"/proc/self/fd/{fd}"), target.exists())), real(fd))
    )
    store.put("r/x", [b"1", b"2"])
    assert synced == [(False, False), (True, True)]
    synced.clear()
    store.delete(["r/x"])
    assert synced == [(True, False)]


def test_a_second_put_replaces_and_only_new_refuses(store):
    store.put("k", [b"1"])
    store.put("k", [b"2"])
    with pytest.raises(StoreConflict):
        store.put("k", [b"3"], only_new=True)
    assert store.get("k") == b"2"
    assert hidden(store) == []


def test_a_reader_of_the_old_object_keeps_it_whole_while_it_is_replaced(store):
    store.put("k", [b"old" * 1000])
    with (store.path / "k").open("rb") as reader:
        store.put("k", [b"new"])
        assert reader.read() == b"old" * 1000
    assert store.get("k") == b"new"


def test_missing_things_are_missing_not_failures(store):
    store.put("run/file", [b""])
    for key in ("nothing", "run", "run/file/below", "no/folder"):
        with pytest.raises(StoreMissing):
            store.get(key)
        with pytest.raises(StoreMissing):
            store.fetch(key, Path("unused"))
    assert list(store.entries("nothing/")) == []
    assert store.folders("nothing/") == []
    store.delete(["nothing", "run/file/below"])


def test_a_put_whose_chunks_fail_leaves_the_old_object_and_no_trace(store):
    store.put("k", [b"old"])

    def broken():
        yield b"new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.put("k", broken())
    assert store.get("k") == b"old"
    assert hidden(store) == []


def test_entries_are_sorted_by_key_and_cut_at_the_prefix(store):
    for key in ("a/x", "a-b/x", "ab/x", "a/y/z", "b"):
        store.put(key, [b"12"])
    assert [entry.key for entry in store.entries("")] == ["a-b/x", "a/x", "a/y/z", "ab/x", "b"]
    assert [entry.key for entry in store.entries("a/")] == ["a/x", "a/y/z"]
    assert [entry.key for entry in store.entries("a")] == ["a-b/x", "a/x", "a/y/z", "ab/x"]
    assert [entry.key for entry in store.entries("a/y")] == ["a/y/z"]
    assert next(store.entries("b")).size_bytes == 2


def test_folders_are_those_that_hold_objects_behind_a_name(store):
    for key in ("r/1/x", "r/2/x/y", "r/3/x", "r/file"):
        store.put(key, [b""])
    (store.path / "r" / "4").mkdir()
    (store.path / "r" / "5").mkdir()
    (store.path / "r" / "5" / ".~tmp-1-x").touch()
    assert store.folders("r/") == ["1", "2", "3"]
    assert store.folders("r/", after="1") == ["2", "3"]
    assert store.folders("r/", after="3") == []


def test_delete_takes_empty_folders_along_but_not_the_store(store):
    store.put("r/1/x", [b""])
    store.delete(["r/1/x"])
    assert list(store.path.iterdir()) == []


def test_a_read_only_store_is_one_line_with_path_and_reason(store, monkeypatch):
    store.put("r/x", [b"1"])
    real = os.open

    def refuse(path, flags, *rest, **more):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InfrastructureError) as caught:
        store.put("r/y", [b"1"])
    text = str(caught.value)
    assert str(store.path / "r" / "y") in text
    assert "Read-only file system" in text
    assert "run.store" in text
    assert "\n" not in text


def test_a_read_failure_is_not_a_missing_object(store, monkeypatch):
    store.put("r/x", [b"1"])

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(InfrastructureError, match=r"cannot read .*r/x: Input/output error"):
        store.get("r/x")


def test_a_full_disk_leaves_nothing_half_written(store):
    store.put("r/x", [b"old"])

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            store.put("r/x", [b"a" * 6_000, b"b" * 6_000])
        except InfrastructureError as error:
            return 7 if "File too large" in str(error) else 8
        return 9

    assert in_child(fill) == 7
    assert store.get("r/x") == b"old"
    assert hidden(store) == []


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InfrastructureError, match="Not a directory"):
        FileStore(tmp_path / "file" / "store").put("a", [b""])


def test_a_lock_is_seen_by_other_processes_and_ends_with_its_holder(store):
    assert in_child(lambda: 0 if store.claim("r/owner") else 1) == 0
    assert store.claim("r/owner")
    assert store.claim("r/owner"), "the holder may ask again"
    assert in_child(lambda: 1 if FileStore(store.path).claim("r/owner") else 0) == 0
    assert list(store.entries("")) == []


def test_a_forked_worker_does_not_keep_its_dead_parents_lock(store):
    ready, wake = os.pipe(), os.pipe()

    def parent():
        assert store.claim("r/owner")
        if os.fork() == 0:
            os.close(wake[1])
            os.write(ready[1], b"x")
            os.read(wake[0], 1)  # outlives the parent
            os._exit(0)
        os.read(ready[0], 1)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(parent) == -signal.SIGKILL
    assert store.claim("r/owner")
    os.write(wake[1], b"x")


def test_sweep_takes_temporary_files_of_the_dead_and_leaves_those_of_the_living(store):
    def die():
        def chunks():
            yield b"half"
            os.kill(os.getpid(), signal.SIGKILL)
            yield b""

        store.put("r/c/dead", chunks())

    assert in_child(die) == -signal.SIGKILL
    assert [name for name in hidden(store) if name.endswith("dead")]

    def writing():
        yield b"1"
        store.sweep("r/", lambda _: True)
        assert not [name for name in hidden(store) if name.endswith("dead")]
        yield b"2"

    store.put("r/c/living", writing())
    assert store.get("r/c/living") == b"12"
    assert hidden(store) == []


def test_a_writer_does_not_take_a_file_that_a_sweep_is_about_to_remove(tmp_path, monkeypatch):
    """The sweep came between making and locking, and holds the lock when the writer tries."""
    path = tmp_path / ".~tmp-x"
    path.touch()
    sweeping = os.open(path, os.O_WRONLY)
    fcntl.flock(sweeping, fcntl.LOCK_EX)
    tries = []

    def opened(*arguments):
        tries.append(arguments)
        if len(tries) == 2:
            path.unlink()
            os.close(sweeping)
        return os_open(*arguments)

    os_open = os.open
    monkeypatch.setattr("trainer.checkpoint.files.os.open", opened)
    descriptor = _create_locked(path)
    if len(tries) == 1:
        path.unlink()
    assert os.fstat(descriptor).st_nlink == 1
    os.close(descriptor)


def test_store_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_store("file://checkpoints/x").url == f"file://{tmp_path}/checkpoints/x"
    assert open_store(f"file://{tmp_path}/abs").url == f"file://{tmp_path}/abs"
    assert open_store("s3://bucket/x/").url == "s3://bucket/x"
    for url in ("checkpoints", "file://", "https://x/y"):
        with pytest.raises(SettingsError, match=r"run\.store is"):
            open_store(url)
    for url in ("s3://key:secret-7d1f@bucket/x", "s3://key@bucket", "file://key:secret-7d1f@x"):
        with pytest.raises(SettingsError, match="must not hold credentials") as error:
            open_store(url)
        assert "7d1f" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
