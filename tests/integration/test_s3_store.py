"""The `s3://` store against a real S3 server: the protocol of all stores, and what only an object store has."""

import gc
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore import endpoint

from tests.s3.objects import MIB, PART, content, pieces
from tests.s3.proxy import Answer, Cut, FaultProxy, Reset
from tests.s3.tls import TlsFront
from trainer.checkpoint.store import Entry, Store, StoreConflict, StoreDamaged, StoreMissing
from trainer.checkpoint.stores import open_store
from trainer.config.s3 import S3Settings
from trainer.errors import InfrastructureError, StoreRefusedError


@pytest.fixture
def s3(s3_env, bucket):
    return open_store(f"s3://{bucket}/some/prefix", PART)


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    if request.param == "file":
        return open_store(f"file://{tmp_path}/store")
    return request.getfixturevalue("s3")


@pytest.fixture
def proxy(s3_env, s3_server, monkeypatch):
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def in_child(work) -> int:
    """Exit status of a forked child that does `work`; 99 for an exception."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = work() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class TestEveryStore:
    """The same checks for every kind."""

    def test_what_was_put_comes_back_whole(self, store: Store, tmp_path):
        store.put("run/a/b.bin", [b"one", memoryview(b"two"), bytearray(b"")])
        assert store.get("run/a/b.bin") == b"onetwo"
        assert store.fetch("run/a/b.bin", tmp_path / "copy").read_bytes() == b"onetwo"

    def test_an_object_may_be_empty(self, store: Store, tmp_path):
        store.put("empty", [])
        assert store.get("empty") == b""
        assert store.fetch("empty", tmp_path / "copy").read_bytes() == b""
        assert [entry.size_bytes for entry in store.entries("")] == [0]

    def test_names_keep_their_characters(self, store: Store):
        names = ["a b+c%20&=?#.json", "größe/日本.txt", "r/-x~_!*'(),;:@$"]
        for name in names:
            store.put(name, [name.encode()])
        assert [store.get(name).decode() for name in names] == names
        assert sorted(entry.key for entry in store.entries("")) == sorted(names)
        store.delete(names)
        assert list(store.entries("")) == []

    def test_a_second_put_replaces_and_only_new_refuses(self, store: Store):
        store.put("k", [b"1"], only_new=True)
        store.put("k", [b"2"])
        for same_or_not in (b"2", b"3"):
            with pytest.raises(StoreConflict):
                store.put("k", [same_or_not], only_new=True)
        assert store.get("k") == b"2"

    def test_missing_things_are_missing_not_failures(self, store: Store, tmp_path):
        store.put("run/file", [b""])
        for key in ("nothing", "run", "run/file/below", "no/folder"):
            with pytest.raises(StoreMissing, match=key):
                store.get(key)
            with pytest.raises(StoreMissing, match=key):
                store.fetch(key, tmp_path / "copy")
        assert list(store.entries("nothing/")) == []
        assert store.folders("nothing/") == []
        store.delete(["nothing", "run/file/below"])
        store.delete([])
        store.delete(["nothing"])
        assert not (tmp_path / "copy").exists()

    def test_chunks_that_fail_leave_the_old_object_and_raise_their_own_error(self, store: Store):
        store.put("k", [b"old"])

        def broken(size):
            yield bytes(size)
            raise OSError(5, "mine", "file of the caller")

        for size in (10, 12 * MIB):
            with pytest.raises(Exception, match="mine"):
                store.put("k", broken(size))
        assert store.get("k") == b"old"
        assert [entry.key for entry in store.entries("")] == ["k"]

    def test_listing_is_by_prefix_sorted_with_size_and_time(self, store: Store):
        before = time.time()
        for key in ("r/b/2", "r/b/10", "r/bb", "r/a", "s"):
            store.put(key, [key.encode()])
        assert [entry.key for entry in store.entries("r/b")] == ["r/b/10", "r/b/2", "r/bb"]
        assert [entry.key for entry in store.entries("")] == ["r/a", "r/b/10", "r/b/2", "r/bb", "s"]
        (entry,) = store.entries("r/a")
        assert entry.size_bytes == 3
        assert before - 2 < entry.modified < time.time() + 2

    def test_folders_hold_objects_and_come_after_a_name(self, store: Store):
        for key in ("r/1/x", "r/2/x", "r/2/y", "r/3/deep/x", "r/file", "other/x"):
            store.put(key, [b""])
        assert store.folders("r/") == ["1", "2", "3"]
        assert store.folders("r/", after="1") == ["2", "3"]
        assert store.folders("r/", after="3") == []
        assert store.folders("") == ["other", "r"]

    def test_a_lock_can_be_claimed_and_let_go(self, store: Store):
        assert store.claim("r/owner")
        store.release("r/owner")
        store.release("r/owner")
        assert list(store.entries("")) == []


def test_the_url_names_bucket_and_prefix(s3_env, bucket):
    for place, url in ((f"{bucket}/a/b/", f"s3://{bucket}/a/b"), (bucket, f"s3://{bucket}"), (bucket + "/",) * 2):
        store = open_store(f"s3://{place}")
        assert store.url == (url if place != url else f"s3://{bucket}")
        store.put("k", [b"1"])
        assert store.get("k") == b"1"
        assert not store.has_locks
    assert repr(store) == f"S3Store('s3://{bucket}')"


def test_a_store_sees_and_touches_nothing_outside_of_its_prefix(s3, s3_server, bucket):
    client = s3_server.client()
    others = ["some/prefix2/r/1/x", "some/other", "top"]
    if s3_server.can_stop:  # a server that keeps objects as files refuses this one
        others.append("some/prefix")
    for key in others:
        client.put_object(Bucket=bucket, Key=key, Body=b"theirs")
    client.create_multipart_upload(Bucket=bucket, Key="some/prefix2/upload")
    s3.put("r/1/x", [b"ours"])
    assert [entry.key for entry in s3.entries("")] == ["r/1/x"]
    assert s3.folders("") == ["r"]
    s3.sweep("", lambda _: True)
    s3.delete(["r/1/x", "top"])
    assert [found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]] == sorted(others)
    assert [one["Key"] for one in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["some/prefix2/upload"]


def test_what_consoles_write_to_show_a_folder_is_no_object(s3, s3_server, bucket):
    s3_server.client().put_object(Bucket=bucket, Key="some/prefix/r/", Body=b"")
    s3.put("r/x", [b""])
    assert [entry.key for entry in s3.entries("")] == ["r/x"]
    assert s3.folders("r/") == []


@pytest.mark.parametrize("size", [5 * MIB - 1, 5 * MIB, 15 * MIB, 17 * MIB + 3])
def test_sizes_around_parts_arrive_whole(s3, tmp_path, size):
    data = content(size)
    s3.put("r/model", pieces(data, MIB + 7))
    num_parts = s3.requests["UploadPart"] - (1 if s3.requests["AbortMultipartUpload"] else 0)
    assert num_parts == (0 if size < 5 * MIB else -(-size // (5 * MIB)))
    assert s3.requests["CompleteMultipartUpload"] == (1 if num_parts else 0)
    before = s3.requests["GetObject"]
    assert s3.fetch("r/model", tmp_path / "model").read_bytes() == data
    assert s3.requests["GetObject"] - before == max(num_parts, 1), "large ones are read by parts"
    assert s3.notices == s3.notices.__class__()


def test_the_first_object_may_be_a_large_one_and_readers_never_see_a_part_of_it(s3, bucket, s3_server):
    seen = []

    def chunks():
        for piece in pieces(content(12 * MIB), MIB):
            seen.append([entry.key for entry in s3.entries("")])
            yield piece

    s3.put("r/model", chunks())
    assert len(seen) == 12
    assert not any(seen)
    assert [entry.size_bytes for entry in s3.entries("")] == [12 * MIB]
    assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=bucket)


def test_memory_beside_the_source_is_a_few_parts(s3):
    data = memoryview(bytearray(os.urandom(1024) * (40 * 1024)))
    s3.put("warm", [bytes(11 * MIB)])  # threads and libraries
    gc.collect()
    peak, begin, done = [0], rss_anon(), threading.Event()

    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], rss_anon())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        s3.put("r/model", pieces(data, MIB))
    finally:
        done.set()
        watcher.join()
    # Two under way, one being filled, one for what the allocator keeps; and what each thread holds while it sends.
    assert peak[0] - begin < (4 * 5 + 12) * MIB


def rss_anon() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_when_a_part_fails_no_more_chunks_are_asked_for(proxy, bucket):
    rule = proxy.add(Answer(400, "InvalidPart"), method="PUT", path="partNumber=2", times=None)
    store = open_store(f"s3://{bucket}/p", PART)
    store.put("small", [b""])
    asked = []

    def chunks():
        for number in range(200):
            asked.append(number)
            if number == 20:
                rule.wait()
            yield bytes(MIB)

    with pytest.raises(InfrastructureError, match="InvalidPart"):
        store.put("r/model", chunks())
    assert len(asked) < 60
    assert store.requests["AbortMultipartUpload"] == 1


def test_only_new_for_a_large_object_is_a_look_beforehand(s3):
    data = content(6 * MIB)
    s3.put("r/model", [data], only_new=True)
    with pytest.raises(StoreConflict):
        s3.put("r/model", [bytes(6 * MIB)], only_new=True)
    assert s3.get("r/model") == data


def test_of_eight_that_create_one_key_at_once_all_others_lose_later(s3):
    """Conditional writes are no lock: Swift lets one to eight of them win (AWS by its documentation one)."""
    barrier = threading.Barrier(8)

    def create(number):
        barrier.wait()
        try:
            s3.put("r/owner", [str(number).encode()], only_new=True)
        except StoreConflict:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert int(s3.get("r/owner")) in winners
    with pytest.raises(StoreConflict):
        s3.put("r/owner", [b"late"], only_new=True)


@pytest.mark.parametrize("tries", [1, 5])
def test_a_lost_answer_to_our_own_conditional_write_is_no_conflict(proxy, bucket, tries):
    store = open_store(f"s3://{bucket}/p", S3Settings(tries=tries))
    store.put("other", [b"somebody's"])
    rule = proxy.add(Reset(passed=True), method="PUT", path="/owner")
    if tries == 1:
        with pytest.raises(InfrastructureError, match="broke"):
            store.put("owner", [b"me"], only_new=True)
    store.put("owner", [b"me"], only_new=True)
    assert rule.hits == 1
    assert store.get("owner") == b"me"
    for key, mine in (("owner", b"me"), ("other", b"me")):
        with pytest.raises(StoreConflict):
            store.put(key, [mine], only_new=True)


def test_a_lost_answer_does_not_hide_another_writers_object(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", S3Settings(tries=1))
    store.put("other", [b"1"])
    proxy.add(Reset(), method="PUT", path="/owner")
    with pytest.raises(InfrastructureError):
        store.put("owner", [b"me"], only_new=True)
    open_store(f"s3://{bucket}/p").put("owner", [b"them"])
    with pytest.raises(StoreConflict):
        store.put("owner", [b"me"], only_new=True)
    assert store.get("owner") == b"them"


def test_a_body_that_breaks_off_is_read_again(proxy, bucket, tmp_path):
    store = open_store(f"s3://{bucket}/p", PART)
    data = content(11 * MIB)
    store.put("small", [data[:1000]])
    store.put("large", [data])
    rules = [
        proxy.add(Cut(100), method="GET", path="/small", times=2),
        proxy.add(Cut(MIB), method="GET", path="/large", times=2),
    ]
    assert store.get("small") == data[:1000]
    assert store.fetch("large", tmp_path / "large").read_bytes() == data
    assert [rule.hits for rule in rules] == [2, 2]


def test_a_body_that_always_breaks_off_is_an_error_and_leaves_no_file(proxy, bucket, tmp_path):
    store = open_store(f"s3://{bucket}/p", S3Settings(tries=2))
    store.put("k", [bytes(1000)])
    proxy.add(Cut(100), method="GET", path="/k", times=None)
    for read in (lambda: store.get("k"), lambda: store.fetch("k", tmp_path / "k")):
        with pytest.raises(InfrastructureError, match=rf"^cannot read s3://{bucket}/p/k: the connection .* broke"):
            read()
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_of_the_store_that_does_not_fit_is_damage(s3_env, bucket, monkeypatch, tmp_path):
    """Swift keeps no checksums, so the header that other servers send is added to its answer here."""
    store = open_store(f"s3://{bucket}/p", S3Settings(tries=2))
    store.put("k", [b"123456789"])
    real = endpoint.convert_to_response_dict

    def convert(response, model):
        if model.name == "GetObject":
            response.headers["x-amz-checksum-crc32"] = "AAAAAA=="
        return real(response, model)

    monkeypatch.setattr(endpoint, "convert_to_response_dict", convert)
    for read in (lambda: store.get("k"), lambda: store.fetch("k", tmp_path / "k")):
        with pytest.raises(StoreDamaged, match=rf"s3://{bucket}/p/k"):
            read()
    assert list(tmp_path.iterdir()) == []


PAGES = [10, pytest.param(1000, marks=pytest.mark.proof)]
"""Names of one answer: the server's own number in the long run, and one that is met sooner."""


