"""Rows in a real S3 server: packed and pushed from a table, checked by URL, trained on as on the table itself."""

from pathlib import Path

import pytest

from tests.hierarchy_rows import ROWS, write_table
from trainer.checkpoint.stores import open_store
from trainer.cli import main

COLUMNS = (
    "data.levels=[fine, mid, coarse]",
    "data.features=[x1, x2]",
    "data.blocks={SITE: [site_a, site_b]}",
    "data.group=who",
)
SMALL = (
    "num_epochs=2",
    "batch_size=16",
    "output={export: [], report: false}",
    "telemetry.progress=off",
    "telemetry.tensorboard=off",
)


def command(*arguments: str, sets: tuple[str, ...] = COLUMNS) -> int:
    """A command of the task with the columns of the usual table."""
    name, *rest = arguments
    return main([name, "--task", "hierarchy", *rest, *(part for text in sets for part in ("--set", text))])


def weights_after_training(data: str, store: str) -> bytes:
    """Those of the newest checkpoint."""
    assert command("train", "--data", data, sets=(*COLUMNS, *SMALL, f"run={{name: run, store: '{store}'}}")) == 0
    runs = open_store(store)
    keys = [one.key for one in runs.entries("run/checkpoints/") if one.key.endswith("model.safetensors")]
    return runs.get(max(keys))


@pytest.mark.usefixtures("s3_env")
def test_rows_in_a_bucket_train_to_the_weights_of_the_table(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER__CACHE", str(tmp_path / "cache"))
    path, url = write_table(tmp_path, [*ROWS, "f0,,,1,2,3,4,r0"]), f"s3://{bucket}/data/rows"
    assert command("prepare", str(path), "--to", url) == 0
    assert f"in {url}; train: --data {url}" in capsys.readouterr().out
    assert command("prepare", str(path), "--to", url) == 0
    assert "nothing to push" in capsys.readouterr().out
    assert command("prepare", url, "--check", "--show", "1") == 0
    captured = capsys.readouterr()
    assert "49 rows of shape 2, 8 records" in captured.out
    assert "nothing odd found" in captured.out
    assert "line 2  (1 of 49)" in captured.out
    of_table = weights_after_training(str(path), f"file://{tmp_path}/runs")
    capsys.readouterr()
    assert weights_after_training(url, f"s3://{bucket}/runs") == of_table
    assert "fetching" not in capsys.readouterr().err, "the copy in the cache is whole"
