"""`trainer prepare --task hierarchy`: packed rows are the rows they came from, and say it when they are not."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.hierarchy_rows import HEADER, ROWS, settings_of, table_settings, write_table
from trainer.checkpoint.files import FileStore
from trainer.cli import main, packing
from trainer.errors import DataError
from trainer.tasks.hierarchy.opening import open_rows
from trainer.tasks.hierarchy.packed import HEADER as PACKED_HEADER
from trainer.tasks.hierarchy.rows import open_data

COLUMNS = {
    "data.levels": "[fine, mid, coarse]",
    "data.features": "[x1, x2]",
    "data.blocks": "{SITE: [site_a, site_b]}",
    "data.group": "who",
}
GAPS = [*ROWS, "f0,,,1,2,3,4,r0", "f1,m0,c0,1,2,,4,r0", ",,,1,2,3,4,r1"]


def prepare(*arguments: object, **columns: str) -> int:
    """The command with the columns of the usual table."""
    said = [f"{name}={value}" for name, value in (COLUMNS | columns).items()]
    sets = [part for text in said for part in ("--set", text)]
    return main(["prepare", "--task", "hierarchy", *map(str, arguments), *sets])


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The usual table with some gaps, packed in `rows` of the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER__CACHE", str(tmp_path / "cache"))
    write_table(tmp_path, GAPS)
    assert prepare("rows.csv", "rows") == 0
    return tmp_path / "rows"


def test_packed_rows_are_the_rows_of_the_table(rows: Path) -> None:
    for way in ("record", "row", "fixed"):
        more = (f"data.split.by={way}",)
        table, packed = (open_data(table_settings(path, *more)).opened for path in (rows.with_suffix(".csv"), rows))
        assert packed.table.digest == table.table.digest, "a run goes on with the one or the other"
        assert packed.tree.digest == table.tree.digest
        assert {name: part.tolist() for name, part in packed.parts.items()} == {
            name: part.tolist() for name, part in table.parts.items()
        }


def test_packing_again_gives_the_same_bytes(rows: Path) -> None:
    assert prepare("rows.csv", "again") == 0
    for name in ("rows.json", "rows.npz"):
        assert (rows.parent / "again" / name).read_bytes() == (rows / name).read_bytes()
    assert prepare("rows.csv", "again") == 3
    assert prepare("rows.csv", "again", "--overwrite") == 0


@pytest.mark.parametrize("layout", ["npz", "parquet", "images"])
def test_any_layout_becomes_rows_that_need_only_numpy(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    columns: dict[str, str] = {}
    if layout == "parquet":
        import duckdb

        duckdb.read_csv(str(write_table(tmp_path))).to_parquet("source.parquet")
    elif layout == "npz":
        table = open_rows(table_settings(write_table(tmp_path))).table
        texts = dict(zip(HEADER.split(","), zip(*(row.split(",") for row in ROWS), strict=True), strict=True))
        arrays = {name: np.array(texts[name]) for name in ("fine", "mid", "coarse", "who", "site_a", "site_b")}
        np.savez("source.npz", numbers=table.features, **arrays)
        columns = {"data.features": "[numbers]"}
    else:
        Path("source").mkdir()
        for number in range(8):
            Image.new("RGB", (9, 9), (30 * number, 0, 0)).save(f"source/{number}.png")
        cells = [row.split(",") for row in ROWS]
        lines = [",".join([f"{number}.png", *cells[number][:3], *cells[number][5:]]) for number in range(10)]
        Path("source/index.csv").write_text("\n".join(["image,fine,mid,coarse,site_a,site_b,who", *lines]))
        columns = {"data.features": "[]", "data.image_size": "6"}
    source = "source" if layout == "images" else f"source.{layout}"
    overrides = [f"{name}={value}" for name, value in (COLUMNS | columns).items()]
    expected = open_rows(settings_of(f"data.path={source}", *overrides)).table
    assert prepare(source, "packed", **columns) == 0
    shutil.rmtree(source) if layout == "images" else Path(source).unlink()
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    again = open_rows(settings_of("data.path=packed", *overrides)).table
    assert again.digest == expected.digest
    assert len(again) == (8 if layout == "images" else 48)


def test_a_given_tree_and_a_given_split_travel_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = [f"{row},{'val' if number % 4 == 0 else 'train'}" for number, row in enumerate(ROWS)]
    path = write_table(tmp_path, table, f"{HEADER},split")
    edges = sorted({",".join(row.split(",")[:3]) for row in ROWS})
    Path("tree.csv").write_text("\n".join(["fine,mid,coarse", "extra,m2,c1", *edges]))
    more = {"data.split.by": "given"}
    expected = open_rows(table_settings(path, "data.tree=tree.csv", "data.split.by=given"))
    assert prepare(path, "packed", **more, **{"data.tree": "tree.csv"}) == 0
    Path("tree.csv").unlink()
    again = open_rows(table_settings(tmp_path / "packed", "data.split.by=given"))
    assert again.tree.digest == expected.tree.digest
    assert again.tree.names[0][0] == "extra"
    assert again.parts["val"].tolist() == expected.parts["val"].tolist() == list(range(0, 48, 4))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.levels=[fine, coarse]", r'data.levels is \["fine", "coarse"\], they were packed with \["fine", "mid"'),
        ("data.features=[x1]", r"data.features is"),
        ("data.blocks={}", r"data.blocks is \{\}"),
        ("data.split.by=given", "packed without the column 'split'"),
    ],
)
def test_settings_that_mean_other_columns_are_refused(rows: Path, override: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        open_rows(table_settings(rows, override))
    assert "\n" not in str(error.value)
    assert "set the same, or pack the rows again" in str(error.value)


def test_damage_is_found_and_said(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((rows / "rows.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (rows / "rows.npz").write_bytes(content)
    assert prepare("rows", "--check") == 3
    assert "rows.npz is not what rows.json says; pack the rows again" in capsys.readouterr().err
    with pytest.raises(DataError, match="is damaged"):
        open_rows(table_settings(rows))
    for header in ("{", "[]", json.dumps({"format": "hierarchy-rows", "version": 2})):
        (rows / PACKED_HEADER).write_text(header)
        with pytest.raises(DataError, match="pack the rows again") as error:
            open_rows(table_settings(rows))
        assert "\n" not in str(error.value)


def test_check_counts_and_names_what_is_odd(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("rows", "--check") == 0
    said = capsys.readouterr().out
    assert "51 rows of shape 2, 8 records" in said
    assert "fine: 6 classes, 8 to 9 rows each, 1 rows unknown" in said
    assert "block SITE: valid in 98.0% of the rows" in said
    assert "note: 1 rows have no label at any level and will be left out" in said
    write_table(rows.parent, [*ROWS, "f0,m1,c0,1,2,3,4,r1", "f7,m0,c0,1,2,3,4,r1"])
    assert prepare("rows.csv", "rows", "--overwrite", "--check", "--json") == 0
    found = json.loads(capsys.readouterr().out)["check"]
    assert [line.partition(" in ")[0] for line in found["faults"]] == ["fine 'f0' has two parents of level mid: 'm0'"]
    assert found["remarks"] == ["fine f7: a single row", "fine f7: all rows of one record, so none can be held out"]


def test_show_prints_rows_evenly_spread(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert prepare("rows", "--show", "2") == 0
    assert capsys.readouterr().out.splitlines()[1:8] == [
        "line 2  (1 of 51)",
        "  fine: f0",
        "  mid: m0",
        "  coarse: c0",
        "  features: 0 0",
        "  block SITE: 0.5 0",
        "  record: r0",
    ]
    assert main(["prepare", "--task", "hierarchy", "--config", "quick", "--show", "1"]) == 0
    assert capsys.readouterr().out.startswith("row 0  (1 of 750)")
    assert prepare("rows", "--show", "x") == 2
    assert "--show takes the number of rows" in capsys.readouterr().err


def test_a_toy_set_can_be_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "t2"
    assert main(["prepare", "--task", "hierarchy", "--synthetic", str(target), "--layout", "t2"]) == 0
    blocks = "{SITE: [SITE], SEASON: [SEASON], ELEV: [ELEV]}"
    columns = ("data.levels=[fine, mid, coarse]", f"data.blocks={blocks}", "data.split.by=given")
    packed, own = open_rows(settings_of(f"data.path={target}", *columns)), open_rows(settings_of("data.layout=t2"))
    assert packed.table.digest == own.table.digest
    assert packed.tree.digest == own.tree.digest
    capsys.readouterr()
    assert main(["prepare", "--task", "hierarchy", "rows.csv", str(target), "--layout", "t2"]) == 2
    assert "data.layout is t2, which is generated: say --synthetic in place of rows.csv" in capsys.readouterr().err


def test_what_was_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_table(tmp_path, [*ROWS, "f0,m0,c0,,2,3,4,r0"])
    assert prepare(path, tmp_path / "rows") == 3
    assert not (tmp_path / "rows").exists()
    assert prepare(path, tmp_path / "rows", "--bad-samples", "skip") == 0
    captured = capsys.readouterr()
    assert "line 50: a feature is missing or not finite" in captured.err
    assert "48 rows of 2 features, 6 fine, 3 mid, 2 coarse, blocks SITE, 1 left out" in captured.out


def test_packed_rows_go_to_a_store_and_come_from_it(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FileStore(rows.parent / "bucket")
    monkeypatch.setattr(packing, "open_store", lambda url, s3: store)
    assert prepare("rows.csv", "--to", "s3://bucket/rows") == 0
    assert prepare("rows", "--to", "s3://bucket/rows") == 0
    assert "nothing to push" in capsys.readouterr().out, "the same rows are the same bytes"
    assert prepare("rows", "other") == 3
    assert "is packed already" in capsys.readouterr().err
    assert prepare("rows", "--to", f"file://{rows.parent}/copy") == 0
    assert (rows.parent / "copy" / "rows.npz").read_bytes() == (rows / "rows.npz").read_bytes()
    assert prepare("rows.csv", "half", "--dtype", "float16") == 2