@pytest.mark.parametrize("page", PAGES)
def test_as_many_folders_as_one_answer_names_cost_one_request(s3, page, monkeypatch):
    monkeypatch.setattr("trainer.checkpoint.s3.store._MAX_DELETES", page)
    if page != 1000:
        events = s3._bucket.connection.client().meta.events
        events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=page))
    names = [f"{step:012d}-0001-ab" for step in range(page + page // 5)]
    keys = [f"r/{name}/x" for name in names]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: s3.put(key, [b"1"]), keys))

    def counted(work, operation):
        before = s3.requests[operation]
        return work(), s3.requests[operation] - before

    assert counted(lambda: s3.folders("r/"), "ListObjectsV2") == (names, 2)
    newest = names[-page + 2 :]
    assert counted(lambda: s3.folders("r/", after=names[-page + 1]), "ListObjectsV2") == (newest, 1)
    assert counted(lambda: next(s3.entries("r/")).key, "ListObjectsV2") == (keys[0], 1), "pages come when they are due"
    assert counted(lambda: [entry.key for entry in s3.entries("r/")], "ListObjectsV2") == (keys, 2)
    assert counted(lambda: s3.delete(iter(keys[: page + 1])), "DeleteObjects")[1] == 1
    assert s3.requests["DeleteObject"] == 1
    assert [entry.key for entry in s3.entries("")] == keys[page + 1 :]


