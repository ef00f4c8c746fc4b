"""Data sets in a real S3 server: pushed, fetched once a node, cut, killed, damaged, trained on."""

import os
import signal

import numpy as np
import pytest

from tests.s3.proxy import Answer, Cut, FaultProxy, Flip, Reset, Stall
from tests.toy import fork_ranks, wait_for
from trainer.checkpoint.stores import open_store
from trainer.cli import main
from trainer.config.signs import SignsSettings
from trainer.errors import DataError, InfrastructureError
from trainer.run import train_settings
from trainer.tasks import remote
from trainer.tasks.data_index import INDEX
from trainer.tasks.push import push
from trainer.tasks.remote import cache_root, fetch, local_path

NAMES = ("frames.bin", "names.txt")
PIECE_BYTES = 2**18
NUM_PIECES = 5
"""Three and a half of frames.bin, and names.txt."""
SMALL = ["--words", "3", "--signers", "2", "--repetitions", "3"]
TINY = {
    "batch_size": 8,
    "model": {"size": "t_1_1"},
    "output": {"export": [], "report": False},
    "telemetry": {"progress": "off", "tensorboard": "off"},
}

pytestmark = pytest.mark.usefixtures("s3_env")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr("trainer.tasks.push.PIECE_BYTES", PIECE_BYTES)


