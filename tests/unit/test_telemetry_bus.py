import pytest

from tests.unit.telemetry_samples import step_done
from trainer.telemetry.bus import Bus
from trainer.telemetry.events import Event, Noted, Warned


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.num_closed = 0

    def on_event(self, event: Event) -> None:
        self.seen.append(event)

    def close(self) -> None:
        self.num_closed += 1


class Failing(Recorder):
    def on_event(self, event: Event) -> None:
        super().on_event(event)
        raise ValueError("no\nroom")


class Answering(Recorder):
    """Emits from inside `on_event`, as the watcher does."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.bus = bus

    def on_event(self, event: Event) -> None:
        super().on_event(event)
        if not isinstance(event, Warned):
            self.bus.emit(Warned(name="x", severity="note", text="x"))


def test_every_listener_gets_every_event_in_order() -> None:
    one, two = Recorder(), Recorder()
    bus = Bus([one])
    bus.add(two)
    happened = [step_done(1), Noted(text="a"), step_done(2)]
    for event in happened:
        bus.emit(event)
    assert one.seen == two.seen == happened


def test_a_failing_listener_is_reported_once_in_one_line_switched_off_and_closed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad, good = Failing(), Recorder()
    bus = Bus([bad, good])
    bus.emit(step_done(1))
    bus.emit(step_done(2))
    assert len(good.seen) == 2
    assert len(bad.seen) == 1
    assert bad.num_closed == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "Failing" in text
    assert "no room" in text


def test_an_event_from_inside_a_listener_comes_after_the_one_that_caused_it_everywhere() -> None:
    bus = Bus()
    last = Recorder()
    bus.add(Answering(bus), last)
    bus.emit(step_done(1))
    assert [type(event).__name__ for event in last.seen] == ["StepDone", "Warned"]


def test_closing_twice_closes_each_listener_once_even_if_one_fails(capsys: pytest.CaptureFixture[str]) -> None:
    class Unclosable(Recorder):
        def close(self) -> None:
            raise OSError("disk full")

    good = Recorder()
    bus = Bus([good, Unclosable()])
    bus.close()
    bus.close()
    assert good.num_closed == 1
    assert "disk full" in capsys.readouterr().err


def test_flush_asks_those_that_are_behind() -> None:
    class Behind(Recorder):
        def __init__(self, done: bool) -> None:
            super().__init__()
            self.done = done
            self.num_flushes = 0

        def flush(self, timeout: float) -> bool:
            self.num_flushes += 1
            return self.done

    slow, quick = Behind(False), Behind(True)
    assert not Bus([Recorder(), slow, quick]).flush(1.0)
    assert (slow.num_flushes, quick.num_flushes) == (1, 1)
    assert Bus([Recorder()]).flush(1.0)
