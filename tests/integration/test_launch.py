"""`trainer launch` as processes: torchrun, signals, orphans, kills, memory; ranks are a stand-in without torch.

Where the training itself matters it is the real one.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from trainer.kube.verdict import read
from trainer.kube.world_check import knock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at in /proc")

RANK = """
import os, pathlib, signal, subprocess, sys, time
from trainer.kube.verdict import begin, leave

def end(code, reason):
    leave(code, reason)
    sys.exit(code)

def polite(number, frame):
    with open(f"told.{rank}", "a") as log:
        log.write(f"{number} ")
    pathlib.Path("stop").touch()

begin()
rank = os.environ.get("RANK", "0")
kind, _, value = os.environ.get(f"DO_{rank}", os.environ.get("DO", "end:0")).partition(":")
if kind == "polite":
    signal.signal(signal.SIGTERM, polite)
    signal.signal(signal.SIGINT, polite)
if kind == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "orphan":
    subprocess.Popen(["sh", "-c", "sleep 987 & echo $! > orphan"])
    while not pathlib.Path("orphan").is_file() or not pathlib.Path("orphan").read_text():
        time.sleep(0.01)
    end(0, "complete")
told = {name: value for name, value in os.environ.items() if name in os.environ.get("SHOW", "").split()}
pathlib.Path(f"up.{rank}").write_text(f"{os.getpid()} {told}")
if kind == "end":
    end(int(value), f"reason {value}")
if kind == "silent":
    sys.exit(int(value))
if kind == "kill":
    os.kill(os.getpid(), int(value))
if kind == "hog":
    hog = [bytearray(8 << 20) for _ in range(200)]
while not (kind == "polite" and pathlib.Path("stop").exists()):
    time.sleep(0.01)
time.sleep(0.3)
end(143, "told to stop, published")
"""

STAND_IN = """
import sys
import trainer.kube.launch as launch
from trainer.cli import run_process
launch.TRAINING = ("-m", "rank")
run_process(["launch", *sys.argv[1:]])
"""


class Pod:
    """A launcher with an environment of its own, in a folder of its own."""

    def __init__(self, folder, *arguments, name="pod", program=("-c", STAND_IN), around=(), rank=RANK, **environ):
        folder.mkdir(exist_ok=True)
        (folder / "rank.py").write_text(rank)
        if "PET_NPROC_PER_NODE" not in environ and program[0] == "-c":
            (folder / "torch.py").touch()  # a single process needs no torchrun, and these ranks need no torch
        self.folder, self.name = folder, name
        self.log, self.said = folder / f"{name}.log", folder / f"{name}.reason"
        self.said.touch()
        (folder / name).mkdir(exist_ok=True)
        own = {**os.environ, "TRAINER_TERMINATION_LOG": str(self.said), "TMPDIR": str(folder / name), **environ}
        command = [*around, sys.executable, *program, *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=own, stdout=log, stderr=log)
        self.begun = time.monotonic()

    def wait(self, seconds=60.0):
        code = self.process.wait(seconds)
        return 128 - code if code < 0 else code

    def up(self, *ranks):
        """Process ids of ranks once they run."""
        files = [self.folder / f"up.{rank}" for rank in ranks]
        wait_for(lambda: all(file.is_file() and file.read_text() for file in files), self)
        return [int(file.read_text().split()[0]) for file in files]

    @property
    def reason(self):
        return self.said.read_text()

    def verdicts(self):
        """The folder in which its ranks leave them."""
        return list((self.folder / self.name).glob("trainer-verdicts-*"))


def processes(number):
    """The operator's word for it, left out for one."""
    return {"PET_NPROC_PER_NODE": str(number)} if number > 1 else {}


def wait_for(is_there, pod, seconds=45.0):
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline, pod.log.read_text()
        assert pod.process.poll() is None, pod.log.read_text()
        time.sleep(0.02)


