"""Data as people have them: what looks empty, what looks alike, what would be lost without a word."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.hierarchy_rows import HEADER, ROWS, settings_of, table_settings, write_table
from trainer.errors import DataError
from trainer.tasks.hierarchy.opening import open_rows
from trainer.tasks.hierarchy.remarks import look_alikes, odd


@pytest.mark.parametrize("text", ["", "  ", "nan", " NA ", "N/A", "<NA>", "NULL"])
def test_a_cell_that_holds_nothing_is_no_class_and_no_number(tmp_path: Path, text: str) -> None:
    opened = open_rows(table_settings(write_table(tmp_path, [*ROWS, f"{text},m0,c0,1,2,{text},4,r0"])))
    assert opened.tree.names[0] == [f"f{n}" for n in range(6)]
    assert opened.table.labels[48].tolist() == [-1, 0, 0]
    assert opened.table.valid[48].tolist() == [False]


@pytest.mark.filterwarnings("error")
def test_a_number_beyond_its_type_is_one_line(tmp_path: Path) -> None:
    settings = table_settings(write_table(tmp_path, [*ROWS, "f0,m0,c0,1e300,2,3,4,r0"]))
    with pytest.raises(DataError, match=r"line 50: column .x1. .* which is too large"):
        open_rows(settings)


@pytest.mark.parametrize("setting", ["data.features=['x*', coarse]", "data.features=['*']", "data.blocks={A: ['m*']}"])
def test_labels_are_no_features_even_where_they_are_numbers(tmp_path: Path, setting: str) -> None:
    rows = [row.replace("f", "").replace("m", "").replace("c", "").replace("r", "") for row in ROWS]
    with pytest.raises(DataError, match=r"takes in '\w+', a label \(data\.levels\); leave it out"):
        open_rows(table_settings(write_table(tmp_path, rows), setting))


def npz_settings(folder: Path, *overrides: str, **arrays: np.ndarray):
    np.savez(folder / "rows.npz", who=np.arange(40) // 4, **arrays)
    return settings_of(f"data.path={folder / 'rows.npz'}", "data.levels=[fine]", "data.group=who", *overrides)


def test_arrays_that_would_be_read_otherwise_than_meant(tmp_path: Path) -> None:
    fine = np.array([b"a", "\xe9".encode()] * 20)
    named = open_rows(npz_settings(tmp_path, features=np.ones((40, 2)), fine=fine)).tree.names
    assert named == [["a", "\xe9"]], "bytes are texts"
    with pytest.raises(DataError, match="names one array of an NPZ, not 2"):
        open_rows(npz_settings(tmp_path, "data.features=[one, two]", one=fine, two=fine, fine=fine))
    with pytest.raises(DataError, match=r"is complex128 \(40, 2\)"):
        open_rows(npz_settings(tmp_path, features=np.ones((40, 2), complex), fine=fine))
    pixels = np.zeros((40, 8, 9, 3), np.uint8)
    with pytest.raises(DataError, match=r"\(40, 8, 9, 3\) has its channels last; transpose\(0, 3, 1, 2\)"):
        open_rows(npz_settings(tmp_path, features=pixels, fine=fine))
    found = open_rows(npz_settings(tmp_path, features=pixels.transpose(0, 3, 1, 2), fine=fine))
    assert found.table.features.shape == (40, 3, 8, 9)


def test_images_of_16_bits_keep_their_greys(tmp_path: Path) -> None:
    greys = np.linspace(0, 65535, 20).astype(np.uint16)
    for number, grey in enumerate(greys):
        Image.fromarray(np.full((8, 8), grey)).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png,f{number % 2},r{number // 2}" for number in range(20)]
    (tmp_path / "index.csv").write_text("\n".join(["image,fine,who", *lines]))
    settings = settings_of(f"data.path={tmp_path}", "data.levels=[fine]", "data.group=who", "data.image_size=8")
    assert open_rows(settings).table.features[:, 0, 0, 0].tolist() == (greys >> 8).tolist()
    (tmp_path / "19.png").unlink()
    assert odd(open_rows(settings)) == ["left out of 20 rows: 1 whose image is not there"]
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "0.png", "tiff")
    with pytest.raises(DataError, match=r"0\.png .*\(mode F\) has no range of 8 or 16 bits"):
        open_rows(settings)


def test_photographs_are_turned_as_their_camera_was_held(tmp_path: Path) -> None:
    """Orientation 6 of EXIF: what is stored as the left column is the picture's top."""
    stored, tags = np.zeros((8, 8, 3), np.uint8), Image.Exif()
    stored[:, 4:] = 255
    tags[0x0112] = 6
    for number in range(20):
        Image.fromarray(stored).save(tmp_path / f"{number}.png", exif=tags)
    lines = [f"{number}.png,f{number % 2},r{number // 2}" for number in range(20)]
    (tmp_path / "index.csv").write_text("\n".join(["image,fine,who", *lines]))
    settings = settings_of(f"data.path={tmp_path}", "data.levels=[fine]", "data.group=who", "data.image_size=8")
    assert open_rows(settings).table.features[0, 0, :, 0].tolist() == [0] * 4 + [255] * 4


def test_the_table_of_a_folder_of_images_is_no_table_of_features(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("image,fine,who\n0.png,f0,r0\n")
    with pytest.raises(DataError, match=rf"the column 'image' names images: give the folder, {tmp_path}"):
        open_rows(settings_of(f"data.path={tmp_path / 'index.csv'}", "data.levels=[fine]", "data.group=who"))


def test_what_takes_more_from_a_training_than_its_counts_show_is_said(tmp_path: Path) -> None:
    assert odd(open_rows(table_settings(write_table(tmp_path)))) == []
    rows = [f"f{n % 3},m0,c0,{n},2,3,,r{n % 6},train" for n in range(30)]
    rows += [f"F0 ,m0,c0,1,2,3,,{who},train" for who in ("", " ", "r1")] + ["f0,m0,c0,,2,3,,r1,train"]
    rows += ["new,,,1,2,3,4,r9,val", "new,m0,c0,1,2,3,4,r9,test", "f0,m0,c0,1,2,3,4,r9,val"]
    blocks = "data.blocks={A: [site_a], B: [site_b]}"
    table = write_table(tmp_path, rows, f"{HEADER},split")
    assert odd(open_rows(table_settings(table, blocks, "data.split.by=given", "data.bad_samples=skip"))) == [
        "left out of 37 rows: 1 bad",
        "data.group is empty in 2 rows, which count as one record",
        "fine 'F0 ' and 'f0': classes of their own, differing in spaces or case only",
        "fine new: no training row, but 2 that are evaluated, and cannot be right",
        "block B is valid in no training row",
    ]


def test_many_look_alikes_are_cut_short() -> None:
    names = [text for letter in "abcdefg" for text in (letter, letter.upper())]
    (said,) = look_alikes(["fine"], [sorted(names)])
    assert said.startswith("fine 'A' and 'a', ")
    assert "and 2 more: " in said
