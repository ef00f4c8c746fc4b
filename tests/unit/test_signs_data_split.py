"""Splits: by hash of the name, no signer twice, the source's own test recordings kept out of training."""

from dataclasses import replace

import numpy as np
import pytest

from tests.signs_fakes import fake_recordings
from trainer.config.signs import SplitSettings
from trainer.errors import DataError
from trainer.tasks.signs.split import folds, split


def recordings(num=400, num_signers=5, given=""):
    data = fake_recordings([1] * num, "powerglove", num_signers=num_signers)
    sessions = [f"{name}/{day}" for name in data.signers for day in "ab"]
    session = 2 * data.signer + (np.arange(num) // num_signers) % 2
    given_split = [given if i % 4 == 0 else "" for i in range(num)]
    return replace(data, sessions=sessions, session=session, given_split=given_split)


def names_of(data, parts):
    return {name: {data.names[i] for i in rows} for name, rows in parts.items()}


@pytest.mark.parametrize("by", ["random", "clip", "session", "signer"])
def test_every_recording_is_in_exactly_one_split(by):
    data = recordings()
    parts = split(data, SplitSettings(by=by, val_share=0.3, test_share=0.2))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(400))
    assert 0.15 < len(parts["val"]) / 400 < 0.45
    assert 0.1 < len(parts["test"]) / 400 < 0.3


@pytest.mark.parametrize(("by", "column"), [("signer", "signer"), ("session", "session")])
def test_no_signer_or_session_is_in_two_splits(by, column):
    data = recordings()
    for seed in range(20):
        parts = split(data, SplitSettings(by=by, val_share=0.3, test_share=0.2, seed=seed))
        groups = [set(getattr(data, column)[rows].tolist()) for rows in parts.values()]
        assert all(groups)
        assert sum(map(len, groups)) == len(set.union(*groups))


def test_changing_one_name_moves_only_that_recording():
    data = recordings()
    before = split(data, SplitSettings())
    moved = 0
    for new in ("x", "y", "z", "u", "v", "w"):
        names = [new if i == 7 else name for i, name in enumerate(data.names)]
        after = split(replace(data, names=names), SplitSettings())
        for name, rows in before.items():
            assert set(rows) - {7} == set(after[name]) - {7}
        moved += (7 in before["val"]) != (7 in after["val"])
    assert moved > 0


def test_adding_recordings_moves_none():
    few, many = recordings(300), recordings(400)
    before, after = split(few, SplitSettings()), split(many, SplitSettings())
    assert all(set(before[name]) == {i for i in after[name] if i < 300} for name in before)


def test_another_seed_is_another_split():
    data = recordings()
    assert set(split(data, SplitSettings(seed=1))["val"]) != set(split(data, SplitSettings(seed=2))["val"])


def test_named_signers_are_held_out_whatever_by_says():
    data = recordings()
    parts = split(data, SplitSettings(by="random", val_signers=["03"], test_signers=["5"]))
    assert {data.signers[i] for i in data.signer[parts["val"]]} == {"03"}
    assert {data.signers[i] for i in data.signer[parts["test"]]} == {"05"}
    assert {data.signers[i] for i in data.signer[parts["train"]]} == {"01", "02", "04"}


def test_unknown_and_doubled_signers_are_refused():
    with pytest.raises(DataError, match="has no signer 09; there are: 01, 02, 03, 04, 05"):
        split(recordings(), SplitSettings(val_signers=["09"]))
    with pytest.raises(DataError, match="signer 02 is in both"):
        split(recordings(), SplitSettings(val_signers=["01", "02"], test_signers=["02"]))


def test_given_test_recordings_test_and_no_others_do():
    data = recordings(given="test")
    parts = split(data, SplitSettings(test_share=0.3))
    assert set(parts["test"]) == set(range(0, 400, 4))
    assert sum(map(len, parts.values())) == 400
    assert len(split(data, SplitSettings(use_given=False))["test"]) == 0


def test_given_validation_recordings_validate_and_no_others_do():
    parts = split(recordings(given="val"), SplitSettings())
    assert set(parts["val"]) == set(range(0, 400, 4))
    assert len(parts["train"]) == 300


def test_where_signers_decide_given_test_recordings_only_leave_training():
    data = recordings(given="test")
    parts = split(data, SplitSettings(val_signers=["02"]))
    given = set(range(0, 400, 4))
    assert not given & set(parts["train"])
    assert len(parts["test"]) == 0
    assert {data.signers[i] for i in data.signer[parts["val"]]} == {"02"}
    assert len(parts["val"]) == 80


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(DataError, match="no recording is left to train on"):
        split(recordings(), SplitSettings(val_signers=["01", "02", "03", "04", "05"]))


def test_folds_leave_each_signer_out_once():
    data = recordings()
    made = folds(data, SplitSettings(test_signers=["01"]))
    assert [name for name, _ in made] == data.signers
    for name, settings in made:
        parts = split(data, settings)
        assert {data.signers[i] for i in data.signer[parts["test"]]} == {name}
        assert name not in {data.signers[i] for part in ("train", "val") for i in data.signer[parts[part]]}
        assert sum(len(rows) for rows in parts.values()) == 400
    with pytest.raises(DataError, match="one signer only"):
        folds(recordings(num_signers=1), SplitSettings())
