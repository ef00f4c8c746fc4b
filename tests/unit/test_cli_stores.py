"""Commands on any store: settings of the store on the command line, names, notices, damage, and what is not ours."""

import json
from pathlib import Path

import pytest

from tests.small_runs import FILES, make_run
from trainer.checkpoint import inspect
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.manifest import FolderName
from trainer.cli import main, output, runs
from trainer.cli.options import SettingsArguments


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "store")


def content(folder: Path):
    """Every file of a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoints(capsys, *arguments):
    """Exit code, standard output and standard error of `trainer checkpoints ...`."""
    code = main(["checkpoints", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_the_store_is_a_setting_like_any_other(store, capsys, monkeypatch):
    make_run(store)
    for line in (["--store", store.url], ["--set", f"run.store={store.url}"]):
        code, out, _ = checkpoints(capsys, "list", "--json", *line)
        assert (code, [run["checkpoints"] for run in json.loads(out)]) == (0, [3])
    monkeypatch.setenv("TRAINER__RUN__STORE", store.url)
    assert json.loads(checkpoints(capsys, "list", "--json")[1])[0]["step"] == 30
    assert "first" in checkpoints(capsys)[1]


def test_settings_of_the_store_reach_it_from_every_source(monkeypatch, capsys, store):
    seen = []

    def spy(url, s3=None):
        seen.append((url, s3 and s3.endpoint, s3 and s3.region))
        return store

    monkeypatch.setattr(runs, "open_store", spy)
    monkeypatch.setenv("TRAINER__S3__REGION", "eu-1")
    line = ["--store", "s3://b/p", "--set", "s3.endpoint=http://127.0.0.1:9"]
    make_run(store)
    commands = ["list", "verify first", "prune first", "promote first", f"push {store.path}/first"]
    for command in commands:
        assert checkpoints(capsys, *command.split(), *line)[0] == 0
    assert main(["report", "first", *line]) == 0
    for command in ("evaluate", "export"):
        main([command, "first", *line, "--set", "data.path=none", "--lr", "1"])  # this run holds no real model
    assert len(seen) >= len(commands) + 3
    assert {one for one in seen if one[0].startswith("s3")} == {("s3://b/p", "http://127.0.0.1:9", "eu-1")}


def test_what_another_task_knows_is_not_asked_of_the_default_one():
    given = SettingsArguments(
        None, ["s3.region=x", "beam.width=4", "run.store=file://a"], {"--lr": "1", "--task": "signs"}
    )
    assert given.of_store() == SettingsArguments(None, ["s3.region=x", "run.store=file://a"], {"--task": "signs"})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "optim.lr=1"], "--set optim.lr has no effect here; this command takes s3.* and run.store"),
        (
            ["--set", "s3.endpont=http://x"],
            "unknown setting 's3.endpont' (--set s3.endpont); did you mean 's3.endpoint'?",
        ),
        (["--set", "s3.endpoint=x"], "s3.endpoint must be a URL"),
        (["--store", "s3://user:secret@host/p"], "run.store must not hold credentials"),
        (["--store", "ftp://x"], "there is no store of the kind 'ftp'"),
    ],
)
def test_a_wrong_setting_of_the_store_is_one_line(capsys, arguments, says):
    for command in (["checkpoints", "list"], ["report"], ["checkpoints", "prune", "x"]):
        assert main([*command, *arguments]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert "secret" not in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["a b", "../x", "a/b", ".hidden", "ä", "x" * 101, "s3://b/p"])
def test_a_name_with_odd_characters_is_refused_before_the_store_is_opened(name, capsys, monkeypatch):
    def never(*_):
        raise AssertionError("opened")

    monkeypatch.setattr(runs, "open_store", never)
    for command in ("list", "verify", "prune", "promote", "pull --out here", "push"):
        verb, *rest = command.split()
        code, _, err = checkpoints(capsys, verb, name, *rest)
        assert code == 2
        assert err.startswith(
            f"error: run.name is {name!r}: use letters, digits, '.', '_' and '-', at most 100 of them"
        )
        assert err.count("\n") == 1


def test_a_folder_with_an_odd_name_can_be_read_but_goes_nowhere(store, tmp_path, capsys):
    make_run(store)
    (store.path / "first").rename(store.path / "first (copy)")
    code, out, _ = checkpoints(capsys, "list", store.path / "first (copy)", "--json")
    assert (code, len(json.loads(out))) == (0, 3)
    code, _, err = checkpoints(capsys, "push", store.path / "first (copy)", "--store", f"file://{tmp_path}/there")
    assert code == 2
    assert "run.name is 'first (copy)'" in err
    assert not (tmp_path / "there").exists()


def test_notices_are_said_once_on_stderr_whatever_the_end(store, capsys, monkeypatch):
    make_run(store)

    def opened(*_):
        store.notices.extend(["this server lacks something", "this server lacks something"])
        return store

    monkeypatch.setattr(runs, "open_store", opened)
    code, out, err = checkpoints(capsys, "list", "--json")
    assert (code, err) == (0, "note: this server lacks something\n")
    json.loads(out)
    code, _, err = checkpoints(capsys, "verify", "none")
    assert code == 2
    note, error = err.splitlines()
    assert note == "note: this server lacks something"
    assert error.startswith("error: there is no run 'none'")
    assert not store.notices
    assert not output._notices


def test_damage_of_every_kind_ends_with_four_and_an_unfinished_folder_does_not(store, capsys):
    names = make_run(store)
    folder = store.path / "first" / "checkpoints" / names[0]
    unfinished = folder.with_name(str(FolderName(40, 1, "abcdef")))
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_text("half")
    assert checkpoints(capsys, "verify", "first", "--store", store.url)[0] == 0
    for file in (*FILES, "MANIFEST.json"):
        good = (folder / file).read_bytes()
        (folder / file).write_bytes(good[:-2] + b"??")
        code, out, _ = checkpoints(capsys, "verify", "first", "--store", store.url, "--json")
        damaged = [one for one in json.loads(out) if one["is_damaged"]]
        assert (code, [one["name"] for one in damaged]) == (4, [names[0]])
        (folder / file).write_bytes(good)
    (folder / FILES[0]).unlink()
    assert checkpoints(capsys, "verify", "first", "--store", store.url)[0] == 4


class Remote(FileStore):
    """A folder behind a network: what is fetched takes space here."""

    has_locks = False

    def __init__(self, path):
        super().__init__(path)
        self.scratch = []

    def fetch(self, key, path):
        content = self.get(key)
        path.write_bytes(content)
        self.scratch.append(sum(file.stat().st_size for file in path.parent.parent.rglob("*") if file.is_file()))
        return path


def test_verify_and_copy_need_the_space_of_one_file_here(store, tmp_path, capsys, monkeypatch):
    names = make_run(store)
    largest = max(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    remote = Remote(store.path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(inspect.tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(runs, "open_store", lambda *_: remote)
    assert checkpoints(capsys, "verify", "first")[0] == 0
    assert checkpoints(capsys, "pull", "first", "--out", tmp_path / "here")[0] == 0
    assert len(remote.scratch) >= 4 * len(FILES)
    assert max(remote.scratch) <= largest
    assert not list(scratch.iterdir())
    assert (tmp_path / "here/first/checkpoints" / names[-1] / "MANIFEST.json").exists()


def test_a_damaged_checkpoint_is_not_copied_and_leaves_nothing(store, tmp_path, capsys):
    names = make_run(store)
    weights = store.path / "first/checkpoints" / names[-1] / "state.json"
    weights.write_text("{}")
    code, _, err = checkpoints(capsys, "push", store.path / "first", "--store", f"file://{tmp_path}/there")
    assert code == 4
    assert "state.json has 2 bytes instead of" in err
    assert not [path for path in (tmp_path / "there").rglob("*") if path.is_file() and not path.name.startswith(".~")]


def test_a_copy_that_was_cut_short_can_be_repeated(store, tmp_path, capsys, monkeypatch):
    make_run(store)
    there = tmp_path / "there"
    whole = FileStore.put

    def cut(self, key, chunks, *, only_new=False):
        if self.path == there and key.endswith("run.json"):
            raise KeyboardInterrupt
        whole(self, key, chunks, only_new=only_new)

    monkeypatch.setattr(FileStore, "put", cut)
    line = ["push", store.path / "first", "--store", f"file://{there}"]
    assert checkpoints(capsys, *line)[0] == 130
    assert content(there)
    monkeypatch.setattr(FileStore, "put", whole)
    assert checkpoints(capsys, *line)[0] == 0
    assert checkpoints(capsys, "verify", "first", "--store", f"file://{there}")[0] == 0


def test_what_is_somebody_elses_stays_untouched(store, tmp_path, capsys):
    names = make_run(store)
    other = tmp_path / "other"
    (other / "web").mkdir(parents=True)
    (other / "web/run.json").write_text('{"of": "another program"}')
    for path in ("first/photo.jpg", "first/checkpoints/notes.txt", "second/checkpoints/x/y", "a b/run.json", "loose"):
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        (other / path).write_text("mine")
    before = content(other)
    line = ["--store", f"file://{other}"]
    code, _, err = checkpoints(capsys, "push", store.path / "first", *line)
    assert code == 2
    assert "holds files that are no run (checkpoints/notes.txt, ...); move them away" in err
    assert checkpoints(capsys, "list", "--json", *line)[1] == "[]\n"
    for verb in ("verify", "prune", "promote", "pull --out here"):
        command, *rest = verb.split()
        assert checkpoints(capsys, command, "first", *rest, *line)[0] == 2
    assert main(["report", "first", *line]) == 2
    assert content(other) == before
    (store.path / "first/checkpoints/mine.txt").write_text("mine")
    (store.path / "first/checkpoints/old-0001-abcdef").mkdir()
    (store.path / "first/checkpoints/old-0001-abcdef/x").write_text("mine")
    assert checkpoints(capsys, "prune", "first", "--keep-last", 1, "--no-keep-best", "--store", store.url)[0] == 0
    left = content(store.path / "first/checkpoints")
    assert {path.split("/")[0] for path in left} >= {"mine.txt", "old-0001-abcdef", names[-1]}
    assert names[0] not in {path.split("/")[0] for path in left}


def test_another_run_of_that_name_is_not_overwritten(store, tmp_path, capsys):
    make_run(store)
    other = FileStore(tmp_path / "other")
    make_run(other, digest="e" * 16)
    before = content(other.path)
    code, _, err = checkpoints(capsys, "push", store.path / "first", "--store", other.url)
    assert code == 4
    assert "has another run called first" in err
    assert content(other.path) == before
