"""What stands behind `trainer prepare`: packing, looking through, drawing."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.signs_fakes import fake_recordings
from trainer.config.signs import SignsData
from trainer.errors import DataError, SettingsError
from trainer.tasks.signs.check import check, examine
from trainer.tasks.signs.packed import ClassInfo
from trainer.tasks.signs.prepare import draw, prepare_data
from trainer.tasks.signs.show import find_class

SMALL = SignsData(synthetic_words=3, synthetic_signers=2, synthetic_repetitions=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_data(SMALL, tmp_path_factory.mktemp("data") / "signs", synthetic=True, dtype="float16")


def test_prepare_generates_packs_and_says_what(prepared):
    text = prepared.summary()
    assert re.fullmatch(r"12 recordings, 3 words, 2 signers, \d+ frames of karsl \(raw, float16\) in .*signs", text)
    assert prepared.recordings.frames.dtype == np.float16


def test_prepare_tells_its_progress(tmp_path):
    seen = []
    prepare_data(SMALL, tmp_path / "signs", synthetic=True, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 12) for i in range(1, 13)]


def test_prepare_refuses_wrong_combinations(prepared, tmp_path):
    with pytest.raises(SettingsError, match="either a data folder or --synthetic"):
        prepare_data(SMALL, tmp_path / "a")
    with pytest.raises(SettingsError, match="dtype is 'float8'"):
        prepare_data(SMALL, tmp_path / "a", synthetic=True, dtype="float8")
    with pytest.raises(DataError, match="is packed already; train on it"):
        prepare_data(SMALL, tmp_path / "a", source=prepared.path)
    with pytest.raises(DataError, match="trainer prepare --synthetic"):
        prepare_data(SMALL, tmp_path / "a", source=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_check_counts_and_finds_nothing_odd(prepared):
    found = check(prepared.path)
    assert (found.num_recordings, found.per_signer, found.faults) == (12, {"01": 6, "02": 6}, [])
    assert list(found.per_class.values()) == [4, 4, 4]
    assert sum(found.per_session.values()) == 12
    assert json.loads(json.dumps(found.to_json()))["num_frames"] == len(prepared.recordings.frames)
    data = prepared.recordings
    missing = (np.asarray(data.frames)[:, 163:184, 3].max(axis=1) == 0).mean()
    assert found.missing_share["lh"] == pytest.approx(missing)
    assert "nothing odd found" in found.to_text()
    assert "no lh" in found.to_text()


def test_check_refuses_damage(tmp_path):
    file = prepare_data(SMALL, tmp_path / "signs", synthetic=True).path / "frames.bin"
    content = bytearray(file.read_bytes())
    content[1000] ^= 255
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"frames\.bin does not have the digest"):
        check(tmp_path / "signs")


def test_check_names_duplicates_frozen_non_finite_and_repeated():
    data = fake_recordings([4, 4, 5, 60, 4, 4], num_classes=3)
    frames = np.array(data.frames)
    frames[4:8] = frames[0:4]
    frames[8:13] = frames[8]
    frames[-1, 0, 0] = np.nan
    names = ["a", "b", "c", "d", "e", "e"]
    classes = [*data.classes, ClassInfo(9, "never")]
    found = examine(replace(data, frames=frames, names=names, classes=classes))
    assert found.duplicates == [["a", "b"]]
    assert found.frozen == ["c"]
    assert found.non_finite == ["e"]
    assert found.repeated_names == ["e"]
    text = found.to_text()
    assert "fault: 1 recordings with NaN" in text
    assert "fault: 1 names are used twice: e" in text
    assert "a = b" in text
    assert "1 words without a recording: 9 never" in text
    assert "the longest recording has 60 frames: d" in text


def test_a_word_is_drawn(prepared, tmp_path):
    files = draw(prepared.recordings, [2, prepared.recordings.classes[0].name], tmp_path)
    for file in files:
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert width > 3 * height > 900


def test_a_layout_without_lines_is_drawn_as_a_path(tmp_path):
    assert draw(fake_recordings([5, 6, 7], "powerglove"), ["word1"], tmp_path)[0].stat().st_size > 5000


def test_words_are_found_by_number_and_by_a_name_that_is_unique():
    data = fake_recordings([1, 1, 1])
    classes = [ClassInfo(4, "heat", "حر"), ClassInfo(7, "nephew", "ابن الأخ"), ClassInfo(9, "nephew", "ابن الأخت")]
    data = replace(data, classes=classes)
    assert [find_class(data, word) for word in (4, "7", "heat", "ابن الأخت")] == [0, 1, 0, 2]
    with pytest.raises(DataError, match="2 words are named 'nephew'; say which by its number: 7, 9"):
        find_class(data, "nephew")
    with pytest.raises(DataError, match="has no word 5; there are words 4 to 9"):
        find_class(data, 5)
