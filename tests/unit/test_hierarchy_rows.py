"""Readers, filters with their counts, the split, the toy sets, and every bad input of issue 9 as one clear line."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from tests.hierarchy_rows import HEADER, ROWS, settings_of, table_settings, write_table
from trainer.cli import main
from trainer.config.hierarchy import level_curve
from trainer.config.notes import notes
from trainer.config.sources import load_settings
from trainer.errors import DataError, SettingsError
from trainer.tasks.hierarchy.opening import open_rows
from trainer.tasks.hierarchy.rows import open_data
from trainer.tasks.hierarchy.toys import NUM_TRAIN, toy


def test_a_table_becomes_rows_labels_and_blocks(tmp_path: Path) -> None:
    rows = [*ROWS, "f0,, ,1,2,3,4,r0", "f1,m0,c0,1,2, ,4,r0"]
    opened = open_rows(table_settings(write_table(tmp_path, rows)))
    assert opened.tree.names == [[f"f{n}" for n in range(6)], ["m0", "m1", "m2"], ["c0", "c1"]]
    assert opened.table.features.shape == (50, 2)
    assert opened.table.labels[48].tolist() == [0, 0, 0], "filled"
    assert opened.blocks.ranges == {"SITE": (0, 2)}
    assert opened.table.valid[49].tolist() == [False], "one empty cell makes the block invalid"
    assert opened.table.blocks[49].tolist() == [0, 0]
    assert opened.report["rows"] == {"read": 50, "no_label": 0, "overruled": 0, "filled": 1, "bad": 0, "used": 50}
    assert opened.report["unknown_before"] == {"fine": 0, "mid": 1, "coarse": 1}
    assert opened.report["unknown_after"] == {"fine": 0, "mid": 0, "coarse": 0}


def test_filters_are_counted_and_their_classes_stay_classes(tmp_path: Path) -> None:
    rows = [*ROWS, ",,,1,2,3,4,r0", "f9,,c0,1,2,3,4,r7", ",m1,c0,1,2,3,4,r7"]
    opened = open_rows(table_settings(write_table(tmp_path, rows), "data.drop_gaps=true"))
    counted = opened.report["rows"]
    assert [counted[name] for name in ("read", "no_label", "gaps", "used")] == [51, 1, 1, 49]
    only_filtered = open_rows(table_settings(write_table(tmp_path, rows), "data.drop_partial=true")).report
    assert only_filtered["rows"]["partial"] == 2
    assert only_filtered["unknown_before"] == only_filtered["unknown_after"] == {"fine": 0, "mid": 0, "coarse": 0}
    assert only_filtered["classes_without_rows"] == {"fine": ["f9"], "mid": [], "coarse": []}


def test_defect_07_what_is_filtered_moves_nobody_s_label_group_or_block(tmp_path: Path) -> None:
    """linnaeus: numbers of filtered rows on unfiltered arrays; 17 % of the rows kept their true group."""
    mixed = [line for row in ROWS for line in (",,,9,9,9,9,r9", row)]
    plain, filtered = (open_rows(table_settings(write_table(tmp_path, rows))) for rows in (ROWS, mixed))
    assert filtered.report["rows"]["no_label"] == len(ROWS)
    for name in ("features", "labels", "blocks", "valid", "record"):
        np.testing.assert_array_equal(getattr(filtered.table, name), getattr(plain.table, name))
    assert [str(where) for where in filtered.table.where[:2]] == ["line 3", "line 5"]


def test_npz_holds_the_same_rows(tmp_path: Path) -> None:
    table = open_rows(table_settings(write_table(tmp_path))).table
    columns = dict(zip(HEADER.split(","), zip(*(row.split(",") for row in ROWS), strict=True), strict=True))
    arrays = {name: np.array(columns[name]) for name in ("fine", "mid", "coarse", "who")}
    site = np.array([columns["site_a"], columns["site_b"]], np.float64).T
    np.savez(tmp_path / "rows.npz", features=table.features, site=site, **arrays)
    settings = table_settings(tmp_path / "rows.npz", "data.features=[]", "data.blocks={SITE: [site.*]}")
    again = open_rows(settings).table
    for name in ("features", "labels", "blocks", "valid", "record"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))


def test_numbers_as_labels_are_unknown_at_minus_one(tmp_path: Path) -> None:
    labels = np.arange(40) % 4
    np.savez(
        tmp_path / "rows.npz", features=np.zeros((40, 2)), fine=np.where(labels == 3, -1, labels), coarse=labels // 2
    )
    wanted = ("data.levels=[fine, coarse]", "data.split.by=row")
    opened = open_rows(settings_of(f"data.path={tmp_path / 'rows.npz'}", *wanted))
    assert opened.tree.names == [["0", "1", "2"], ["0", "1"]]
    assert (opened.table.labels[:, 0] == -1).sum() == 10


def test_npz_unknown_is_minus_one_of_any_kind_and_only_in_labels(tmp_path: Path) -> None:
    labels = np.stack([np.arange(40) % 4 - 1, np.zeros(40, np.int64)], 1)
    path, wanted = tmp_path / "rows.npz", ("data.split.by=row", "data.blocks={SITE: [lon]}")
    common = {"features": np.zeros((40, 2)), "lon": np.full(40, -1)}
    np.savez(path, labels=labels, fine=labels[:, 0].astype(np.float32), **common)
    for level in ("labels.0", "fine"):
        opened = open_rows(settings_of(f"data.path={path}", f"data.levels=[{level}, labels.1]", *wanted))
        assert (opened.table.labels[:, 0] == -1).tolist() == (labels[:, 0] == -1).tolist()
        assert len(opened.tree.names[0]) == 3
        assert opened.table.valid.all(), "-1 is a longitude like any other"
        assert (opened.table.blocks == -1).all()
    np.savez(path, fine=labels[:, 0] - 1, coarse=labels[:, 1], **common)
    with pytest.raises(DataError, match=r"rows\.npz: level 'fine' holds -2 in row 0; labels begin at 0, -1 is unknown"):
        open_rows(settings_of(f"data.path={path}", "data.levels=[fine, coarse]", *wanted))


def test_cells_that_are_no_numbers_are_bad_rows(tmp_path: Path) -> None:
    rows = [*ROWS, "f0,m0,c0,x,2,3,4,r0", "f0,m0,c0,1,2,north,4,r0", "f0,m0,c0,1e300,y,3,4,r0", "f0,m0,c0,,2,3,4,r0"]
    opened = open_rows(table_settings(write_table(tmp_path, rows), "data.bad_samples=skip"))
    assert len(opened.table) == len(ROWS)
    assert [line.partition("rows.csv ")[2] for line in opened.report["bad"]] == [
        "line 50: column 'x1' (data.features) holds 'x', not a number",
        "line 51: column 'site_a' (data.blocks.SITE) holds 'north', not a number",
        "line 52: column 'x1' (data.features) holds '1e300', which is too large",
        "line 53: a feature is missing or not finite",
    ]
    assert (opened.report["rows"]["read"], opened.report["rows"]["bad"]) == (52, 4)


def test_parquet_without_duckdb_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"needs DuckDB: pip install 'signs-trainer\[parquet\]'"):
        open_rows(table_settings(path))


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    written = write_table(tmp_path, [*ROWS, "f0,,,1,2,3,4,r0"])
    path = tmp_path / "rows [1]*.parquet"
    duckdb.read_csv(str(written)).to_parquet(str(path))
    table = open_rows(table_settings(written)).table
    again = open_rows(table_settings(path)).table
    for name in ("features", "labels", "blocks", "valid", "record"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_rows(table_settings(path))


def test_settings_without_effect_are_named() -> None:
    settings = settings_of("data.layout=t1", "mix.cutmix=true", "decode.threshold=0.7", "data.image_size=9")
    assert [line.split()[0] for line in notes(settings)] == ["data.image_size", "mix.cutmix", "decode.threshold"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty red and green squares with a table."""
    lines = ["image,fine,coarse,who"]
    for number in range(20):
        Image.new("RGB", (20, 10), ["red", "lime"][number % 2]).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,f{number % 2},c0,r{number % 5}")
    (tmp_path / "index.csv").write_text("\n".join([*lines, "gone.png,f0,c0,r0"]))
    return tmp_path