def is_alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def below(pid):
    """Every process below one."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, level = [], [pid]
    while level:
        level = [child for one in level for child in children.get(one, [])]
        found += level
    return found


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "pod"
    for stat in Path("/proc").glob("[0-9]*/cwd"):  # whatever a failed test left
        with suppress(OSError):
            if Path(os.readlink(stat)).is_relative_to(tmp_path):
                os.kill(int(stat.parent.name), signal.SIGKILL)


# -- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_processes", [1, 2])
def test_complete_is_zero_and_nothing_is_left(folder, num_processes):
    pod = Pod(folder, **processes(num_processes))
    assert pod.wait() == 0, pod.log.read_text()
    assert pod.reason == "complete"
    assert pod.verdicts() == []


def test_the_rank_that_explains_the_end_gives_the_code(folder):
    pod = Pod(folder, PET_NPROC_PER_NODE="2", DO_0="polite", DO_1="end:3")
    assert pod.wait() == 3, pod.log.read_text()
    assert pod.reason == "rank 1: reason 3"
    assert "launch: ends with 3: rank 1: reason 3" in pod.log.read_text()


@pytest.mark.parametrize(
    ("do", "code", "reason"),
    [
        ("end:171", 4, "reason 171"),
        ("silent:170", 170, "watchdog"),
        (f"kill:{int(signal.SIGSEGV)}", 139, "killed by SIGSEGV"),
    ],
)
def test_a_single_process_ends_with_its_own_code(folder, do, code, reason):
    pod = Pod(folder, DO=do)
    assert pod.wait() == code, pod.log.read_text()
    assert reason in pod.reason


def test_a_rank_killed_from_outside_makes_the_pod_retryable(folder):
    pod = Pod(folder, PET_NPROC_PER_NODE="2", DO="polite")
    os.kill(pod.up("0", "1")[1], signal.SIGKILL)
    assert pod.wait() == 137, pod.log.read_text()
    assert pod.reason == "rank 1: killed by SIGKILL"


# -- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_processes", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_is_passed_on_once_and_ends_with_143(folder, num_processes, number):
    pod = Pod(folder, DO="polite", **processes(num_processes))
    ranks = [str(rank) for rank in range(num_processes)]
    pod.up(*ranks)
    pod.process.send_signal(number)
    wait_for(lambda: (folder / "told.0").is_file(), pod)
    pod.process.send_signal(number)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.wait() == 143, pod.log.read_text()
    assert pod.reason == "told to stop, published"
    assert [(folder / f"told.{rank}").read_text() for rank in ranks] == [f"{int(number)} "] * num_processes


def test_told_before_the_training_began(folder):
    pod = Pod(folder, PET_NPROC_PER_NODE="2", DO="polite", PET_NNODES="2", MASTER_ADDR="localhost", RANK="1")
    wait_for(lambda: "waiting, 0 of" in pod.log.read_text(), pod)
    told = time.monotonic()
    pod.process.send_signal(signal.SIGTERM)
    assert pod.wait() == 143
    assert time.monotonic() - told < 5
    assert pod.reason == "told to stop by SIGTERM before the training began"
    assert not (folder / "up.0").exists()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_who_does_not_listen_is_killed_within_the_grace_period(folder, num_processes):
    pod = Pod(folder, "--set", "run.grace_seconds=5", DO="deaf", **processes(num_processes))
    pids = pod.up("0")
    told = time.monotonic()
    pod.process.send_signal(signal.SIGTERM)
    code = pod.wait(20)
    assert time.monotonic() - told < 5, "the kubelet would have killed it"
    assert not any(map(is_alive, pids))
    assert code == 137, pod.log.read_text()


def test_a_torchrun_that_hangs_is_killed_with_all_it_started(folder):
    pod = Pod(folder, "--set", "run.grace_seconds=4", PET_NPROC_PER_NODE="2", DO="polite")
    pids = pod.up("0", "1")
    os.kill(next(pid for pid in below(pod.process.pid) if pid not in pids), signal.SIGSTOP)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.wait(20) == 137
    assert "killed; the last published checkpoint counts; raise terminationGracePeriodSeconds" in pod.reason
    assert not any(map(is_alive, pids))


# -- what is left ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [[], ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]])
def test_orphans_do_not_outlive_the_launcher(folder, around):
    """Both as a child of something and as PID 1, which no signal reaches without a handler."""
    if around and subprocess.run([*around, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a PID namespace")
    pod = Pod(folder, DO="orphan", around=around)
    assert pod.wait() == 0, pod.log.read_text()
    if not around:
        assert not is_alive(int((folder / "orphan").read_text()))


def test_as_pid_1_it_hears_the_signal(folder):
    around = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*around, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a PID namespace")
    pod = Pod(folder, PET_NPROC_PER_NODE="2", DO="polite", around=around)
    pod.up("0", "1")
    first = next(pid for pid in below(pod.process.pid))
    os.kill(first, signal.SIGTERM)
    assert pod.wait() == 143, pod.log.read_text()


def test_when_the_launcher_is_killed_the_ranks_stop(folder):
    pod = Pod(folder, PET_NPROC_PER_NODE="2", DO="polite")
    pids = pod.up("0", "1")
    pod.process.kill()
    pod.wait()
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))
    assert (folder / "told.0").read_text() == f"{int(signal.SIGTERM)} "


def test_an_agent_whose_launcher_is_gone_starts_nothing(folder):
    folder.mkdir()
    (folder / "rank.py").write_text(RANK)
    (folder / "torch.py").touch()
    gate, opener = os.pipe()
    os.close(opener)
    command = [sys.executable, "-m", "trainer.kube.agent", str(gate), "report", "-m", "rank"]
    done = subprocess.run(command, cwd=folder, pass_fds=[gate], capture_output=True, text=True, check=False)
    os.close(gate)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder / "up.0").exists()


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory():
    """A control group with 700 MiB; skipped where this user may not make one."""
    top = Path("/sys/fs/cgroup/memory") if Path("/sys/fs/cgroup/memory").is_dir() else Path("/sys/fs/cgroup")
    group = top / f"trainer-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if top.name == "memory" else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(700 << 20))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"cannot make a memory control group: {error}")
    yield group
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        with suppress(OSError):
            group.rmdir()
        time.sleep(0.1)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_out_of_memory_is_said_with_the_limit(folder, small_memory, num_processes):
    around = ["sh", "-c", f'echo $$ > {small_memory}/cgroup.procs && exec "$@"', "sh"]
    pod = Pod(folder, around=around, DO="polite", DO_0="hog", **processes(num_processes))
    assert pod.wait() == 137, pod.log.read_text()
    assert pod.reason.startswith("rank 0 was" if num_processes == 2 else "a process was")
    assert "killed because the pod's memory limit of 700 MiB was used up; raise resources.limits.memory" in pod.reason
    assert "memory 700 MiB" in pod.log.read_text()


# -- several nodes ---------------------------------------------------------------------------------------------------


def node(folder, rank, port, *arguments, **environ):
    """A pod of a job with a Master and one Worker, as the operator makes it."""
    name = f"signs-{'worker-0' if rank else 'master-0'}"
    shape = {
        "PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2",
        "PET_MASTER_ADDR": "localhost", "MASTER_ADDR": "localhost", "PET_MASTER_PORT": str(port),
        "MASTER_PORT": str(port), "POD_NAME": name, "PET_STANDALONE": "",
    }  # fmt: skip
    return Pod(folder, *arguments, name=name, **(shape | environ))


def test_a_worker_waits_for_its_master_and_both_get_their_ranks(folder, free_port):
    show = {"SHOW": "RANK WORLD_SIZE LOCAL_RANK OMP_NUM_THREADS", "OMP_NUM_THREADS": "3"}
    worker = node(folder, 1, free_port, **show)
    wait_for(lambda: "torchrun does not listen there yet" in worker.log.read_text(), worker)
    master = node(folder, 0, free_port, **show)
    assert (master.wait(), worker.wait()) == (0, 0), master.log.read_text() + worker.log.read_text()
    for rank in ("0", "1"):
        told = (folder / f"up.{rank}").read_text()
        expected = {"OMP_NUM_THREADS": "3", "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": "0"}
        assert all(f"{name!r}: {value!r}" in told for name, value in expected.items()), told
    said = "pod signs-worker-0 is node 1 of 2 with 1 process of 2, static rendezvous at localhost"
    assert f"launch: {said}:{free_port}" in worker.log.read_text()


def test_a_worker_whose_first_node_is_gone_does_not_wait_for_ever(folder, free_port):
    fast = "import trainer.kube.process as p; p.FOLLOW_SECONDS = 1.0\n"
    master = node(folder, 0, free_port, DO="polite")
    worker = node(folder, 1, free_port, program=("-c", fast + STAND_IN), DO="deaf")
    pids = worker.up("0", "1")
    for pid in [*below(master.process.pid), master.process.pid]:
        os.kill(pid, signal.SIGKILL)
    lost = time.monotonic()
    assert worker.wait() == 170, worker.log.read_text()
    assert time.monotonic() - lost < 8
    assert worker.reason == "the first node has ended, and the processes here did not follow"
    assert not is_alive(pids[1])


def test_nodes_that_never_come_together_end_retryable(folder, free_port):
    master = node(folder, 0, free_port, "--set", "process_timeout_seconds=2")
    assert master.wait() == 170, master.log.read_text()
    assert master.reason.startswith("the nodes did not come together: ")
    assert "Traceback" not in master.log.read_text()
    worker = node(folder, 1, free_port, "--set", "process_timeout_seconds=1")
    assert worker.wait() == 170, worker.log.read_text()
    assert re.search(r"localhost:\d+ refuses .*; gave up after 1 s", worker.reason)


def test_elastic_restarts_in_place_and_takes_back_the_old_verdict(folder, free_port):
    at_first = (
        'begin()\nif not pathlib.Path("once").exists():\n    pathlib.Path("once").touch()\n    end(1, "at first")\n'
    )
    elastic = {
        "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": f"localhost:{free_port}", "PET_NNODES": "1:1",
        "PET_MAX_RESTARTS": "2", "PET_NPROC_PER_NODE": "1", "JOB_NAME": "signs", "DO": "polite",
    }  # fmt: skip
    pod = Pod(folder, rank=RANK.replace("begin()\n", at_first, 1), **elastic)
    pod.up("0")
    assert (folder / "once").exists()
    assert read(pod.verdicts()[0]) == []
    pod.process.send_signal(signal.SIGTERM)
    assert pod.wait() == 143, pod.log.read_text()
    assert pod.reason == "told to stop, published"
    assert "elastic rendezvous 'signs'" in pod.log.read_text()


def test_an_elastic_job_survives_the_loss_of_a_pod(folder, free_port):
    """torch 2.13 by itself waits here until its store's timeout: the node that stays keeps an address to itself."""
    shape = {
        "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": f"localhost:{free_port}", "PET_NNODES": "2:2", "DO": "polite",
        "PET_MAX_RESTARTS": "3", "PET_NPROC_PER_NODE": "1", "PET_RDZV_CONF": "keep_alive_interval=1,read_timeout=30",
    }  # fmt: skip
    first = Pod(folder, name="first", **shape)
    wait_for(lambda: knock("127.0.0.1", free_port, []) == "", first)
    second = Pod(folder, name="second", **shape)
    first.up("0", "1")
    second.process.send_signal(signal.SIGTERM)
    assert second.wait() == 143, second.log.read_text()
    wait_for(lambda: "failed (exitcode: 143)" in first.log.read_text(), first)
    for name in ("up.0", "up.1", "stop"):
        (folder / name).unlink()
    third = Pod(folder, name="third", **shape)
    third.up("0", "1")
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 143, first.log.read_text()


