"""Every command on runs in a real bucket: what it prints, what it leaves there, and how it ends when that fails."""

import hashlib
import json
import platform
import shutil

import pytest

from tests.s3.proxy import Answer, FaultProxy
from tests.small_runs import FILES, make_run
from trainer.checkpoint.attempts import AttemptId, put_json
from trainer.checkpoint.stores import open_store
from trainer.cli import main

TINY = ["--model_metadata", "t_1_1", "--batch_size", "8", "--num_epochs", "2", "--val_signers", "01"]
for _setting in ("data.sampling.frames=8", "output.export=[]", "output.report=off", "telemetry.tensorboard=off",
                 "data.dataset_schema.preset=karsl", "telemetry.progress=off"):  # fmt: skip
    TINY += ["--set", _setting]


@pytest.fixture
def url(bucket, s3_env):
    return f"s3://{bucket}/some/runs"


@pytest.fixture
def store(url):
    return open_store(url)


@pytest.fixture
def client(s3_server):
    return s3_server.client()


def run(capsys, *arguments):
    """Exit code, standard output and standard error."""
    code = main([*map(str, arguments)])
    return code, *capsys.readouterr()


def as_json(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def objects(client, bucket):
    """Every object of a bucket with its content's digest and last change."""
    found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {one["Key"]: (one["ETag"], one["LastModified"]) for one in found}


def damage(client, bucket, key):
    """Flip one bit in an object, by a plain client."""
    content = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    content[-1] ^= 1
    client.put_object(Bucket=bucket, Key=key, Body=bytes(content))


def test_runs_and_checkpoints_are_listed(store, url, capsys):
    names = make_run(store)
    make_run(store, "second", steps=(1, 2), digest="e" * 16)
    listed = as_json(capsys, "checkpoints", "list", "--store", url)
    assert {(one["run"], one["checkpoints"], one["step"]) for one in listed} == {("first", 3, 30), ("second", 2, 2)}
    listed = as_json(capsys, "checkpoints", "list", "first", "--store", url)
    assert [one["name"] for one in listed] == names
    assert [one["is_best"] for one in listed] == [False, True, False]
    assert [one["is_latest"] for one in listed] == [False, False, True]
    code, out, err = run(capsys, "checkpoints", "list", "--store", url)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["run", "task", "created", "checkpoints", "step", "complete"]


def test_the_endpoint_may_stand_on_the_command_line_or_in_the_environment(s3_server, store, url, capsys, monkeypatch):
    make_run(store)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    line = ["checkpoints", "list", "--store", url]
    assert as_json(capsys, *line, "--set", f"s3.endpoint={s3_server.endpoint}")[0]["run"] == "first"
    monkeypatch.setenv("TRAINER__S3__ENDPOINT", s3_server.endpoint)
    assert as_json(capsys, *line)[0]["run"] == "first"
    monkeypatch.setenv("TRAINER__RUN__STORE", url)
    assert as_json(capsys, "checkpoints", "verify")[-1]["problem"] is None


def test_verify_reads_every_byte_and_ends_with_four(store, url, bucket, client, capsys):
    names = make_run(store)
    assert run(capsys, "checkpoints", "verify", "first", "--store", url)[0] == 0
    for file in (FILES[0], "MANIFEST.json"):
        damage(client, bucket, f"some/runs/first/checkpoints/{names[1]}/{file}")
        code, out, _ = run(capsys, "checkpoints", "verify", "first", "--store", url, "--json")
        assert (code, [one["name"] for one in json.loads(out) if one["is_damaged"]]) == (4, [names[1]])
    client.delete_object(Bucket=bucket, Key=f"some/runs/first/checkpoints/{names[0]}/{FILES[1]}")
    code, out, _ = run(capsys, "checkpoints", "verify", "first", "--store", url)
    assert code == 4
    assert f"{FILES[1]} is missing" in out


def test_pull_and_push_bring_a_run_there_and_back(store, url, bucket, client, tmp_path, capsys):
    names = make_run(store)
    before = objects(client, bucket)
    here = tmp_path / "here"
    pulled = as_json(capsys, "checkpoints", "pull", "first", "--store", url, "--checkpoint", "best", "--out", here)
    assert pulled == {"checkpoint": names[1], "place": f"file://{here}/first"}
    assert objects(client, bucket) == before
    assert [path.name for path in (here / "first/checkpoints").iterdir()] == [names[1]]
    assert run(capsys, "checkpoints", "verify", here / "first")[0] == 0
    pushed = as_json(capsys, "checkpoints", "push", here / "first", "--store", f"s3://{bucket}/other")
    assert pushed == {"checkpoint": names[1], "place": f"s3://{bucket}/other/first"}
    assert run(capsys, "checkpoints", "verify", "first", "--store", f"s3://{bucket}/other")[0] == 0
    for file in FILES:
        copies = [f"{place}/first/checkpoints/{names[1]}/{file}" for place in ("some/runs", "other")]
        digests = {hashlib.sha256(client.get_object(Bucket=bucket, Key=key)["Body"].read()).digest() for key in copies}
        assert len(digests) == 1


def test_prune_and_promote_change_what_they_say_and_nothing_else(store, url, bucket, client, capsys):
    names = make_run(store, steps=(10, 20, 30, 40))
    client.put_object(Bucket=bucket, Key="some/runs/first/checkpoints/notes.txt", Body=b"mine")
    client.put_object(Bucket=bucket, Key="some/elsewhere", Body=b"mine")
    before = objects(client, bucket)
    assert (
        as_json(capsys, "checkpoints", "promote", "first", "--checkpoint", "10", "--store", url)["checkpoint"]
        == names[0]
    )
    pruned = as_json(capsys, "checkpoints", "prune", "first", "--keep-last", "1", "--store", url)
    assert pruned == {"removed": [names[2]]}
    after = objects(client, bucket)
    gone = {key for key in before if key not in after}
    assert gone == {f"some/runs/first/checkpoints/{names[2]}/{file}" for file in (*FILES, "MANIFEST.json")}
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {f"some/runs/first/checkpoints/{names[0]}/MANIFEST.json"}
    assert run(capsys, "checkpoints", "verify", "first", "--store", url)[0] == 0


def test_a_run_that_seems_alive_is_left_alone(store, url, bucket, client, tmp_path, capsys):
    make_run(store, is_ended=False)
    make_run(open_store(f"file://{tmp_path}/here"))
    attempt = AttemptId(2, "fedcba")
    record = {"attempt": str(attempt), "host": "another-machine", "process": 7}
    put_json(store, f"first/attempts/{attempt}.json", record)
    before = objects(client, bucket)
    commands = ("prune first --keep-last 1", "promote first", f"push {tmp_path}/here/first")
    for command in commands:
        code, _, err = run(capsys, "checkpoints", *command.split(), "--store", url)
        assert code == 4
        assert f"run first in {url} seems to be trained (attempt {attempt} on another-machine" in err
        assert "stop it first, or " in err
        assert err.count("\n") == 1
    assert objects(client, bucket) == before
    # An attempt of this machine whose process is gone is not alive, however young its record.
    put_json(store, f"first/attempts/{attempt}.json", {**record, "host": platform.node(), "process": 2**22 + 1})
    for command in commands:
        assert run(capsys, "checkpoints", *command.split(), "--store", url)[0] == 0


def test_unknown_runs_and_odd_names_end_with_two(store, url, bucket, s3_server, capsys, monkeypatch):
    make_run(store)
    code, _, err = run(capsys, "checkpoints", "verify", "frist", "--store", url)
    assert code == 2
    assert err == f"error: there is no run 'frist' in {url}; did you mean 'first'?\n"
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        for name in ("fir st", "../first", "ünder", "x" * 101):
            for command in ("verify", "prune", "promote"):
                code, _, err = run(capsys, "checkpoints", command, name, "--store", url)
                assert code == 2
                assert f"run.name is {name!r}: use letters, digits" in err
            assert (
                run(capsys, "train", "--run_name", name, "--store", url, "--set", "data.layout=synthetic", *TINY)[0]
                == 2
            )
        assert not proxy.requests
        assert run(capsys, "checkpoints", "list", "--store", f"s3://{bucket}/nothing", "--json")[1] == "[]\n"
        assert proxy.requests


def test_a_store_that_refuses_ends_with_five_and_one_that_is_away_with_170(store, url, s3_server, capsys, monkeypatch):
    make_run(store)
    commands = ("list", "list first", "verify first", "prune first --keep-last 1", "promote first")
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        for command in commands:
            line = ["checkpoints", *command.split(), "--store", url, "--set", "s3.tries=1"]
            refused = proxy.add(Answer(403, "AccessDenied"), times=None)
            code, out, err = run(capsys, *line)
            assert (code, out, err.count("\n")) == (5, "", 1)
            assert "access denied" in err
            assert refused.hits == 1, "a refusal is not asked for again"
            refused.heal()
            busy = proxy.add(Answer(503, "SlowDown"), times=None)
            code, out, err = run(capsys, *line)
            assert (code, out, err.count("\n")) == (170, "", 1)
            assert busy.hits == 1
            busy.heal()
        proxy.down()
        code, _, err = run(capsys, *line)
        assert code == 170
        assert f"no connection to {proxy.endpoint}" in err
        proxy.up()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    code, _, err = run(capsys, *line)
    assert code == 5
    assert "SignatureDoesNotMatch" in err
    assert "a-wrong-secret" not in err


def test_what_is_somebody_elses_stays_untouched(store, bucket, client, tmp_path, capsys):
    make_run(open_store(f"file://{tmp_path}/here"))
    for key in ("first/photo.jpg", "first/checkpoints/notes", "a b/run.json", "loose", "second//x", "third/run.json"):
        client.put_object(Bucket=bucket, Key=f"theirs/{key}", Body=b"{}")
    client.create_multipart_upload(Bucket=bucket, Key="theirs/first/big")
    before, theirs = objects(client, bucket), f"s3://{bucket}/theirs"
    line = ["--store", theirs]
    assert run(capsys, "checkpoints", "list", *line, "--json")[:2] == (0, "[]\n")
    for command in ("list first", "verify first", "prune first", "promote first", f"pull first --out {tmp_path}/x"):
        assert run(capsys, "checkpoints", *command.split(), *line)[0] == 2
    code, _, err = run(capsys, "checkpoints", "push", tmp_path / "here/first", *line)
    assert code == 2
    assert "holds files that are no run" in err
    for command in ("report first", "evaluate first", "export first"):
        assert run(capsys, *command.split(), *line)[0] == 2
    train = ["train", *line, "--set", "data.layout=synthetic", *TINY]
    code, _, err = run(capsys, *train, "--run_name", "first")
    assert code == 2
    assert f"{theirs}/first holds files that are no run" in err
    code, _, err = run(capsys, *train, "--run_name", "third")
    assert code == 4
    assert "third/run.json is damaged or not ours" in err
    assert run(capsys, "preflight", *line)[0] == 0
    assert objects(client, bucket) == before
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1


def test_a_model_is_trained_and_used_from_a_bucket(url, bucket, client, tmp_path, capsys):
    data = tmp_path / "signs"
    assert run(capsys, "prepare", "--synthetic", data, "--words", 3, "--signers", 2, "--repetitions", 3)[0] == 0
    train = ["train", "--data", data, "--store", url, "--run_name", "first", *TINY]
    assert as_json(capsys, *train)["run"] == "first"
    assert run(capsys, "checkpoints", "verify", "first", "--store", url)[0] == 0
    results = as_json(capsys, "evaluate", "first", "--store", url, "--checkpoint", "latest")["results"]
    assert results["val"]["loss"] > 0
    files = as_json(capsys, "report", "first", "--store", url)["files"]
    assert files[0] == f"{url}/first/report/index.html"
    page = client.get_object(Bucket=bucket, Key="some/runs/first/report/index.html")["Body"].read()
    assert page.startswith(b"<!")
    [written] = as_json(capsys, "export", "first", "--store", url, "--format", "pth")
    assert written["path"].startswith(f"{url}/first/export/")
    assert (
        client.get_object(Bucket=bucket, Key=written["path"].removeprefix(f"s3://{bucket}/"))["Body"].read(2) == b"PK"
    )
    [here] = as_json(capsys, "export", "first", "--store", url, "--format", "pth", "--out", tmp_path / "out")
    assert here["path"].startswith(str(tmp_path / "out"))
    # Pulled to this machine it goes on there, and pushed back it goes on in the bucket.
    assert run(capsys, "checkpoints", "pull", "first", "--store", url, "--out", tmp_path / "local")[0] == 0
    longer = ["train", "--data", data, "--run_name", "first", *TINY[:4], "--num_epochs", "3", *TINY[6:]]
    assert run(capsys, *longer, "--store", f"file://{tmp_path}/local")[0] == 0
    assert run(capsys, "checkpoints", "push", tmp_path / "local/first", "--store", f"s3://{bucket}/back")[0] == 0
    [back] = as_json(capsys, "checkpoints", "list", "--store", f"s3://{bucket}/back")
    assert back["complete"] is True
    shutil.rmtree(tmp_path / "local")
    assert run(capsys, *longer, "--store", f"s3://{bucket}/back")[0] == 0


def test_what_a_server_lacks_is_said_once_by_a_command(store, url, s3_server, capsys, monkeypatch):
    make_run(store, steps=(10, 20, 30, 40))
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        rule = proxy.add(Answer(501, "NotImplemented"), method="POST", path=r"\?delete", times=None)
        line = ["checkpoints", "prune", "first", "--keep-last", "1", "--no-keep-best", "--store", url]
        code, out, err = run(capsys, *line, "--json")
        assert rule.hits == 1
    assert (code, len(json.loads(out)["removed"])) == (0, 3)
    assert err.startswith(f"note: {url}: the server (NotImplemented) does not delete many objects at once")
    assert err.count("\n") == 1
