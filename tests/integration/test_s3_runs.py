"""Whole runs against a real S3 server: killed, cut off from it, taken over; what they leave is whole and keyless."""

import signal
import subprocess
import sys
import time

import boto3  # noqa: F401  # here once, so that forked attempts have it
import pytest

from tests.s3.proxy import FaultProxy, Stall
from tests.s3.runs import end_state, events, everything
from tests.toy import Attempt, Pace, toy_settings
from trainer.checkpoint.inspect import list_checkpoints, verify_checkpoints
from trainer.checkpoint.restore import load_checkpoint
from trainer.checkpoint.stores import open_store

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def url(bucket, s3_env):
    return f"s3://{bucket}/runs"


def settings_for(url, tmp_path, **values):
    values = {"accumulation": 2, "checkpoint__spool": str(tmp_path / "spool"), "s3__tries": 2, **values}
    return toy_settings(tmp_path, run__store=url, **values)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """End state of a run on a disk that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert Attempt(toy_settings(folder, accumulation=2)).wait() == [0]
    return end_state(f"file://{folder}")


def problems(url):
    return {one.problem for one in verify_checkpoints(open_store(url), "toy")}


def test_the_same_weights_as_on_a_disk(url, tmp_path, undisturbed):
    assert Attempt(settings_for(url, tmp_path), 2).wait() == [0, 0]
    assert problems(url) == {None}
    assert end_state(url).keys() == undisturbed.keys()
    assert Attempt(settings_for(url, tmp_path)).wait() == [0], "a finished run ends at once"
    assert len(events(url, "RunStarted")) == 1


@pytest.fixture
def own(own_s3_server, monkeypatch):
    """A server that may be stopped; its store's URL."""
    for name, value in own_s3_server.env().items():
        monkeypatch.setenv(name, value)
    own_s3_server.client().create_bucket(Bucket="outage")
    return own_s3_server, "s3://outage/runs"


def test_a_run_that_is_cut_off_goes_on_and_catches_up(own, tmp_path):
    server, url = own
    pace = Pace()
    attempt = Attempt(settings_for(url, tmp_path, num_epochs=12, **pace.settings))
    pace.let(30)
    server.stop()
    pace.let(60)  # would hang here if training waited for the store
    server.start()
    pace.free()
    assert attempt.wait() == [0]
    calm = tmp_path / "calm"
    assert Attempt(toy_settings(calm, accumulation=2, num_epochs=12)).wait() == [0]
    assert end_state(url) == end_state(f"file://{calm}")
    assert problems(url) == {None}
    assert [event for event in events(url, "CheckpointFailed") if event["will_retry"]]
    assert any("the store answers again" in event["text"] for event in events(url, "Noted"))
    assert len(events(url, "AttemptEnded")) == 1
    assert not list((tmp_path / "spool").rglob("MANIFEST.json"))


def test_told_to_stop_while_cut_off_it_spools_and_the_next_attempt_publishes_that(own, tmp_path, undisturbed):
    server, url = own
    pace = Pace()
    attempt = Attempt(settings_for(url, tmp_path, run__grace_seconds=6, **pace.settings))
    pace.let(16)
    server.stop()
    pace.let(10)
    attempt.send(signal.SIGTERM)
    pace.free()
    assert attempt.wait() == [170]
    spooled = sorted(path.parent.name for path in (tmp_path / "spool").rglob("MANIFEST.json"))
    server.start()
    before = [one.name for one in list_checkpoints(open_store(url), "toy") if one.problem is None]
    assert spooled[-1] > before[-1]
    assert Attempt(settings_for(url, tmp_path)).wait() == [0]
    assert [event["checkpoint"] for event in events(url, "Resumed")] == [spooled[-1]]
    assert end_state(url) == undisturbed
    assert problems(url) == {None}


def test_after_the_settable_time_without_a_store_it_ends_with_170(own, tmp_path, undisturbed):
    server, url = own
    pace = Pace()
    attempt = Attempt(settings_for(url, tmp_path, num_epochs=500, checkpoint__outage_seconds=1, **pace.settings))
    pace.let(16)
    server.stop()
    pace.free()
    assert attempt.wait() == [170]
    assert Attempt(settings_for(url, tmp_path)).wait() == [170], "at the start a store that is away is no new run"
    server.start()
    assert len({one.attempt for one in list_checkpoints(open_store(url), "toy")}) == 1


