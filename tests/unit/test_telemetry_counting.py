"""How far packing and moving data have come: a bar, lines, or nothing."""

import io
import sys

import pytest

from trainer.telemetry import counting as module
from trainer.telemetry.counting import counting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_where_there_is_no_terminal(clock, capsys):
    with counting("fetching", in_bytes=True) as count:
        for second in range(31):
            clock[0] = 100.0 + second
            count(second * 1_000_000, 40_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "fetching: 10.0 MB of 40.0 MB (25%), 10 s",
        "fetching: 20.0 MB of 40.0 MB (50%), 20 s",
        "fetching: 30.0 MB of 40.0 MB (75%), 30 s",
    ]


def test_things_are_counted_without_an_end_that_nobody_knows(clock, capsys):
    with counting("packing") as count:
        clock[0] += 10
        count(1234, None)
    assert capsys.readouterr() == ("", "packing: 1,234, 10 s\n")


@pytest.mark.parametrize("mode", ["auto", "bar"])
def test_a_bar_on_a_terminal_ends_full_and_is_gone_afterwards(mode, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with counting("fetching", mode=mode, in_bytes=True) as count:
        count(1_000_000, 4_000_000)
        count(4_000_000, 4_000_000)
        assert "4.0/4.0 MB" in terminal.getvalue()
    assert "fetching" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def test_off_is_silent(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with counting("packing", mode="off") as count:
        count(1, 1)
    assert terminal.getvalue() == ""