@pytest.fixture
def proxy(s3_server):
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def url(bucket):
    return f"s3://{bucket}/data/set"


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "frames.bin").write_bytes(np.random.default_rng(0).bytes(PIECE_BYTES * 7 // 2))
    (folder / "names.txt").write_text("some\nnames\n" * 1000)
    return folder


@pytest.fixture
def settings(tmp_path, url, proxy):
    """Of a run with these data, by way of the proxy; a request is tried once, a piece at a time."""
    s3 = {"endpoint": proxy.endpoint, "tries": 1, "parallel": 1}
    return SignsSettings(cache=str(tmp_path / "cache"), data={"path": url}, s3=s3)


def put_there(data, url, settings, overwrite=False):
    store = open_store(url, settings.s3)
    return push(data, NAMES, store, overwrite=overwrite, parallel=1, count=lambda done, total: None)


def keys_asked_for(proxy, method="GET"):
    """Keys below the data set's place of all requests for objects so far; forgets them."""
    found = [one.target.partition("?")[0].partition("/set/")[2] for one in proxy.requests if one.method == method]
    proxy.requests.clear()
    return [key for key in found if key]


def assert_fetched(data, url, settings):
    folder = local_path(url, settings)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in data.iterdir()
    }


def test_pieces_are_pushed_once_each_and_fetched_once(data, url, settings, proxy):
    index = put_there(data, url, settings)
    keys = [piece.key for piece in index.pieces]
    assert sorted(keys_asked_for(proxy, "PUT")) == sorted([*keys, INDEX])
    assert put_there(data, url, settings) is None
    assert keys_asked_for(proxy, "PUT") == []
    assert_fetched(data, url, settings)
    assert sorted(keys_asked_for(proxy)) == sorted([*keys, INDEX])
    local_path(url, settings)
    assert keys_asked_for(proxy) == [INDEX]


@pytest.mark.parametrize("fault", [Reset(), Cut(1000), Answer(503, "SlowDown")])
def test_a_fetch_that_the_network_cut_brings_the_rest_later(fault, data, url, settings, proxy):
    put_there(data, url, settings)
    proxy.requests.clear()
    rule = proxy.add(fault, method="GET", path="pieces/", first=3, times=None)
    with pytest.raises(InfrastructureError):
        local_path(url, settings)
    assert rule.hits
    rule.heal()
    first = keys_asked_for(proxy)[1:3]
    assert_fetched(data, url, settings)
    rest = keys_asked_for(proxy)[1:]
    assert len(rest) == NUM_PIECES - 2
    assert not set(first) & set(rest)


def test_a_push_that_the_network_cut_goes_on_later(data, url, settings, proxy):
    rule = proxy.add(Reset(body_bytes=1000), method="PUT", path="pieces/", first=3, times=None)
    with pytest.raises(InfrastructureError):
        put_there(data, url, settings)
    with pytest.raises(DataError, match="there is no data set at"):
        local_path(url, settings)
    rule.heal()
    assert rule.hits
    proxy.requests.clear()
    put_there(data, url, settings)
    assert len(keys_asked_for(proxy, "PUT")) == NUM_PIECES - 2 + 1
    assert_fetched(data, url, settings)


def test_a_fetch_goes_on_after_an_outage_of_the_server(data, own_s3_server, tmp_path, monkeypatch):
    for name, value in own_s3_server.env().items():
        monkeypatch.setenv(name, value)
    own_s3_server.client().create_bucket(Bucket="bucket")
    settings = SignsSettings(cache=str(tmp_path / "cache"), s3={"tries": 1, "parallel": 1})
    url = "s3://bucket/data/set"
    put_there(data, url, settings)
    store = open_store(url, settings.s3)
    get = store.get

    def get_and_stop(key):
        content = get(key)
        if store.requests["GetObject"] == 3:
            own_s3_server.stop()
        return content

    monkeypatch.setattr(store, "get", get_and_stop)
    with pytest.raises(InfrastructureError, match="no connection to"):
        remote.fetched(store, settings)
    own_s3_server.start()
    assert_fetched(data, url, settings)


def test_a_killed_fetch_leaves_no_folder_and_is_taken_up(data, url, settings, proxy):
    put_there(data, url, settings)
    proxy.requests.clear()
    rule = proxy.add(Stall(body_bytes=100_000), method="GET", path="pieces/", first=3)
    (pid,) = fork_ranks(lambda rank: fetch(settings), 1)
    rule.wait()
    os.kill(pid, signal.SIGKILL)
    assert wait_for([pid]) == [128 + signal.SIGKILL]
    rule.heal()
    assert [path for path in cache_root(settings).iterdir() if not path.name.startswith(".")] == []
    proxy.requests.clear()
    assert_fetched(data, url, settings)
    assert len(keys_asked_for(proxy)) == 1 + NUM_PIECES - 2


def test_of_two_processes_one_fetches(data, url, settings, proxy, monkeypatch):
    put_there(data, url, settings)
    proxy.requests.clear()
    rule = proxy.add(Stall(passed=True), method="GET", path="pieces/", times=1)
    reader, writer = os.pipe()
    monkeypatch.setattr(remote, "_say_waiting", lambda url: os.write(writer, b"w"))
    pids = fork_ranks(lambda rank: fetch(settings), 2)
    assert os.read(reader, 1) == b"w"
    rule.heal()
    assert wait_for(pids) == [0, 0]
    asked = keys_asked_for(proxy)
    assert asked.count(INDEX) == 2
    assert len(asked) == 2 + NUM_PIECES
    assert_fetched(data, url, settings)


def test_a_byte_that_flips_on_the_way_is_fetched_again(data, url, settings, proxy):
    put_there(data, url, settings)
    proxy.requests.clear()
    rule = proxy.add(Flip(at=70_000, answer=True), method="GET", path="pieces/", first=2)
    assert_fetched(data, url, settings)
    assert rule.hits == 1
    assert len(keys_asked_for(proxy)) == 1 + NUM_PIECES + 1


def test_a_byte_that_flipped_in_the_store_is_refused_by_name_and_mended_by_a_push(
    data, url, settings, bucket, s3_server, proxy
):
    index = put_there(data, url, settings)
    bad = index.pieces[1]
    content = bytearray((data / "frames.bin").read_bytes()[bad.offset : bad.offset + bad.size_bytes])
    content[1000] ^= 1
    s3_server.client().put_object(Bucket=bucket, Key=f"data/set/{bad.key}", Body=bytes(content))
    with pytest.raises(DataError, match=rf"{url}/{bad.key} \(frames.bin\) is damaged.*--overwrite"):
        local_path(url, settings)
    put_there(data, url, settings, overwrite=True)
    proxy.requests.clear()
    assert_fetched(data, url, settings)
    assert bad.key in keys_asked_for(proxy)


def test_somebody_elses_files_are_left_alone(data, url, settings, bucket, s3_server):
    s3_server.client().put_object(Bucket=bucket, Key="data/set/theirs/notes.txt", Body=b"mine")
    with pytest.raises(DataError, match="holds other files"):
        put_there(data, url, settings, overwrite=True)
    listed = s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert [one["Key"] for one in listed] == ["data/set/theirs/notes.txt"]


def test_a_bucket_that_is_not_there_is_said_before_anything_is_packed(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRAINER__CACHE", str(tmp_path / "cache"))
    assert main(["prepare", "--synthetic", "--to", "s3://no-such-bucket/set", *SMALL]) == 5
    assert "there is no such bucket" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_the_commands_take_a_url_wherever_they_take_a_packed_folder(url, bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRAINER__CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "--synthetic", "--to", url, *SMALL]) == 0
    assert f"in {url}; train: --data {url}" in capsys.readouterr().out
    assert main(["prepare", "--synthetic", "--to", url, *SMALL]) == 0
    assert "nothing to push" in capsys.readouterr().out
    assert main(["prepare", url, "--check", "--show", "1"]) == 0
    assert "nothing odd found" in capsys.readouterr().out
    assert (tmp_path / "set-pictures" / "word-1.png").is_file()
    assert main(["config", "--plan", "--data", url, "--batch_size", "8"]) == 0
    assert "2 steps" in capsys.readouterr().out
    assert main(["prepare", url, "--to", f"file://{tmp_path}/copy"]) == 0
    assert main(["prepare", "copy", "--to", f"s3://{bucket}/again"]) == 0
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
    capsys.readouterr()
    assert main(["prepare", f"s3://{bucket}/again", "--check", "--json"]) == 0
    assert "fetching" not in capsys.readouterr().err  # the same data, so the same folder of the cache
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()
    }


def test_two_ranks_train_on_a_url_and_end_with_the_weights_of_a_folder(url, bucket, tmp_path, proxy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER__CACHE", str(tmp_path / "cache"))
    assert main(["prepare", "--synthetic", "signs", "--to", url, *SMALL]) == 0
    of = {"s3": ({"path": url}, f"s3://{bucket}/runs"), "file": ({"path": "signs"}, f"file://{tmp_path}/runs")}
    digests = {}
    for kind, (data, place) in of.items():
        settings = SignsSettings(
            **TINY, cache=str(tmp_path / "own"), data=data, run={"name": "run", "store": place},
            s3={"endpoint": proxy.endpoint},
        )  # fmt: skip
        assert wait_for(fork_ranks(lambda rank, settings=settings: train_settings(settings), 2)) == [0, 0]
        store = open_store(place)
        (manifest,) = [one.key for one in store.entries("run/checkpoints/") if one.key.endswith("MANIFEST.json")]
        digests[kind] = store.get(manifest.replace("MANIFEST.json", "model.safetensors"))
    assert digests["s3"] == digests["file"]
    pieces = [key for key in keys_asked_for(proxy) if key.startswith("pieces/")]
    assert len(pieces) == len(set(pieces)) > 0