def test_a_newer_attempt_takes_over_and_the_older_one_leaves_with_171(url, tmp_path, undisturbed):
    pace = Pace()
    older = Attempt(settings_for(url, tmp_path, **pace.settings))
    pace.let(16)
    assert Attempt(settings_for(url, tmp_path)).wait() == [0]
    before = set(open_store(url).entries(""))
    pace.free()
    assert older.wait() == [171]
    written = set(open_store(url).entries("")) ^ before
    assert all("/ledger/0001-" in entry.key for entry in written), "but for what it had seen before it noticed"
    assert end_state(url) == undisturbed
    assert problems(url) == {None}


def test_without_a_name_a_run_that_seems_alive_is_left_alone(url, tmp_path):
    pace = Pace()
    alive = Attempt(settings_for(url, tmp_path, run__name=None, **pace.settings))
    pace.let(16)
    assert Attempt(settings_for(url, tmp_path, run__name=None)).wait() == [0]
    names = open_store(url).folders("")
    assert len(names) == 2
    alive.send(signal.SIGKILL)
    assert alive.wait() == [137]
    assert Attempt(settings_for(url, tmp_path, run__name=None)).wait() == [0], "the dead one is gone on with"
    assert open_store(url).folders("") == names


def flipped(data, other):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "one byte flipped": flipped,
    "cut": lambda data, other: data[:-1],
    "emptied": lambda data, other: b"",
    "removed": lambda data, other: None,
    "replaced by another step's": lambda data, other: other,
}
OBJECTS = ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"]


@pytest.fixture(scope="module")
def interrupted(s3_server, tmp_path_factory):
    """A bucket with a run that was killed behind its third checkpoint."""
    client = s3_server.client()
    client.create_bucket(Bucket="interrupted")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.env().items():
            patch.setenv(name, value)
        settings = settings_for("s3://interrupted/runs", tmp_path_factory.mktemp("x"))
        assert Attempt(settings, crash_at="after_hints:3").wait() == [137]
    return client


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", OBJECTS)
def test_every_damage_to_every_object_is_found_counted_and_stepped_over(interrupted, s3_env, tmp_path, file, damage):
    store = open_store("s3://interrupted/runs")
    before, newest = (one.name for one in list_checkpoints(store, "toy")[-2:])
    key, other = (f"runs/toy/checkpoints/{name}/{file}" for name in (newest, before))
    data, replacement = (interrupted.get_object(Bucket="interrupted", Key=name)["Body"].read() for name in (key, other))
    changed = DAMAGES[damage](data, replacement)
    if changed is None:
        interrupted.delete_object(Bucket="interrupted", Key=key)
    else:
        interrupted.put_object(Bucket="interrupted", Key=key, Body=changed)
    try:
        told = []
        found = load_checkpoint(store, "toy", emit=told.append)
        assert found.key == before
        assert [event.checkpoint for event in told] == [newest]
        assert verify_checkpoints(store, "toy")[-1].problem
    finally:
        interrupted.put_object(Bucket="interrupted", Key=key, Body=data)
    assert load_checkpoint(store, "toy").key == newest


def test_no_key_is_in_anything_that_a_run_leaves_or_says(s3_server, bucket, s3_env, tmp_path, capfd, monkeypatch):
    url = f"s3://{bucket}/runs"
    assert Attempt(settings_for(url, tmp_path), crash_at="after_manifest:2").wait() == [137]
    assert Attempt(settings_for(url, tmp_path)).wait() == [0]
    left = everything(url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-7d1f")
    assert Attempt(settings_for(url, tmp_path, run__name="other")).wait() == [5]
    shown = capfd.readouterr()
    for text in (left, shown.out, shown.err):
        for secret in (s3_server.secret_key, s3_server.access_key, "not-the-secret-7d1f"):
            assert secret not in text
    assert "toy" in left


def test_a_silent_server_does_not_hold_the_process_beyond_its_grace_period(own, monkeypatch, tmp_path):
    server, _ = own
    with FaultProxy(server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        silence = proxy.add(Stall(), method="PUT", path="optimizer.safetensors", first=2)
        words = ["train", "--config", "quick", "--store", "s3://outage/cli", "--run_name", "told"]
        values = {
            "run.grace_seconds": 6, "checkpoint.spool": tmp_path / "spool", "checkpoint.every": "every 2 steps",
            "data.synthetic_words": 3, "data.synthetic_repetitions": 4, "model.size": "t_1_1", "num_epochs": 5000,
            "telemetry.tensorboard": "off",
        }  # fmt: skip
        words += [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
        process = subprocess.Popen([sys.executable, "-m", "trainer", *words], stderr=subprocess.PIPE, text=True)
        silence.wait()
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 170, said
        assert "it waits in" in said.splitlines()[-1]
        assert time.monotonic() - begun < 20, "of a server that is silent for minutes"
    assert list((tmp_path / "spool").rglob("MANIFEST.json"))