def image_settings(folder: Path, *overrides: str):
    """For the folder of the fixture."""
    return settings_of(
        f"data.path={folder}", "data.levels=[fine, coarse]", "data.group=who", "data.image_size=8", *overrides
    )


def test_a_folder_of_images_is_read_and_missing_ones_counted(images: Path) -> None:
    sets = open_data(image_settings(images))
    assert sets.opened.report["rows"]["missing_image"] == 1
    assert sets.shape == (3, 8, 8)
    assert (sets.plain.divisor, sets.opened.table.features.dtype) == (255.0, np.uint8)
    batch = sets.evaluated["val"].take(np.arange(2), 0)
    for label, pixels in zip(batch["labels"][:, 0].tolist(), batch["features"], strict=True):
        assert pixels.amax((1, 2)).tolist() == ([1, 0, 0] if label == 0 else [0, 1, 0])


def test_an_image_that_does_not_decode_is_named_or_skipped(images: Path) -> None:
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"3\.png \(line 5\): does not decode") as error:
        open_rows(image_settings(images))
    assert "\n" not in str(error.value)
    skipped = open_rows(image_settings(images, "data.bad_samples=skip"))
    assert skipped.report["rows"]["bad"] == 1
    assert len(skipped.table) == 19
    with pytest.raises(DataError, match=r"data\.bad_budget is 0"):
        open_rows(image_settings(images, "data.bad_samples=skip", "data.bad_budget=0"))
    for path in images.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no row is left: 21 name an image that is not there, 0 are bad"):
        open_rows(image_settings(images))


