"""The S3 store through a network that breaks: an object is right, old or absent, and what fails says so in our words.

Every case asserts that its fault struck, and looks at the result past the proxy.
"""

import hashlib
import os
import types
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.s3.fixtures import GivenS3, fresh_bucket
from tests.s3.proxy import Answer, Cut, Fault, FaultProxy, Flip, Reset, Rule, Stall
from trainer.checkpoint.manifest import FileRecord, FolderName, Manifest, utc_now
from trainer.checkpoint.restore import Rejected, verify_files
from trainer.checkpoint.run import CHECKPOINTS
from trainer.checkpoint.s3.store import S3Store
from trainer.checkpoint.store import StoreConflict
from trainer.config.s3 import S3Settings
from trainer.errors import InfrastructureError, StoreRefusedError

MIB = 1 << 20
SMALL = os.urandom(100_000)
LARGE = os.urandom(5 * MIB) + SMALL
"""Two parts."""
OLD = b"what was there before"
MANY = None
"""As often as it is asked."""

# Requests of a put in parts, and of a download in parts.
BEGIN = {"method": "POST", "path": r"\?uploads"}
SECOND_PART = {"method": "PUT", "path": r"partNumber=2"}
COMPLETE = {"method": "POST", "path": r"uploadId="}
SECOND_RANGE = {"method": "GET", "header": r"^range: bytes=5242880-"}

BUSY: dict[str, Fault] = {
    "500": Answer(500, "InternalError"),
    "503": Answer(503, "SlowDown"),
    "429": Answer(429, "TooManyRequests"),
    "502 of a balancer": Answer(502, body="<html>Bad Gateway</html>", kind="text/html"),
}
UNHEARD: dict[str, Fault] = {"reset": Reset(), "stall": Stall(), "503": BUSY["503"]}
AMBIGUOUS: dict[str, Fault] = {
    "reset once it is done": Reset(passed=True),
    "stall once it is done": Stall(passed=True),
    "500 though it is done": Answer(500, "InternalError", passed=True),
}
SENDING: dict[str, Fault] = {"reset in the body": Reset(body_bytes=50_000), **UNHEARD, **BUSY, **AMBIGUOUS}
IN_THE_BODY: dict[str, Fault] = {"cut": Cut(50_000), "stall in the body": Stall(body_bytes=50_000)}
READING: dict[str, Fault] = {"cut before the first byte": Cut(0), **IN_THE_BODY, **UNHEARD, **BUSY}
LISTING: dict[str, Fault] = {"cut": Cut(100), "reset": Reset(), **BUSY}


