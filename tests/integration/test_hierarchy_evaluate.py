"""`trainer evaluate` on the run's own table and on others: the numbers of the run, or a refusal, never others."""

import json
from pathlib import Path

import pytest

from tests.hierarchy_rows import ROWS, write_table
from trainer.cli import main

BLOCKS = "data.blocks={SITE: [site_a], ELEV: [site_b]}"
"""In an order of the user's own."""
COLUMNS = ["data.levels=[fine, mid, coarse]", "data.features=[x1, x2]", BLOCKS, "data.group=who"]
SMALL = ["output.report=false", "output.export=[]", "telemetry.tensorboard=off", "schedule.warmup=0", "optim.lr=0.1",
         "num_epochs=4"]  # fmt: skip


def words(*sets: str) -> list[str]:
    return [word for text in sets for word in ("--set", text)]


def rows_of(folder: Path, rows: list[str]) -> str:
    folder.mkdir()
    return str(write_table(folder, rows))


@pytest.fixture(scope="module", params=["run", None], ids=["named", "unnamed"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a small table; a run with a name is opened before its data."""
    folder = tmp_path_factory.mktemp("evaluated")
    named = ["--run_name", request.param] if request.param else []
    line = ["train", "--task", "hierarchy", "--data", rows_of(folder / "own", ROWS), "--store", f"file://{folder}/runs"]
    assert main([*line, *named, *words(*COLUMNS, *SMALL)]) == 0
    return next((folder / "runs").iterdir())


def evaluated(run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, dict[str, float]]:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", *more]) == 0
    results: dict[str, dict[str, float]] = json.loads(capsys.readouterr().out)["results"]
    return results


def test_a_run_is_evaluated_with_the_columns_it_was_trained_with(trained: Path, capsys) -> None:
    lines = [json.loads(line) for path in sorted(trained.glob("ledger/*/*")) for line in path.read_text().splitlines()]
    final = {one["name"]: one["metrics"]["loss"] for one in lines if one["event"] == "PassDone" and one["is_final"]}
    assert {name: one["loss"] for name, one in evaluated(trained, capsys).items()} == pytest.approx(final)


def test_other_rows_of_the_same_classes_are_evaluated(trained: Path, capsys, tmp_path: Path) -> None:
    other = rows_of(tmp_path / "other", [row.replace(",0.5,", ",0.25,") for row in ROWS])
    assert evaluated(trained, capsys, "--data", other)["val"]["loss"] != evaluated(trained, capsys)["val"]["loss"]


def test_classes_of_other_names_are_refused(trained: Path, capsys, tmp_path: Path) -> None:
    """As many of them, so that every weight fits: what comes after `f0` would be taken for its neighbour."""
    other = rows_of(tmp_path / "other", [row.replace("f0", "f9") for row in ROWS])
    assert main(["evaluate", str(trained), "--data", other]) == 4
    assert "was trained with other classes (data.tree may name them) than these data" in capsys.readouterr().err