# -- the real training -----------------------------------------------------------------------------------------------

TINY = {
    "TRAINER__NUM_EPOCHS": "100000", "TRAINER__BATCH_SIZE": "8", "TRAINER__DEVICE": "cpu",
    "TRAINER__DATA__LAYOUT": "synthetic", "TRAINER__DATA__SYNTHETIC_WORDS": "3",
    "TRAINER__DATA__SYNTHETIC_SIGNERS": "2", "TRAINER__DATA__SYNTHETIC_REPETITIONS": "3",
    "TRAINER__DATA__SAMPLING__FRAMES": "8", "TRAINER__MODEL__SIZE": "t_1_1",
    "TRAINER__CHECKPOINT__EVERY": "every 20 steps and end", "TRAINER__TELEMETRY__TENSORBOARD": "off",
    "TRAINER__TELEMETRY__PROGRESS": "off", "TRAINER__OUTPUT__REPORT": "false", "TRAINER__OUTPUT__EXPORT": "[]",
    "TRAINER__RUN__NAME": "r", "TRAINER__RUN__STORE": "file://store", "TRAINER__PROCESS_TIMEOUT_SECONDS": "30",
}  # fmt: skip


def has_checkpoint(folder):
    return any((folder / "store/r/checkpoints").glob("*/MANIFEST.json"))


