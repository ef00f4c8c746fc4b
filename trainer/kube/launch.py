"""The pod's first process: looks at the world, starts the training, and says how it ended.

    settings ─► topology ─► torchrun (imports torch) ┐
                            preflight ───────────────┴─► go ─► wait, pass signals on, reap ─► verdicts ─► code, reason

The reason goes to the termination log in one line, whatever happens; the exit code is one of the documented table.
"""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainer.config.settings import CommonSettings
from trainer.errors import PreflightError, TrainerError
from trainer.kube.ending import Ending, Memory, explain, read_report, write_reason
from trainer.kube.limits import Limits, count_oom_kills, read_limits
from trainer.kube.process import Child, Signals, supervise
from trainer.kube.topology import CONSUMED, Topology, read_topology, resolve_processes, torchrun_flags
from trainer.kube.verdict import VERDICT_DIR, read
from trainer.kube.world_check import check_machine, check_store, wait_for_meeting

Load = Callable[[], CommonSettings]

TRAINING = ("-m", "trainer.train")
AGENT = (sys.executable, "-u", "-m", "trainer.kube.agent")
FOLDERS = (
    *("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"),
    *("CUDA_CACHE_PATH", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME"),
)
"""Variables that name folders; on a fresh volume none of them exists."""
TORCHRUN_MARGIN_SECONDS = 5.0
"""Of the grace period, for torchrun to kill what has not stopped, and for us to say so."""
OWN_MARGIN_SECONDS = 2.0
"""Of the grace period, for us to kill torchrun and say so before the kubelet kills us."""


def launch(arguments: Sequence[str], load: Load, *, with_preflight: bool = True) -> int:
    """Run `trainer.train ARGUMENTS` on this node, as many times as the topology says; the exit code.

    `load` gives the settings of these arguments. Raises the errors of `trainer.errors`; their text is in the
    termination log by then.
    """
    try:
        with Signals() as signals:
            settings = load()
            ending = _run(arguments, settings, signals, with_preflight)
    except BaseException as error:
        text = str(error) if isinstance(error, TrainerError) else f"{type(error).__name__}: {error}"
        write_reason("; ".join(text.splitlines()))
        raise
    write_reason(ending.reason)
    say(f"ends with {ending.code}: {ending.reason}")
    return ending.code


def say(line: str) -> None:
    """A line of ours in the pod's log."""
    print(f"launch: {line}", file=sys.stderr, flush=True)


def _run(arguments: Sequence[str], settings: CommonSettings, signals: Signals, with_preflight: bool) -> Ending:
    """From settings to the end of the training."""
    topology, limits = read_topology(os.environ), read_limits()
    num_processes = resolve_processes(topology, limits, settings.device)
    make_folders(os.environ)
    environ = child_environment(os.environ, topology, limits, num_processes)
    say(topology.describe(num_processes))
    say(f"{limits.describe()}; OMP_NUM_THREADS={environ['OMP_NUM_THREADS']}")
    if with_preflight:
        for doubt in check_machine(settings, limits, num_processes):
            say(f"warning: {doubt}")
    oom_kills = count_oom_kills()
    with tempfile.TemporaryDirectory(prefix="trainer-verdicts-") as name:
        report = Path(name, "torchrun")
        command = [*flags_of(topology, num_processes, settings), *TRAINING, *arguments]
        with Child(lambda gate: [*AGENT, str(gate), str(report), *command], environ | {VERDICT_DIR: name}) as child:
            line = _check_world(topology, settings) if with_preflight else None
            child.go()
            grace_seconds = shorter(settings.run.grace_seconds, OWN_MARGIN_SECONDS)
            outcome = supervise(child, signals, grace_seconds=grace_seconds, say=say, line=line)
        memory = Memory(count_oom_kills() - oom_kills, limits.memory_bytes)
        return explain(outcome, read(Path(name)), read_report(report), memory)


def _check_world(topology: Topology, settings: CommonSettings) -> socket.socket | None:
    """What needs the network, while torch is being imported; a static worker's line to the first node."""
    if topology.meets_here(socket.gethostname()):
        check_store(settings, say)
    line = wait_for_meeting(topology, settings.process_timeout_seconds, say)
    return line if topology.shape == "static" else None  # elastic nodes have heartbeats, and may outlive the first


def flags_of(topology: Topology, num_processes: int, settings: CommonSettings) -> list[str]:
    """The flags for torchrun; none for a single process, which needs no torchrun."""
    if num_processes == 1 and topology.shape in ("desk", "pod"):
        return []
    return torchrun_flags(
        topology,
        num_processes,
        shutdown_seconds=int(shorter(settings.run.grace_seconds, TORCHRUN_MARGIN_SECONDS)),
        meet_seconds=int(settings.process_timeout_seconds),
    )


def shorter(grace_seconds: float, margin_seconds: float) -> float:
    """The grace period without a margin, which takes no more than a fifth of it; a second at least."""
    return max(1.0, grace_seconds - min(margin_seconds, grace_seconds / 5))


def child_environment(
    environ: Mapping[str, str], topology: Topology, limits: Limits, num_processes: int
) -> dict[str, str]:
    """The environment for torchrun: without what was turned into flags and what would crash it, with thread counts."""
    own = {name: value for name, value in environ.items() if name not in CONSUMED}
    own = {name: value for name, value in own.items() if value or not name.startswith("PET_")}
    if topology.shape in ("desk", "pod"):  # the operator's RANK and WORLD_SIZE count pods
        own = {name: value for name, value in own.items() if name not in ("RANK", "WORLD_SIZE")}
    if topology.shape == "elastic":
        # With a store that outlives the round (torch 2.13) a node that stayed does not say again where it is, and one
        # that came new waits for that until the store's timeout: no job would survive the loss of a single pod.
        own.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    if not own.get("OMP_NUM_THREADS"):
        own["OMP_NUM_THREADS"] = str(max(1, int(limits.cpus / num_processes)))
    own.setdefault("USER", "trainer")  # a user id without a name crashes whoever asks for it
    own.setdefault("LOGNAME", own["USER"])
    return own


def make_folders(environ: Mapping[str, str]) -> None:
    """Make the writable folders that the environment names. Raises PreflightError where that is not possible."""
    for name in FOLDERS:
        folder = environ.get(name)
        try:
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"{name} is {folder}, which cannot be made ({error.strerror or error})"
            raise PreflightError(f"{what}: mount a writable emptyDir there") from error
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise PreflightError("no temporary folder is writable: mount an emptyDir and name it in TMPDIR") from error