def test_a_key_that_cannot_be_deleted_is_named(proxy, bucket):
    store = open_store(f"s3://{bucket}/p", S3Settings())
    error = "<Error><Key>p/b</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    gone = "<Error><Key>p/a</Key><Code>NoSuchKey</Code><Message>no</Message></Error>"
    proxy.add(Answer(200, body=f"<DeleteResult>{gone}{error}</DeleteResult>"), method="POST")
    with pytest.raises(StoreRefusedError, match=rf"^cannot delete s3://{bucket}/p/b: access denied.*s3:DeleteObject"):
        store.delete(["a", "b", "c"])


def test_sweep_aborts_the_uploads_of_the_dead_and_no_others(s3, s3_server, bucket):
    client = s3_server.client()
    for key in ("some/prefix/r/c/dead", "some/prefix/r/c/living", "some/prefix/s/dead", "some/else/dead"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    asked: list[Entry] = []

    def is_dead(entry):
        asked.append(entry)
        return entry.key.endswith("dead")

    now = datetime.now(UTC).timestamp()
    s3.sweep("r/", is_dead)
    assert [(entry.key, entry.size_bytes) for entry in asked] == [("r/c/dead", 0), ("r/c/living", 0)]
    assert all(abs(entry.modified - now) < 60 for entry in asked)
    left = [one["Key"] for one in client.list_multipart_uploads(Bucket=bucket)["Uploads"]]
    assert sorted(left) == ["some/else/dead", "some/prefix/r/c/living", "some/prefix/s/dead"]


def test_an_upload_cut_off_by_a_kill_is_left_for_the_sweep(s3, s3_server, bucket):
    """And readers see nothing of it."""

    def die():
        def chunks():
            for number, piece in enumerate(pieces(bytes(40 * MIB), MIB)):
                if number == 24:  # the third part is taken only when an earlier one has arrived
                    os._exit(7)
                yield piece

        open_store(s3.url, PART).put("r/model", chunks())

    assert in_child(die) == 7
    assert list(s3.entries("")) == []
    client = s3_server.client()
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
    s3.sweep("", lambda _: True)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_a_forked_child_uses_connections_of_its_own(s3):
    """Also when another thread was making a client at the moment of the fork."""
    for number in range(6):
        s3.put(f"k{number}", [f"value {number}".encode()])

    parents = s3._bucket.connection.client()

    def read_all(is_child=True):
        assert (s3._bucket.connection.client() is parents) is not is_child
        return 0 if all(s3.get(f"k{n}") == f"value {n}".encode() for n in range(6)) else 1

    children = []
    with s3._bucket.connection._locks[os.getpid()]:
        for _ in range(2):
            child = os.fork()
            if child == 0:
                try:
                    os._exit(read_all())
                finally:
                    os._exit(99)
            children.append(child)
    assert read_all(is_child=False) == 0
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def test_threads_that_start_together_make_one_client(s3):
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda _: s3._bucket.connection.client(), range(8)))
    assert len(set(map(id, clients))) == 1


