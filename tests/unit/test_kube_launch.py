"""The launcher without processes: settings, environment, folders, the look at the world, and what it imports."""

import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from trainer.cli import main
from trainer.cli.launch import settings_of
from trainer.config.sources import load_settings
from trainer.errors import DataError, InfrastructureError, PreflightError, StoreRefusedError
from trainer.kube import world_check
from trainer.kube.launch import child_environment, flags_of, make_folders, shorter
from trainer.kube.limits import Limits
from trainer.kube.process import is_cut
from trainer.kube.topology import read_topology
from trainer.kube.world_check import check_machine, check_store, knock, wait_for_meeting, wait_until

ROOMY = Limits(cpus=8.0, has_cpu_quota=True, memory_bytes=None, shm_bytes=8 << 30, gpus=0)
DESK = read_topology({})
STATIC = {"PET_NNODES": "2", "MASTER_ADDR": "127.0.0.1", "PET_NODE_RANK": "1"}


def limits(**changes):
    return Limits(**{**vars(ROOMY), **changes})


def settings(*overrides):
    return load_settings(overrides=overrides).settings


# -- settings --------------------------------------------------------------------------------------------------------


def test_the_settings_are_those_of_the_training(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text("batch_size: 12\nrun: {grace_seconds: 60}\n")
    monkeypatch.setenv("TRAINER__OPTIM__LR", "0.5")
    line = ["--config", str(path), "--signers", "01", "02", "--num-epochs", "7", "--json"]
    found = settings_of(line)
    assert (found.batch_size, found.run.grace_seconds, found.optim.lr, found.num_epochs) == (12, 60.0, 0.5, 7)
    assert found.data.signers == ["01", "02"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--batch_size 0", "batch_size is 0 (--batch_size)"),
        ("--num_epoch 3", "No such option: --num_epoch"),
        ("--config nowhere.yaml", "--config nowhere.yaml: no such file"),
        ("--set optim.lrr=1", "did you mean 'optim.lr'?"),
        ("stray", "unexpected extra argument"),
        ("--lr", "Option '--lr' requires an argument"),
        ("-- --help", "trainer train --help"),
        ("--batch_size 0 --lr -1", "batch_size is 0"),
    ],
)
def test_bad_settings_end_the_pod_at_once_with_their_reason(line, says, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TRAINER_TERMINATION_LOG", str(tmp_path / "log"))
    monkeypatch.setattr("trainer.kube.launch.Child", None)  # nothing may be started
    assert main(["launch", *line.split()]) == 2
    said = [text.removeprefix("error: ") for text in capfd.readouterr().err.splitlines()]
    assert (tmp_path / "log").read_text() == "; ".join(said)
    assert says in said[0]


def test_bad_shapes_and_missing_data_end_it_with_their_own_codes(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_TERMINATION_LOG", str(tmp_path / "log"))
    monkeypatch.setattr("trainer.kube.launch.Child", None)
    assert main(["launch", "--data", str(tmp_path / "gone")]) == 3
    assert "gone does not exist here; is the data volume mounted" in (tmp_path / "log").read_text()
    monkeypatch.setenv("PET_NPROC_PER_NODE", "gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["launch"]) == 5
    assert "nprocPerNode is gpu" in (tmp_path / "log").read_text()
    monkeypatch.setenv("PET_NNODES", "3")
    assert main(["launch"]) == 2
    assert "3 Workers without a Master" in (tmp_path / "log").read_text()


def test_arguments_reach_the_training_as_they_are(monkeypatch):
    seen = {}

    def launch(arguments, load, *, with_preflight):
        seen.update(arguments=arguments, with_preflight=with_preflight, settings=load())
        return 7

    monkeypatch.setattr("trainer.kube.launch.launch", launch)
    line = ["--config", "quick", "--signers", "01", "--signers", "02", "--set", "seed=4"]
    assert main(["launch", *line]) == 7
    assert seen["arguments"] == line
    assert seen["with_preflight"]
    assert main(["launch", "--no-preflight", "--", *line]) == 7
    assert (seen["arguments"], seen["with_preflight"]) == (line, False)


def test_its_help_has_an_example(capsys):
    assert main(["launch", "--help"]) == 0
    assert "trainer launch --config" in capsys.readouterr().out.split("Examples:")[1]


# -- what the child gets ---------------------------------------------------------------------------------------------


def test_threads_share_the_limit():
    def threads(cpus, num_processes, **given):
        return child_environment(given, DESK, limits(cpus=cpus), num_processes)["OMP_NUM_THREADS"]

    assert [threads(4.0, 2), threads(3.9, 1), threads(0.5, 1), threads(2.0, 4)] == ["2", "3", "1", "1"]
    assert threads(4.0, 2, OMP_NUM_THREADS="7") == "7"
    assert threads(4.0, 2, OMP_NUM_THREADS="") == "2"


def test_what_would_crash_or_mislead_torchrun_is_left_out():
    given = {"PET_STANDALONE": "", "PET_NNODES": "2", "PET_LOG_DIR": "", "PET_START_METHOD": "spawn", "RANK": "1"}
    given |= STATIC | {"WORLD_SIZE": "2", "EMPTY": ""}
    own = child_environment(given, read_topology(given), ROOMY, 1)
    assert {name for name in own if name.startswith("PET_")} == {"PET_START_METHOD"}
    assert own["EMPTY"] == ""
    alone = child_environment({"RANK": "0", "WORLD_SIZE": "4", "PET_NNODES": "1"}, DESK, ROOMY, 1)
    assert not {"RANK", "WORLD_SIZE"} & set(alone)


def test_elastic_nodes_say_anew_where_they_are_in_every_round():
    elastic = read_topology({"PET_RDZV_ENDPOINT": "w:1", "PET_NNODES": "1:2"})
    assert child_environment({}, elastic, ROOMY, 1)["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in child_environment({}, read_topology(STATIC), ROOMY, 1)


def test_a_user_id_without_a_name_gets_one():
    own = child_environment({}, DESK, ROOMY, 1)
    assert (own["USER"], own["LOGNAME"]) == ("trainer", "trainer")
    assert child_environment({"USER": "me"}, DESK, ROOMY, 1)["LOGNAME"] == "me"


def test_a_single_process_needs_no_torchrun():
    assert flags_of(DESK, 1, settings()) == []
    assert "--standalone" in flags_of(DESK, 2, settings())
    assert "--node-rank=1" in flags_of(read_topology(STATIC), 1, settings())
    assert "--shutdown-timeout=55" in flags_of(DESK, 2, settings("run.grace_seconds=60"))
    assert "--rdzv-conf=timeout=90" in flags_of(read_topology(STATIC), 1, settings("process_timeout_seconds=90"))


def test_the_grace_period_is_left_before_it_ends():
    assert shorter(30, 5) == 25
    assert shorter(10, 5) == 8  # a margin takes a fifth at most
    assert shorter(0.5, 5) == 1


def test_folders_of_the_environment_are_made(tmp_path):
    make_folders({"HOME": str(tmp_path / "scratch/home"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "scratch/c/i")})
    assert (tmp_path / "scratch/c/i").is_dir()
    assert (tmp_path / "scratch/home").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=r"TMPDIR is .*file/tmp, which cannot be made .*emptyDir"):
        make_folders({"TMPDIR": str(tmp_path / "file/tmp")})


# -- the world -------------------------------------------------------------------------------------------------------


def doubts(num_processes=1, *overrides, **changes):
    return check_machine(settings(*overrides), limits(**changes), num_processes)


def test_a_machine_that_fits_raises_no_doubt():
    assert doubts() == []
    assert doubts(8, gpus=8) == []


@pytest.mark.parametrize(
    ("num_processes", "overrides", "changes", "says"),
    [
        (2, [], {"gpus": 4}, "4 GPUs for 2 processes"),
        (2, [], {"gpus": 2, "shm_bytes": 64 << 20}, "/dev/shm has 64 MiB, 2 GPU processes may need 256 MiB"),
        (1, [], {"memory_bytes": 256 << 20}, "the memory limit is 256 MiB, and starting alone takes about 330 MiB"),
        (2, [], {"memory_bytes": 800 << 20}, "starting alone takes about 880 MiB"),
        (4, [], {"cpus": 2.0}, "4 processes on 2 CPUs wait for each other"),
        (2, ["threads=8"], {}, "2 processes of 8 threads on 8 CPUs"),
    ],
)
def test_what_may_hurt_is_said(num_processes, overrides, changes, says):
    (line,) = doubts(num_processes, *overrides, **changes)
    assert says in line
    assert "\n" not in line


def test_shared_memory_does_not_matter_without_several_gpu_processes():
    assert doubts(1, gpus=1, shm_bytes=0) == []
    assert doubts(4, shm_bytes=0) == []
    assert doubts(2, "device=cpu", gpus=4, shm_bytes=0) == []


def test_a_clock_that_was_never_set_is_said(monkeypatch):
    monkeypatch.setattr("trainer.kube.world_check.time.time", lambda: 3600.0)
    assert "the clock says 1970-01-01" in doubts()[0]


@pytest.mark.parametrize(("device", "gpus", "num_processes"), [("cuda", 0, 1), ("cuda", 2, 4), ("auto", 2, 4)])
def test_too_few_gpus_cannot_work(device, gpus, num_processes):
    with pytest.raises(PreflightError, match=f"nvidia.com/gpu: {num_processes}"):
        check_machine(settings(f"device={device}"), limits(gpus=gpus), num_processes)


def test_missing_data_are_found_before_torch_is(tmp_path):
    with pytest.raises(DataError, match="data volume"):
        check_machine(settings(f"data.path={tmp_path / 'gone'}"), ROOMY, 1)
    assert check_machine(settings(f"data.path={tmp_path}"), ROOMY, 1) == []
    assert check_machine(settings("data.path=s3://bucket/data"), ROOMY, 1) == []


# -- waiting ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that only waiting moves."""
    seconds = [0.0]

    class Pause:
        def wait(self, pause):
            seconds[0] += pause

    monkeypatch.setattr(world_check.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(world_check.threading, "Event", Pause)
    return seconds


def test_a_wait_is_said_at_once_then_every_ten_seconds_and_ends(clock):
    lines = []
    with pytest.raises(InfrastructureError, match=r"no answer; gave up after 25 s"):
        wait_until(lambda: "no answer", 25.0, lines.append)
    assert [line.split()[1] for line in lines] == ["0", "10", "20"]
    assert lines[0] == "waiting, 0 of at most 25 s: no answer"


def test_a_wait_ends_when_there_is_no_problem_any_more(clock):
    problems = iter(["a", "b", ""])
    assert wait_until(lambda: next(problems), 25.0, lambda _line: None, pause_seconds=2.0) == 4.0


def test_a_port_is_knocked_at(free_port):
    lines = []
    assert f"127.0.0.1:{free_port} refuses (Connection refused)" in knock("127.0.0.1", free_port, lines)
    assert lines == []
    with socket.create_server(("127.0.0.1", free_port)):
        assert knock("127.0.0.1", free_port, lines) == ""
    assert lines[0].gettimeout() is None
    assert lines[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    lines[0].close()


def test_a_name_without_address_is_told_from_a_closed_port():
    assert "no address for no-such-host.invalid" in knock("no-such-host.invalid", 1, [])


def test_a_port_that_never_answers_is_told_from_a_closed_one(monkeypatch):
    def connect(_line, _address):
        raise TimeoutError

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert "a NetworkPolicy may close it" in knock("127.0.0.1", 9, [])


def test_a_worker_waits_for_the_master_and_the_master_for_no_one(free_port):
    topology = read_topology(STATIC | {"MASTER_PORT": str(free_port)})
    lines, servers = [], []
    later = threading.Timer(0.4, lambda: servers.append(socket.create_server(("127.0.0.1", free_port))))
    later.start()
    line = wait_for_meeting(topology, 10.0, lines.append)
    assert "refuses" in lines[0]
    assert f"127.0.0.1:{free_port} answers after" in lines[-1]
    line.close()
    servers[0].close()
    master = read_topology(STATIC | {"PET_NODE_RANK": "0", "MASTER_ADDR": "no-such-host.invalid"})
    assert wait_for_meeting(master, 0.0, lines.append) is None
    assert wait_for_meeting(DESK, 0.0, lines.append) is None


def test_a_line_is_cut_when_the_other_side_is_gone():
    here, there = socket.socketpair()
    assert not is_cut(here)
    there.send(b"what")
    assert not is_cut(here)
    there.close()
    assert is_cut(here)
    here.close()
    assert is_cut(here)


def test_the_store_is_tried(tmp_path):
    check_store(settings(f"run.store=file://{tmp_path}/made"), print)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    begun = time.monotonic()
    with pytest.raises(StoreRefusedError):
        check_store(settings(f"run.store=file://{tmp_path}/file/x"), print)
    assert time.monotonic() - begun < 5


def test_a_store_that_is_away_is_waited_for(tmp_path, monkeypatch, clock):
    answers = iter([InfrastructureError("the server is away"), InfrastructureError("the server is away"), None])
    monkeypatch.setattr(world_check, "verdict", lambda _url, _checks: next(answers))
    lines = []
    check_store(settings(f"run.store=file://{tmp_path}"), lines.append)
    assert "of at most 120 s: the server is away" in lines[0]
    assert "answers after 4.0 s" in lines[-1]
    monkeypatch.setattr(world_check, "verdict", lambda _url, _checks: InfrastructureError("the server is away"))
    with pytest.raises(InfrastructureError, match="gave up after 120 s") as caught:
        check_store(settings(f"run.store=file://{tmp_path}"), lines.append)
    assert caught.value.exit_code == 170


# -- cost ------------------------------------------------------------------------------------------------------------

AT_START = """
import json, sys, time
import trainer.kube.launch as launch
from trainer.cli import main

class Child:
    def __init__(self, command, environ):
        heavy = {"torch", "numpy", "boto3", "botocore", "kubernetes", "matplotlib"} & set(sys.modules)
        print(json.dumps({"seconds": time.process_time(), "heavy": sorted(heavy), "command": command(9)}))
        sys.exit(0)

launch.Child = Child
main(["launch", "--config", "quick", "--store", "file://store"])
"""


def at_start(folder):
    """What a launcher has imported, spent and would start at the moment when it starts torchrun."""
    done = subprocess.run([sys.executable, "-c", AT_START], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_torchrun_starts_early_and_nothing_heavy_is_imported_before(tmp_path):
    """As a share of what torch costs to import, in CPU time: the machine may be busy. It is about a third."""
    found = at_start(tmp_path)
    assert found["heavy"] == []
    assert found["command"][-6:] == ["-m", "trainer.train", "--config", "quick", "--store", "file://store"]
    timed = [sys.executable, "-c", "import time, torch; print(time.process_time())"]
    torch_alone = float(subprocess.run(timed, capture_output=True, text=True, check=True).stdout)
    assert found["seconds"] < 0.75 * torch_alone
