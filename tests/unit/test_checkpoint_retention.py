from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoint.manifest import FolderName
from trainer.checkpoint.retention import Kept, choose

NAMES = st.builds(
    FolderName,
    st.integers(0, 30),
    st.integers(1, 4),
    st.sampled_from(["000000", "abcdef"]),
    st.integers(0, 2),
)
HISTORIES = st.lists(
    st.builds(Kept, NAMES, st.booleans(), st.booleans(), st.booleans()), unique_by=lambda one: one.name, max_size=25
)


@given(HISTORIES, st.integers(2, 5), st.booleans(), st.data())
def test_what_must_stay_stays_over_any_history(history, keep_last, keep_best, data):
    names = [one.name for one in history]
    protected = set(data.draw(st.lists(st.sampled_from(names), max_size=3))) if names else set()
    doomed = choose(history, keep_last, keep_best, protected)
    left = [one for one in history if one.name not in doomed]
    good = sorted((one for one in history if one.is_good), key=lambda one: one.name)
    newest_of_step = {one.name.step: one for one in good}

    assert not protected & set(doomed)
    assert all(newest_of_step[step] in left for step in sorted(newest_of_step)[-keep_last:])
    assert all(one in left for one in newest_of_step.values() if one.milestone)
    if keep_best:
        assert [one for one in good if one.is_best][-1:] == [one for one in good if one.is_best and one in left][-1:]
    if len(newest_of_step) > keep_last:
        num_needed = keep_last + len(protected) + sum(one.milestone for one in newest_of_step.values()) + keep_best
        assert len(left) <= num_needed
        assert all(one.is_good or one.name in protected for one in left)
    else:
        assert doomed == []
    assert doomed == sorted(doomed)
    assert choose(left, keep_last, keep_best, protected) == [], "retention is done after one pass"


def test_an_example_by_hand():
    def at(step, **flags):
        return Kept(FolderName(step, 1, "abcdef"), **flags)

    again = Kept(FolderName(4, 1, "abcdef", 1))
    history = [
        at(1, milestone=True),
        at(2, is_best=True),
        at(3, is_best=True),
        at(4),
        again,
        at(5),
        at(6, is_good=False),
    ]
    doomed = choose(history, 2, True, {})
    assert doomed == [at(2).name, at(4).name, at(6).name]
    assert at(3).name in choose(history, 2, False, {})