BAD_TABLES = {
    "two parents for one class": (
        [*ROWS, *["f0,m1,c0,1,2,3,4,r1"] * 5],
        [],
        r"rows.csv: fine 'f0' has two parents of level mid: 'm0' in line .*; 'm1' in line \d+, line \d+, line \d+; ",
    ),
    "a label that contradicts the tree in validation": (
        [*(f"{row},train" for row in ROWS), "f0,m2,c1,1,2,3,4,r1,val"],
        ["data.split.by=given"],
        "line 50: its labels contradict the label tree: fine 'f0', mid 'm2', coarse 'c1'",
    ),
    "an unknown level": (ROWS, ["data.levels=[fine, midd, coarse]"], "no column 'midd' .*did you mean 'mid'"),
    "an empty level": ([row.replace(row.split(",")[2], "", 1) for row in ROWS], [], "level 'coarse' has no label"),
    "a block column that is missing": (ROWS, ["data.blocks={SITE: [site_x]}"], "no column 'site_x' .data.blocks.SITE"),
    "a block column that is not a number": (
        [*ROWS, "f0,m0,c0,1,2,north,4,r0"],
        [],
        r"rows.csv line 50: column 'site_a' \(data.blocks.SITE\) holds 'north', not a number",
    ),
    "a feature that is missing": ([*ROWS, "f0,m0,c0,,2,3,4,r0"], [], "line 50: a feature is missing"),
    "a row that is too short": ([*ROWS, "f0,m0"], [], "line 50 has 2 cells, the header 8"),
    "a group column with one group": ([f"{row[:-2]}r1" for row in ROWS], [], "all rows are of one record .'r1'"),
    "an empty validation split": (ROWS, ["data.split.val_share=0"], "the split leaves no row for val"),
    "no rows": ([], [], "holds no rows"),
    "other marks between the columns": ([row.replace(",", ";") for row in ROWS], [], "';' between its columns; save"),
    "a tree that is not there": (ROWS, ["data.tree=gone.csv"], "data.tree: gone.csv does not exist; it is a CSV table"),
    "a word that is no part": (
        [f"{row},trian" for row in ROWS],
        ["data.split.by=given"],
        "column 'split' holds 'trian'; it may say train, val, test",
    ),
    "a level that no training row knows": (
        [*(f"f0,m0,,{number},2,3,4,r0,train" for number in range(9)), "f1,m1,c0,1,2,3,4,r1,val"],
        ["data.split.by=given"],
        "no training row has a label of level 'coarse'",
    ),
    "a feature that is no number": ([*ROWS, "f0,m0,c0,1,x,3,4,r0"], [], "line 50: column 'x2' .* holds 'x', not a"),
    "a feature that is nearly there": (ROWS, ["data.features=[x11]"], "no column 'x11' .*did you mean 'x1'"),
    "a group column that is not there": (ROWS, ["data.group=whom"], "no column 'whom' .data.group.*mean 'who'"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_rows_end_in_one_line_and_exit_3(tmp_path: Path, case: str) -> None:
    rows, overrides, message = BAD_TABLES[case]
    header = f"{HEADER},split" if "given" in str(overrides) else HEADER
    header = header.replace(",", ";") if "other marks" in case else header
    with pytest.raises(DataError, match=message) as error:
        open_rows(table_settings(write_table(tmp_path, rows, header), *overrides))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


def test_a_label_outside_its_level_is_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree.csv"
    tree.write_text("fine,mid,coarse\n" + "\n".join({row.rsplit(",", 5)[0] for row in ROWS if row[1] != "5"}))
    with pytest.raises(DataError, match=r"line 7: label 'f5' is no class of level 'fine' in .*tree\.csv"):
        open_rows(table_settings(write_table(tmp_path), f"data.tree={tree}"))
    tree.write_text("fine,mid\nf0,m0\n")
    with pytest.raises(DataError, match=r"tree\.csv has no column 'coarse' \(data\.levels\)"):
        open_rows(table_settings(write_table(tmp_path), f"data.tree={tree}"))


BAD_FILES = {
    "rows.csv": ({"": "holds no rows", "\xff\xfe": r"is no text in UTF-8 \(byte 0\); save it as CSV in UTF-8"}),
    "rows.npz": ({"": "cannot be read as NPZ", "PK\x03\x04": "cannot be read as NPZ"}),
    "rows.parquet": ({"": "cannot be read as Parquet", "PAR1": "cannot be read as Parquet"}),
    "rows.txt": ({"a": r"is no \.csv, \.parquet or \.npz; data\.layout says what it is"}),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_cannot_be_read_end_in_one_line_and_exit_3(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, message in BAD_FILES[name].items():
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        sets = ["data.levels=[a]", "data.features=[b]", "data.split.by=row"]
        line = ["train", "--task", "hierarchy", "--data", str(tmp_path / name), "--set", f"run.store=file://{tmp_path}"]
        assert main([*line, *(part for text in sets for part in ("--set", text))]) == 3
        (said,) = capsys.readouterr().err.splitlines()
        assert re.search(message, said)


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path: .*gone\.csv does not exist; trainer train .* generated set"):
        open_rows(table_settings(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match=r"must hold index\.csv with images, or one file .*; got 0"):
        open_rows(table_settings(tmp_path))
    with pytest.raises(DataError, match=r"data\.path is not set: give a table"):
        open_rows(settings_of())


def test_a_given_tree_replaces_that_of_the_rows(tmp_path: Path) -> None:
    tree = tmp_path / "tree.csv"
    tree.write_text(
        "fine,mid,coarse\nextra,m2,c1\n" + "\n".join(sorted({",".join(row.split(",")[:3]) for row in ROWS}))
    )
    own, given = (open_rows(table_settings(write_table(tmp_path), *more)) for more in ([], [f"data.tree={tree}"]))
    assert given.tree.names[0] == ["extra", *own.tree.names[0]]
    assert (given.table.labels[:, 0] == own.table.labels[:, 0] + 1).all()


BAD_SETTINGS = {
    "an unknown level in the loss": (["data.layout=t1", "loss.criteria={finest: tree_smoothing}"], "level 'finest'"),
    "an unknown level of groups": (["data.layout=t1", "mix.level=coarse @ 0, small @ 50%"], "level 'small'"),
    "two levels at once": (["data.layout=t1", "mix.level=fine, mid"], "^mix.level is 'fine, mid'; write one level"),
    "a level without a place": (["data.layout=t1", "mix.level=mid, fine @ 30%"], "mix.level is .*; write one level"),
    "levels out of order": (["data.layout=t1", "mix.level=mid @ 60%, fine @ 30%"], "mix.level is 'mid .* out of order"),
    "an unknown block": (["data.layout=t1", "mask.passes=[SITE+SOIL]"], "block 'SOIL'; there are: SITE, SEASON, ELEV"),
    "a level twice": (["data.levels=[a, a]"], "data.levels names 'a' twice"),
    "a name with a slash": (["data.levels=[a/b]"], "no / or"),
    "an unknown unit": (["data.layout=t1", "mask.all=1 @ 5 parsecs"], "parsecs"),
    "zero": (["data.layout=t1", "mask.when=every 0%"], "zero"),
    "more than all": (["data.layout=t1", "mask.when=at 120%"], "120%"),
    "two moments for one thing": (["data.layout=t1", "mask.when=every 5 steps at 10%"], "is no amount"),
    "more than certain": (["data.layout=t1", "mix.probability=2 @ 0"], "a probability is between 0 and 1"),
    "a block without columns": (["data.blocks={SITE: []}"], "data.blocks.SITE names no column; leave the block out"),
    "a toy set with a tree": (["data.layout=t1", "data.tree=tree.csv"], "has its own levels, blocks and tree"),
    "no record": (["data.path=rows.csv", "data.levels=[a]"], "needs data.group"),
    "shares beyond one": (
        ["data.split.val_share=0.6", "data.split.test_share=0.5"],
        "data.split.val_share 0.6 and data.split.test_share 0.5 leave nothing to train on",
    ),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings_end_in_exit_2(case: str) -> None:
    overrides, message = BAD_SETTINGS[case]
    with pytest.raises(SettingsError, match=message):
        settings_of(*overrides)


def test_two_keys_are_two_moments_for_one_pass(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("task: hierarchy\ndata: {layout: t1}\npasses: {val: {every: 5 steps, at: 10%}}\n")
    with pytest.raises(SettingsError, match="takes one moment, got 2: every, at"):
        load_settings(config=str(path))


def test_a_curve_that_this_run_puts_out_of_order_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^the knots of mask.partial are out of order in a run of 120 steps"):
        open_data(settings_of("data.layout=t1", "num_epochs=12", "mask.partial=1 @ 90 steps, 0 @ 50%"))


@pytest.mark.parametrize("setting", ["data.augment.flip=0.5", "mix.cutmix=true", "model.trunk=cnn"])
def test_what_is_for_images_is_refused_for_vectors(tmp_path: Path, setting: str) -> None:
    with pytest.raises(SettingsError, match=r"is for images; .* has vectors of 2 features"):
        open_data(table_settings(write_table(tmp_path), setting))


def test_other_data_are_another_run(tmp_path: Path) -> None:
    settings = table_settings(write_table(tmp_path))
    open_data(settings)
    assert settings.data.digest
    open_data(settings)
    changed = [row.replace(",0.5,", ",0.25,") for row in ROWS]
    write_table(tmp_path, changed)
    with pytest.raises(DataError, match="other data"):
        open_data(settings)


def test_no_record_is_on_both_sides_and_new_rows_move_none(tmp_path: Path) -> None:
    opened = open_rows(table_settings(write_table(tmp_path), "data.split.test_share=0.2"))
    sides = {name: set(opened.table.record[rows].tolist()) for name, rows in opened.parts.items()}
    assert not sides["train"] & sides["val"]
    assert not sides["train"] & sides["test"]
    assert not sides["val"] & sides["test"]
    first = open_rows(table_settings(write_table(tmp_path), "data.split.by=row")).parts["val"].tolist()
    longer = open_rows(table_settings(write_table(tmp_path, ROWS * 2), "data.split.by=row")).parts["val"]
    assert longer[longer < len(ROWS)].tolist() == first


def test_an_overruled_label_is_replaced_and_counted(tmp_path: Path) -> None:
    rows = [*(f"{row},train" for row in ROWS), "f0,m1,c0,1,2,3,4,r1,train", "f2,m0,c0,1,2,3,4,r1,val"]
    rows.append("f9,m0,c1,1,2,3,4,r1,val")  # no training row says what is above f9
    path = write_table(tmp_path, rows, f"{HEADER},split")
    wanted = (path, "data.split.by=given", "data.on_conflict=majority")
    opened = open_rows(table_settings(*wanted))
    assert opened.report["rows"]["overruled"] == 3, "one that trains, two that validate"
    assert opened.table.labels[48:].tolist() == [[0, 0, 0], [2, 1, 0], [6, 0, 0]]
    path = write_table(tmp_path, rows[:-1], f"{HEADER},split")
    tree = tmp_path / "tree.csv"
    tree.write_text("fine,mid,coarse\n" + "\n".join(sorted({row.rsplit(",", 5)[0] for row in ROWS})))
    assert open_rows(table_settings(*wanted, f"data.tree={tree}")).report["rows"]["overruled"] == 2


@pytest.mark.parametrize(
    ("name", "unknown", "missing", "gaps", "zeros", "digest"),
    [
        ("t1", [123, 47, 3], [59, 94, 28], 18, 187, "3be70b317be9518c"),
        ("t2", [126, 43, 4], [6, 10, 29], 14, 251, "fff15ca095de105f"),
    ],
)
def test_the_toy_sets_are_frozen(
    name: str, unknown: list[int], missing: list[int], gaps: int, zeros: int, digest: str
) -> None:
    whole = toy(name, 0).table
    table = whole.keep(np.arange(NUM_TRAIN))
    assert len(whole) == 750
    assert (table.labels < 0).sum(0).tolist() == unknown
    assert (~table.valid).sum(0).tolist() == missing
    assert ((table.labels[:, 0] >= 0) & (table.labels[:, 1] < 0)).sum() == gaps
    assert (table.valid[:, 1] & (table.blocks[:, 3:5] == 0).any(1)).sum() == zeros
    assert whole.digest == digest


def test_the_toy_run_has_the_steps_of_its_description() -> None:
    sets = open_data(settings_of("data.layout=t1", "batch_size=64", "num_epochs=12"))
    assert sets.train.plan.num_steps(0) * 12 == 120
    assert -(-len(sets.train) // 32) * 12 == 228
    assert -(-len(sets.evaluated["val"]) // 32) * 13 == 65


def test_the_fixed_record_split_is_the_published_one(shared_data: Callable[[str], Path]) -> None:
    settings = settings_of(
        f"data.path={shared_data('anuran_calls/Frogs_MFCCs.csv')}",
        "data.levels=[Species, Genus, Family]",
        "data.features=['MFCCs_*']",
        "data.group=RecordID",
        "data.split={by: fixed, val_share: 0}",
    )
    opened = open_rows(settings)
    train, val = (opened.table.labels[opened.parts[name], 0] for name in ("train", "val"))
    assert (len(train), len(val), len(opened.parts["test"])) == (4969, 2226, 0)
    assert opened.tree.num_classes == [10, 8, 4]
    assert (val == np.bincount(train).argmax()).mean() == pytest.approx(0.540, abs=5e-4)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_validation_records_of_the_fixed_split_leave_every_class_one_to_train_on(tmp_path: Path, share: float) -> None:
    records = {"f0": 1, "f1": 2, "f2": 3, "f3": 9}
    rows = [f"{cls},m0,c0,1,2,3,4,{cls}{number}" for cls, count in records.items() for number in range(count)]
    fixed = f"data.split={{by: fixed, val_share: {share}}}"
    opened = open_rows(table_settings(write_table(tmp_path, rows), fixed))
    sides = {name: opened.table.record[part].tolist() for name, part in opened.parts.items()}
    assert sides["test"] == ["f00", "f11", "f22", "f36", "f37", "f38"]
    assert {name[:2] for name in sides["train"]} == {"f1", "f2", "f3"}
    assert len(sides["val"]) == min(6, round(share * 9)), "nine are left; three of them are the last of their class"


def test_a_group_level_may_follow_the_run() -> None:
    course = level_curve("coarse @ 0, mid @ 30%, fine @ 60%", ["fine", "mid", "coarse"]).resolve(100, 10)
    assert [course.at(step) for step in (0, 29, 30, 59, 60, 99)] == [2, 2, 1, 1, 0, 0]
    assert level_curve("mid", ["fine", "mid"]).resolve(100, 10).at(50) == 1
    assert level_curve("coarse @0, fine @ 60% hold", ["fine", "coarse"]).resolve(100, 10).at(59) == 1
    assert level_curve(None, ["fine", "mid"]).resolve(100, 10).at(50) == 0


def test_the_order_in_which_blocks_are_named_changes_nothing(tmp_path: Path) -> None:
    """run.json and Helm sort names: a run that kept the user's order would be evaluated with other columns."""
    table = write_table(tmp_path)
    both = [
        open_rows(table_settings(table, f"data.blocks={blocks}"))
        for blocks in ("{SITE: [site_a], ELEV: [site_b]}", "{ELEV: [site_b], SITE: [site_a]}")
    ]
    assert both[0].blocks.ranges == both[1].blocks.ranges == {"ELEV": (0, 1), "SITE": (1, 2)}
    assert both[0].table.digest == both[1].table.digest
    np.testing.assert_array_equal(both[0].table.blocks, both[1].table.blocks)
