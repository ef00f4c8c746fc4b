"""Where the time of a step goes: the clock behind `profile`, and torch's profiler beside it.

    wait ... warmup ... | active: data wait, copy, forward, backward, clip, optimizer, other, ... | table and trace

Exactly one phase runs at any time of the active steps, so they sum to the wall clock. On CUDA their borders are events
in the stream: what is measured is the device's time, and nobody waits for it.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch.profiler import ProfilerAction, ProfilerActivity

from trainer.config.settings import ProfileSettings
from trainer.engine.memory import peak_memory_bytes, reset_peak_memory

PHASES = ("data wait", "copy", "forward", "backward", "clip", "optimizer", "other")
"""In the order of the table; a phase of another name comes behind them (passes, where steps were interrupted)."""
UNPROFILED: AbstractContextManager[None] = nullcontext()
_OTHER = "other"
_RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)
_Moment = float | torch.cuda.Event


@dataclass(frozen=True)
class Profile:
    """What was measured: seconds by phase, and the operators of most time of their own."""

    num_steps: int
    seconds: float
    phases: dict[str, float]
    operators: list[tuple[str, int, float, float]]
    """Name, calls, own seconds on the CPU and on the device."""
    peak_memory_bytes: int | None


class Profiler:
    """Measures some steps of an attempt; before and after them it does nothing."""

    def __init__(self, settings: ProfileSettings, device: torch.device) -> None:
        self._device = device
        self._num_operators = settings.operators
        self._marks: list[tuple[str, _Moment]] = []
        """What began when; the last one is the end."""
        self._num_steps = 0
        self._peak: int | None = None
        self.is_done = False
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        when = torch.profiler.schedule(wait=settings.wait, warmup=settings.warmup, active=settings.active, repeat=1)
        self._torch = torch.profiler.profile(activities=activities, schedule=when, acc_events=True)
        self._torch.start()
        self._begin_if_due()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Charge a block to `name` while steps are measured; what is in no block is `other`."""
        return self._measured(name) if self._is_recording else UNPROFILED

    def step_done(self) -> None:
        """Count a step; begins the measurement, or ends it, where that is due."""
        was_recording = self._is_recording
        self._num_steps += was_recording
        if was_recording and self._torch.current_action == ProfilerAction.RECORD_AND_SAVE:
            self.stop()
            return
        self._torch.step()
        if not was_recording:
            self._begin_if_due()

    def stop(self) -> None:
        """End the measurement, however far it came; once it is done this does nothing."""
        if self.is_done:
            return
        if self._is_recording:
            self._mark(_OTHER)
            self._peak = peak_memory_bytes(self._device)
        self.is_done = True
        self._torch.stop()

    def result(self) -> Profile | None:
        """The table, after the end; None when not one step was measured."""
        if not self._num_steps:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found = dict.fromkeys(PHASES, 0.0)
        for (name, begun), (_, ended) in pairwise(self._marks):
            found[name] = found.get(name, 0.0) + _seconds_between(begun, ended)
        whole = _seconds_between(self._marks[0][1], self._marks[-1][1])
        return Profile(self._num_steps, whole, found, self._operators(), self._peak)

    def write_trace(self, path: Path) -> None:
        """The trace, for chrome://tracing or Perfetto."""
        self._torch.export_chrome_trace(str(path))

    @property
    def _is_recording(self) -> bool:
        return bool(self._marks) and not self.is_done

    def _begin_if_due(self) -> None:
        if self._torch.current_action in _RECORDING:
            reset_peak_memory(self._device)
            self._mark(_OTHER)

    @contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        self._mark(name)
        try:
            with torch.profiler.record_function(f"phase: {name}"):
                yield
        finally:
            # the measurement may have ended inside
            if not self.is_done:
                self._mark(_OTHER)

    def _mark(self, name: str) -> None:
        """The running phase ends here and `name` begins."""
        if self._device.type != "cuda":
            self._marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append((name, event))

    def _operators(self) -> list[tuple[str, int, float, float]]:
        """Those of most own time on the device, or where it is a CPU on that; phases are none."""
        found = [
            (str(one.key), int(one.count), one.self_cpu_time_total / 1e6, one.self_device_time_total / 1e6)
            for one in self._torch.key_averages()
            if not one.key.startswith(("phase: ", "ProfilerStep"))
        ]
        place = 3 if self._device.type == "cuda" else 2
        return sorted(found, key=lambda one: one[place], reverse=True)[: self._num_operators]


def _seconds_between(begun: _Moment, ended: _Moment) -> float:
    """Of the host's clock, or of the device's between two events in its stream."""
    if isinstance(begun, float):
        return cast(float, ended) - begun
    return float(begun.elapsed_time(cast(torch.cuda.Event, ended))) / 1000.0