def test_through_tls_bytes_and_checksums_are_those_of_plain_http(s3_env, s3_server, bucket, tmp_path):
    """There the SDK sends a body in chunks with its checksum behind it."""
    data = content(11 * MIB)
    with TlsFront(s3_server.endpoint, tmp_path) as front:
        settings = S3Settings(endpoint=front.endpoint, ca_bundle=str(front.ca_bundle), part_mib=5)
        store = open_store(f"s3://{bucket}/p", settings)
        store.put("large", pieces(data, MIB))
        store.put("small", [b"1"], only_new=True)
        assert store.fetch("large", tmp_path / "large").read_bytes() == data
        assert store.get("small") == b"1"
        store.delete(["large", "small"])
        assert list(store.entries("")) == []
        assert not store.notices


def test_settings_reach_the_requests(proxy, bucket):
    settings = S3Settings(storage_class="STANDARD", region="eu-test-1", checksums="when_required")
    store = open_store(f"s3://{bucket}/p", settings)
    store.put("k", [b"1"])
    head = proxy.requests[0]  # the server then names its own region, and the SDK follows
    assert head.header("x-amz-storage-class") == "standard"
    assert "/eu-test-1/s3/" in head.header("authorization")
    assert "x-amz-checksum" not in head.raw.decode().lower()
    assert "trainer" in head.header("user-agent")
    assert head.target == f"/{bucket}/p/k"
    assert not head.header("expect"), "a small object is one round trip"


def test_objects_are_what_any_other_client_sees(s3, s3_server, bucket):
    s3.put("r/run.json", [json.dumps({"name": "r"}).encode()])
    body = s3_server.client().get_object(Bucket=bucket, Key="some/prefix/r/run.json")["Body"].read()
    assert json.loads(body) == {"name": "r"}