def _cases(faults: dict[str, Fault]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", faults.values(), ids=faults.keys())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits up to a second before a second try; what is tested here is what it does after that."""
    import botocore.endpoint

    monkeypatch.setattr(botocore.endpoint, "time", types.SimpleNamespace(sleep=lambda seconds: None))


class Way:
    """To one place in a bucket: past the proxy (`direct`), or through it, with a store of the right patience."""

    def __init__(self, server: GivenS3, bucket: str, proxy: FaultProxy) -> None:
        self.proxy, self.server, self.bucket = proxy, server, bucket
        self.direct = S3Store(f"{bucket}/p", S3Settings(part_mib=5))
        self._patient = self._through_proxy(tries=3)
        self._impatient = self._through_proxy(tries=2, read_seconds=1)

    def _through_proxy(self, **values: Any) -> S3Store:
        """Used already, so that what the server can do is known."""
        store = S3Store(f"{self.bucket}/p", S3Settings(endpoint=self.proxy.endpoint, part_mib=5, **values))
        store.put(f"used-{values['tries']}", [b"once"], only_new=True)
        store.put("used-large", [bytes(5 * MIB)])
        return store

    def store(self, fault: Fault | None = None) -> S3Store:
        """Only a stall needs impatience; elsewhere a slow machine must not look like a fault."""
        return self._impatient if isinstance(fault, Stall) else self._patient

    def tries(self, fault: Fault) -> int:
        return 2 if isinstance(fault, Stall) else 3

    def fail(self, fault: Fault, **where: str) -> Rule:
        """The fault strikes all but the last of the tries."""
        return self.proxy.add(fault, **where, times=self.tries(fault) - 1)

    def has_open_upload(self, key: str) -> bool:
        found = self.server.client().list_multipart_uploads(Bucket=self.bucket, Prefix=f"p/{key}")
        return bool(found.get("Uploads"))

    def keys(self, prefix: str) -> list[str]:
        return [entry.key for entry in self.direct.entries(prefix)]


@pytest.fixture(scope="module")
def shared_way(s3_server: GivenS3) -> Iterator[Way]:
    """Clients are dear to make, so all tests here share them and a bucket."""
    with (
        pytest.MonkeyPatch.context() as patch,
        FaultProxy(s3_server.endpoint) as proxy,
        fresh_bucket(s3_server) as bucket,
    ):
        for name, value in s3_server.env().items():
            patch.setenv(name, value)
        yield Way(s3_server, bucket, proxy)


@pytest.fixture
def way(shared_way: Way) -> Iterator[Way]:
    yield shared_way
    shared_way.proxy.heal()


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return f"{uuid.uuid4().hex[:8]}/a"


def _says_try_again(error: pytest.ExceptionInfo[InfrastructureError]) -> bool:
    return not isinstance(error.value, StoreRefusedError) and "\n" not in str(error.value)


# -- put ---------------------------------------------------------------------------------------------------------------


@_cases(SENDING)
def test_a_put_is_sent_again(way: Way, key: str, fault: Fault) -> None:
    rule = way.fail(fault, method="PUT")
    way.store(fault).put(key, [SMALL[:60_000], SMALL[60_000:]])
    assert rule.hits == way.tries(fault) - 1
    assert way.direct.get(key) == SMALL


@_cases(AMBIGUOUS | UNHEARD)
def test_a_put_of_something_new_is_no_conflict_with_itself(way: Way, key: str, fault: Fault) -> None:
    rule = way.fail(fault, method="PUT")
    way.store(fault).put(key, [SMALL], only_new=True)
    assert rule.hits == way.tries(fault) - 1
    assert way.direct.get(key) == SMALL
    with pytest.raises(StoreConflict):
        way.store().put(key, [OLD], only_new=True)
    assert way.direct.get(key) == SMALL


@_cases(AMBIGUOUS)
def test_a_put_of_something_new_that_ended_unheard_may_be_repeated(way: Way, key: str, fault: Fault) -> None:
    store = way.store(fault)
    rule = way.proxy.add(fault, method="PUT", times=MANY)
    with pytest.raises(InfrastructureError) as error:
        store.put(key, [SMALL], only_new=True)
    assert _says_try_again(error)
    assert rule.hits == way.tries(fault)
    rule.heal()
    store.put(key, [SMALL], only_new=True)
    with pytest.raises(StoreConflict):
        store.put(key, [OLD], only_new=True)
    assert way.direct.get(key) == SMALL


@_cases(AMBIGUOUS | UNHEARD | {"reset in the body": SENDING["reset in the body"]})
def test_a_put_that_never_gets_through_leaves_the_old_object_or_the_new_one(way: Way, key: str, fault: Fault) -> None:
    way.direct.put(key, [OLD])
    rule = way.proxy.add(fault, method="PUT", times=MANY)
    with pytest.raises(InfrastructureError) as error:
        way.store(fault).put(key, [SMALL])
    assert _says_try_again(error)
    assert rule.hits == way.tries(fault)
    assert way.direct.get(key) == (SMALL if fault in AMBIGUOUS.values() else OLD)


@pytest.mark.parametrize("times", [1, MANY])
def test_a_byte_that_flips_on_the_way_is_refused(way: Way, key: str, times: int | None) -> None:
    way.direct.put(key, [OLD])
    for target in (key, f"{key}-new"):
        rule = way.proxy.add(Flip(50_000), method="PUT", path=f"{target}$", times=times)
        with pytest.raises(InfrastructureError, match="damaged on the way") as error:
            way.store().put(target, [SMALL])
        assert _says_try_again(error)
        assert rule.hits == 1
    assert way.direct.get(key) == OLD
    assert way.keys(f"{key}-new") == []
    way.proxy.heal()
    way.store().put(key, [SMALL])
    assert way.direct.get(key) == SMALL
    assert not way.store().notices, "a flipped byte is no missing feature"


# -- put in parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [BEGIN, SECOND_PART], ids=["begin", "part"])
@_cases(UNHEARD | AMBIGUOUS)
def test_a_large_put_is_sent_again(way: Way, key: str, where: dict[str, str], fault: Fault) -> None:
    rule = way.fail(fault, **where)
    way.store(fault).put(key, [LARGE])
    assert rule.hits == way.tries(fault) - 1
    assert way.direct.get(key) == LARGE


@_cases(UNHEARD | AMBIGUOUS)
def test_a_completion_is_asked_for_again(way: Way, key: str, fault: Fault) -> None:
    rule = way.fail(fault, **COMPLETE)
    way.store(fault).put(key, [LARGE])
    assert rule.hits == way.tries(fault) - 1
    assert way.direct.get(key) == LARGE


@pytest.mark.parametrize(
    ("where", "fault"),
    [(BEGIN, Reset()), (SECOND_PART, Answer(503, "SlowDown")), (COMPLETE, Reset()), (COMPLETE, Stall())],
    ids=["begin, reset", "part, 503", "complete, reset", "complete, stall"],
)
def test_a_large_put_that_fails_leaves_nothing(way: Way, key: str, where: dict[str, str], fault: Fault) -> None:
    way.direct.put(key, [OLD])
    rule = way.proxy.add(fault, **where, times=MANY)
    with pytest.raises(InfrastructureError) as error:
        way.store(fault).put(key, [LARGE])
    assert _says_try_again(error)
    assert rule.hits == way.tries(fault)
    assert way.direct.get(key) == OLD
    assert not way.has_open_upload(key)


def test_a_completion_that_is_never_heard_leaves_the_whole_object(way: Way, key: str) -> None:
    rule = way.proxy.add(Reset(passed=True), **COMPLETE, times=MANY)
    with pytest.raises(InfrastructureError) as error:
        way.store().put(key, [LARGE])
    assert _says_try_again(error)
    assert rule.hits == 3
    assert way.direct.get(key) == LARGE
    rule.heal()
    way.store().put(key, [LARGE])
    assert way.direct.get(key) == LARGE


def test_a_completion_that_fails_within_an_answer_of_200_is_asked_for_again(way: Way, key: str) -> None:
    text = "<?xml version='1.0'?><Error><Code>InternalError</Code><Message>we tried</Message></Error>"
    rule = way.proxy.add(Answer(200, body=text), **COMPLETE, times=2)
    way.store().put(key, [LARGE])
    assert rule.hits == 2
    assert way.direct.get(key) == LARGE


def test_a_completion_that_a_web_page_answers_is_an_error(way: Way, key: str) -> None:
    rule = way.proxy.add(Answer(200, body="<html>Log in</html>", kind="text/html"), **COMPLETE)
    with pytest.raises(InfrastructureError, match="no S3 server"):
        way.store().put(key, [LARGE])
    assert rule.hits == 1
    assert way.keys(key) == []


def test_a_byte_that_flips_in_a_part_is_refused(way: Way, key: str) -> None:
    rule = way.proxy.add(Flip(50_000), **SECOND_PART, times=1)
    with pytest.raises(InfrastructureError, match="damaged on the way"):
        way.store().put(key, [LARGE])
    assert rule.hits == 1
    assert way.keys(key) == []
    assert not way.has_open_upload(key)


def test_an_upload_that_cannot_even_be_aborted_is_swept_later(way: Way, key: str) -> None:
    store = way.store()
    way.proxy.add(Reset(), **SECOND_PART, times=MANY)
    away = way.proxy.add(Reset(), method="DELETE", path="uploadId=", times=MANY)
    with pytest.raises(InfrastructureError):
        store.put(key, [LARGE])
    assert away.hits >= 3
    way.proxy.heal()
    folder = key.removesuffix("a")
    store.sweep(folder, lambda entry: False)
    assert way.has_open_upload(key)
    asked: list[str] = []
    again = way.proxy.add(Reset(passed=True), method="DELETE", path="uploadId=")
    store.sweep(folder, lambda entry: bool(asked.append(entry.key)) or True)
    assert (asked, way.has_open_upload(key), again.hits) == ([key], False, 1)


# -- get and fetch -----------------------------------------------------------------------------------------------------


@_cases(READING)
def test_a_get_is_asked_for_again_and_an_endless_fault_is_an_error(way: Way, key: str, fault: Fault) -> None:
    way.direct.put(key, [SMALL])
    rule = way.fail(fault, method="GET")
    assert way.store(fault).get(key) == SMALL
    assert rule.hits == way.tries(fault) - 1
    rule = way.proxy.add(fault, method="GET", times=MANY)
    with pytest.raises(InfrastructureError) as error:
        way.store(fault).get(key)
    assert _says_try_again(error)
    assert rule.hits >= way.tries(fault)


@pytest.mark.parametrize(
    ("data", "where", "fault"),
    [(SMALL, {"method": "GET"}, fault) for fault in (Cut(0), Cut(50_000), Reset(), *BUSY.values())]
    + [(LARGE, SECOND_RANGE, fault) for fault in IN_THE_BODY.values()],
)
def test_a_fetch_is_asked_for_again_and_leaves_no_torn_file(
    way: Way, key: str, tmp_path: Path, data: bytes, where: dict[str, str], fault: Fault
) -> None:
    way.direct.put(key, [data])
    rule = way.fail(fault, **where)
    assert way.store(fault).fetch(key, tmp_path / "a").read_bytes() == data
    assert rule.hits == way.tries(fault) - 1
    rule = way.proxy.add(fault, **where, times=MANY)
    with pytest.raises(InfrastructureError) as error:
        way.store(fault).fetch(key, tmp_path / "b")
    assert _says_try_again(error)
    assert rule.hits >= way.tries(fault)
    assert os.listdir(tmp_path) == ["a"]


def test_a_fetch_of_an_object_that_is_replaced_meanwhile_is_no_mixture(way: Way, key: str, tmp_path: Path) -> None:
    way.direct.put(key, [LARGE])
    rule = way.proxy.add(Stall(), **SECOND_RANGE, times=MANY)
    with ThreadPoolExecutor() as pool:
        fetched = pool.submit(way.store().fetch, key, tmp_path / "a")
        rule.wait()
        way.direct.put(key, [bytes(len(LARGE))])
        rule.heal()
        try:
            assert fetched.result().read_bytes() in (LARGE, bytes(len(LARGE)))
        except InfrastructureError:
            assert os.listdir(tmp_path) == []


@pytest.fixture
def checkpoint(way: Way) -> tuple[str, FolderName, Manifest]:
    """The data of a checkpoint in the store, and its manifest."""
    run = f"run-{uuid.uuid4().hex[:8]}"
    files = {"model.safetensors": LARGE, "state.json": SMALL}
    name = FolderName(step=5, number=1, suffix="abcdef")
    for file, data in files.items():
        way.direct.put(f"{run}/{CHECKPOINTS}{name}/{file}", [data])
    records = {file: FileRecord(len(data), hashlib.sha256(data).hexdigest()) for file, data in files.items()}
    facts = {"epoch": 0, "sequence": 1, "world_size": 1, "cursor": {}, "created": utc_now()}
    return run, name, Manifest(step=5, attempt=name.attempt, files=records, **facts)


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
def test_a_byte_that_flips_in_a_download_is_never_taken(
    way: Way, tmp_path: Path, checkpoint: tuple[str, FolderName, Manifest], file: str
) -> None:
    flip = Flip(50_000, answer=True)
    once = way.proxy.add(flip, method="GET", path=file)
    paths = verify_files(way.store(), *checkpoint, tmp_path)  # once is the way's fault, not the checkpoint's
    assert paths["model.safetensors"].read_bytes() == LARGE
    assert paths["state.json"].read_bytes() == SMALL
    always = way.proxy.add(flip, method="GET", path=file, times=MANY)
    with pytest.raises(Rejected, match=file):
        verify_files(way.store(), *checkpoint, tmp_path)
    assert (once.hits, always.hits >= 2) == (1, True)


def test_an_outage_in_a_download_condemns_no_checkpoint(
    way: Way, tmp_path: Path, checkpoint: tuple[str, FolderName, Manifest]
) -> None:
    rule = way.proxy.add(Cut(50_000), method="GET", path="state.json", times=MANY)
    with pytest.raises(InfrastructureError):
        verify_files(way.store(), *checkpoint, tmp_path)
    assert rule.hits >= 3


# -- list and delete ---------------------------------------------------------------------------------------------------


@_cases(LISTING)
def test_a_listing_is_whole_or_an_error(way: Way, key: str, fault: Fault) -> None:
    names, store = [f"{number:02d}" for number in range(4)], way.store(fault)
    for name in names:
        way.direct.put(f"{key}/{name}/x", [b"1"])
    for ask, right in (
        (lambda: store.folders(f"{key}/", after="01"), names[2:]),
        (lambda: [entry.key for entry in store.entries(key)], [f"{key}/{name}/x" for name in names]),
    ):
        rule = way.fail(fault, method="GET", path="list-type=2")
        assert ask() == right
        assert rule.hits == way.tries(fault) - 1
        rule = way.proxy.add(fault, method="GET", path="list-type=2", times=MANY)
        with pytest.raises(InfrastructureError) as error:
            ask()
        assert _says_try_again(error)
        assert rule.hits >= way.tries(fault)
        rule.heal()


@pytest.mark.parametrize("num_keys", [1, 3])
@_cases(UNHEARD | AMBIGUOUS)
def test_a_delete_is_asked_for_again(way: Way, key: str, num_keys: int, fault: Fault) -> None:
    keys = [f"{key}/{number}" for number in range(num_keys)]
    for one in keys:
        way.direct.put(one, [b"1"])
    rule = way.fail(fault, method="DELETE" if num_keys == 1 else "POST")
    way.store(fault).delete(keys)
    assert rule.hits == way.tries(fault) - 1
    assert way.keys(key) == []
    assert not way.store(fault).notices


# -- the whole server, and its credentials -----------------------------------------------------------------------------


def test_the_same_store_serves_again_when_the_server_is_back(way: Way, key: str, tmp_path: Path) -> None:
    way.direct.put(key, [SMALL])
    store = way.store()
    way.proxy.down()
    for ask in (
        lambda: store.get(key),
        lambda: store.put(f"{key}-small", [SMALL]),
        lambda: store.put(f"{key}-large", [LARGE]),
        lambda: store.fetch(key, tmp_path / "a"),
        lambda: store.folders(""),
        lambda: store.delete([key]),
    ):
        with pytest.raises(InfrastructureError, match="no connection to") as error:
            ask()
        assert _says_try_again(error)
        assert way.proxy.endpoint in str(error.value)
    way.proxy.up()
    assert store.get(key) == SMALL
    assert way.keys(f"{key}-") == []


def test_an_outage_does_not_use_up_the_tries(way: Way, key: str) -> None:
    """The SDK has a budget of them for each client, which it hardly fills up again."""
    away = way.proxy.add(Reset(), method="PUT", times=MANY)
    for _ in range(20):
        with pytest.raises(InfrastructureError):
            way.store().put(key, [OLD])
    assert away.hits == 60
    away.heal()
    rule = way.fail(Reset(), method="PUT")
    way.store().put(key, [SMALL])
    assert rule.hits == 2
    assert way.direct.get(key) == SMALL


def test_credentials_that_expire_are_read_anew_once(way: Way, key: str) -> None:
    rule = way.proxy.add(Answer(403, "ExpiredToken"), method="PUT")
    way.store().put(key, [SMALL])
    assert rule.hits == 1
    assert way.direct.get(key) == SMALL
    rule = way.proxy.add(Answer(403, "ExpiredToken"), method="PUT", times=MANY)
    with pytest.raises(InfrastructureError, match="expired") as error:
        way.store().put(key, [OLD])
    assert _says_try_again(error)
    assert rule.hits == 2
    rule.heal()
    way.store().put(key, [OLD])
    assert way.direct.get(key) == OLD


def test_a_refusal_is_final_and_asked_for_once(way: Way, key: str) -> None:
    store = way.store()
    rule = way.proxy.add(Answer(403, "AccessDenied"), times=MANY)
    for ask in (lambda: store.get(key), lambda: store.put(key, [SMALL]), lambda: store.folders("")):
        before = rule.hits
        with pytest.raises(StoreRefusedError, match="access denied"):
            ask()
        assert rule.hits == before + 1


def test_a_server_without_conditional_writes_is_done_without_them(way: Way, key: str) -> None:
    rule = way.proxy.add(Answer(501, "NotImplemented"), header="^if-none-match", times=MANY)
    store = S3Store(f"{way.bucket}/p", S3Settings(endpoint=way.proxy.endpoint))
    store.put(key, [SMALL], only_new=True)
    with pytest.raises(StoreConflict):
        store.put(key, [OLD], only_new=True)
    assert way.direct.get(key) == SMALL
    assert 1 <= rule.hits <= 2, "which of the features it was must be found out, once"
    assert len(store.notices) == 1
    assert "no conditional writes" in store.notices[0]
