"""The page assembly: escaping, directions of text, numbers, nothing from the network."""

import re

import pytest

from trainer.report.html import number, page
from trainer.tasks.page import Beside, Code, Details, Notice, Picture, Section, Share, Table, Text, Tile, Tiles

NASTY = '<script>alert("x")</script>&'


def body_of(*parts):
    return page("run", [], [Section("title", list(parts))], "")


def test_every_kind_of_text_is_escaped():
    picture = Picture(b"<svg/>", "svg", alt=NASTY, caption=NASTY)
    parts = [
        Text(NASTY),
        Notice("warn", NASTY, NASTY),
        Table([NASTY], [[NASTY], [Code(NASTY)]], caption=NASTY),
        Tiles([Tile(NASTY, NASTY, NASTY)]),
        Beside(Text(NASTY), picture),
        Details(NASTY, [Text(NASTY)]),
    ]
    text = page(NASTY, parts, [Section(NASTY, parts)], NASTY)
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;") == 2 * 15 + 5


def test_other_scripts_get_their_direction_from_the_browser():
    text = body_of(Table(["name"], [["صفر"], ["zero"]]))
    assert '<td dir="auto">صفر</td>' in text
    assert "<td>zero</td>" in text


def test_pictures_are_embedded():
    text = body_of(Picture(b"\x89PNG", "png", alt="a"))
    assert 'src="data:image/png;base64,iVBORw=="' in text


def test_columns_of_numbers_stand_right_and_mixed_ones_left():
    text = body_of(Table(["a", "b"], [[1, "x"], [None, 2]]))
    assert '<th class="number">a</th><th>b</th>' in text


def test_marked_rows_stand_out():
    text = body_of(Table(["a"], [[1], [2]], marked=frozenset({1})))
    assert re.search(r'<tr class="marked"><td class="number">2</td></tr>', text)


def test_share_is_cut_to_its_bar():
    text = body_of(Table(["a"], [[Share(1.5)], [Share(None)], [Share(0.25)]]))
    assert re.findall(r"width:(\d+)px\"></i>", text) == ["64", "16"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "&ndash;"),
        (float("nan"), "&ndash;"),
        (1234567, "1,234,567"),
        (True, "yes"),
        (0.0, "0.0000"),
        (0.12345, "0.1235"),
        (123.456, "123.46"),
        (12345.6, "12,346"),
        (1e-5, "1.000e-05"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text
