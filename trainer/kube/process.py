"""A child process with all that it leaves behind: signals passed on once, orphans reaped, nothing alive afterwards.

    with Signals() as signals, Child(command, environ) as child:
        child.go()
        outcome = supervise(child, signals, grace_seconds=30, say=print)

As PID 1 of a container this process inherits every orphan; elsewhere it asks the kernel to be given them. The ranks of
torchrun live in sessions of their own, so they are found by their parents and not by a process group.
"""

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from trainer.errors import Stopped

_PR_SET_CHILD_SUBREAPER = 36
"""Of prctl(2)."""
_LAST_SECONDS = 5.0
"""Longest wait for processes that were killed; one that is stuck in the kernel stays."""
_MOMENT_SECONDS = 0.5
FOLLOW_SECONDS = 15.0
"""When the first node's torchrun has ended, the others' end by themselves within this, or never meet again."""
_AS = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGHUP: signal.SIGTERM}
"""What a signal is passed on as; ranks know the first two."""


@dataclass(frozen=True)
class Outcome:
    """How the child ended."""

    code: int
    """Exit code, 128 + n for signal n."""
    told: str = ""
    """Name of the signal that asked for the end, if one did."""
    was_left: bool = False
    """The first node ended before it."""
    was_killed: bool = False
    """It did not end in time after one of these."""


class Signals:
    """Catches SIGTERM, SIGINT and SIGHUP: until `collect` they raise Stopped, from then on the first one is kept."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._is_collecting = False

    def __enter__(self) -> Self:
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._before = {number: signal.signal(number, self._handle) for number in (*_AS, signal.SIGCHLD)}
        self._wakeup_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._wake.close()
        self._waker.close()

    def collect(self) -> None:
        """From now on signals interrupt nothing but `wait`."""
        self._is_collecting = True

    def wait(self, seconds: float | None, line: socket.socket | None = None) -> None:
        """Return when a signal came (a child's end is one), something happened on the line, or the time is over."""
        select.select([self._wake, line] if line else [self._wake], [], [], seconds)
        with suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGCHLD or self.first is not None:
            return
        self.first = signal.Signals(number)
        if not self._is_collecting:
            raise Stopped(f"told to stop by {self.first.name} before the training began")


class Child:
    """One process behind a gate, in a process group of its own; when the context ends nothing of it is left."""

    def __init__(self, command: Callable[[int], Sequence[str]], environ: Mapping[str, str]) -> None:
        """`command(gate)` is the command line, given the descriptor at which the child waits for `go`."""
        inherit_orphans()
        gate, self._opener = os.pipe()
        try:
            self._process = subprocess.Popen(command(gate), env=dict(environ), pass_fds=[gate], process_group=0)
        finally:
            os.close(gate)
        self.pid = self._process.pid
        self.code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close_gate()
        if self.code is None:
            self.kill()
        self.sweep()

    def go(self) -> None:
        """Open the gate."""
        with suppress(BrokenPipeError):  # it has ended already, which `reap` will find
            os.write(self._opener, b"1")
        self._close_gate()

    def send(self, number: signal.Signals) -> None:
        """Signal the process itself; it passes it on to its own."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def reap(self) -> bool:
        """Take note of every process that has ended, orphans too; whether any is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = self._process.returncode = 128 - code if code < 0 else code

    def kill(self) -> None:
        """Kill the process and all below it."""
        own = [self.pid] if self.code is None else []  # where /proc shows no descendants
        for pid in (*own, *_descendants(os.getpid())):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def sweep(self) -> None:
        """Reap whatever is left; what does not end by itself in a moment (trackers of shared memory do) is killed."""
        begun = time.monotonic()
        while self.reap() and time.monotonic() < begun + _LAST_SECONDS:
            if time.monotonic() > begun + _MOMENT_SECONDS:
                self.kill()
            select.select([], [], [], 0.01)

    def _close_gate(self) -> None:
        if self._opener >= 0:
            os.close(self._opener)
            self._opener = -1


def supervise(
    child: Child,
    signals: Signals,
    *,
    grace_seconds: float,
    say: Callable[[str], None],
    line: socket.socket | None = None,
) -> Outcome:
    """Wait for the end of a child.

    Told to stop, pass that on once and kill what has not ended `grace_seconds` later. `line` is a connection to the
    first node's torchrun; once it is cut the child must end as well, because nobody would meet it any more.
    """
    signals.collect()
    told: signal.Signals | None = None
    deadline, was_left, was_killed = float("inf"), False, False
    while child.reap() and child.code is None:
        if told is None and signals.first is not None:
            told, deadline = signals.first, time.monotonic() + grace_seconds
            say(f"{told.name}: passed on, {grace_seconds:.0f} s for the checkpoint")
            child.send(_AS[told])
        elif told is None and line is not None and is_cut(line):
            line, was_left, deadline = None, True, time.monotonic() + FOLLOW_SECONDS
            say(f"the first node has ended; {FOLLOW_SECONDS:.0f} s for the processes here to follow")
        left = deadline - time.monotonic()
        if left < -_LAST_SECONDS:
            break
        if left <= 0:
            was_killed = True
            child.kill()
        signals.wait(None if left == float("inf") else max(0.05, left), line)
    child.sweep()
    code = child.code if child.code is not None else 128 + signal.SIGKILL
    return Outcome(code, told.name if told else "", was_left, was_killed)


def is_cut(line: socket.socket) -> bool:
    """Whether the other side of a connection has gone."""
    try:
        return line.recv(4096, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def inherit_orphans() -> None:
    """Be the parent of grandchildren whose parent dies; PID 1 is that anyway."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _descendants(parent: int) -> Iterator[int]:
    """All processes below one, nearest first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            # The name in parentheses may hold spaces; the parent is the second field behind it.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    level = [parent]
    while level:
        level = [pid for above in level for pid in children.get(above, [])]
        yield from level