def end_of(folder):
    """Last record of each attempt."""
    lines = [path.read_text().splitlines()[-1] for path in sorted((folder / "store/r/ledger").glob("*/*.jsonl"))]
    return [record for record in map(json.loads, lines) if record["event"] == "AttemptEnded"]


def test_told_to_stop_the_training_publishes_and_the_pod_ends_with_143(folder):
    pod = Pod(folder, program=("-m", "trainer", "launch"), **TINY)
    wait_for(lambda: has_checkpoint(folder), pod)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.wait() == 143, pod.log.read_text()
    assert pod.reason == "told to stop by SIGTERM"
    (end,) = end_of(folder)
    newest = max(path.parent.name for path in (folder / "store/r/checkpoints").glob("*/MANIFEST.json"))
    assert (end["code"], end["step"]) == (143, int(newest.split("-")[0]))


def test_when_a_worker_dies_its_master_ends_retryable_soon(folder, free_port):
    master = node(folder, 0, free_port, program=("-m", "trainer", "launch"), **TINY)
    worker = node(folder, 1, free_port, program=("-m", "trainer", "launch"), **TINY)
    wait_for(lambda: has_checkpoint(folder), master)
    for pid in [*below(worker.process.pid), worker.process.pid]:
        os.kill(pid, signal.SIGKILL)
    lost = time.monotonic()
    assert master.wait() == 170, master.log.read_text()
    assert time.monotonic() - lost < 20
    assert "lost another process of this run" in master.reason


def test_a_store_that_refuses_ends_it_before_torch_has_a_say(folder):
    folder.mkdir()
    (folder / "store").write_text("a file")
    pod = Pod(folder, program=("-m", "trainer", "launch"), **TINY)
    assert pod.wait() == 5, pod.log.read_text()
    assert "store" in pod.reason
    assert "Traceback" not in pod.log.read_text()
