"""What the operator's environment means: shapes, refusals, and the flags that torchrun gets."""

import re

import pytest

from trainer.errors import PreflightError, SettingsError
from trainer.kube.limits import Limits
from trainer.kube.topology import CONSUMED, Topology, read_topology, resolve_processes, torchrun_flags

# As seen in pods of the training operator 1.9.4.
MASTER_ONLY = {
    "PYTHONUNBUFFERED": "1", "MASTER_PORT": "23456", "PET_MASTER_PORT": "23456", "MASTER_ADDR": "signs-master-0",
    "PET_MASTER_ADDR": "signs-master-0", "WORLD_SIZE": "1", "RANK": "0", "PET_NODE_RANK": "0",
    "PET_NPROC_PER_NODE": "1", "PET_NNODES": "1", "POD_NAME": "signs-master-0",
}  # fmt: skip
STATIC_WORKER = MASTER_ONLY | {
    "WORLD_SIZE": "6", "RANK": "2", "PET_NODE_RANK": "2", "PET_NPROC_PER_NODE": "2", "PET_NNODES": "3",
    "POD_NAME": "signs-worker-1",
}  # fmt: skip
ELASTIC_WORKER = {
    "PYTHONUNBUFFERED": "1", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": "signs-worker-0:23456",
    "PET_MAX_RESTARTS": "10", "PET_NPROC_PER_NODE": "1", "PET_NNODES": "2:4", "POD_NAME": "signs-worker-1",
    "JOB_NAME": "signs",
}  # fmt: skip
LIMITS = Limits(cpus=2.5, has_cpu_quota=True, memory_bytes=None, shm_bytes=0, gpus=0)


def flags(topology, num_processes=2):
    return torchrun_flags(topology, num_processes, shutdown_seconds=25, meet_seconds=600)


def test_nothing_set_is_the_desk():
    topology = read_topology({"PATH": "x"})
    assert topology == Topology("desk")
    assert topology.describe(1) == "this machine runs 1 process on its own"
    assert flags(topology)[-1] == "--standalone"


def test_a_master_alone_needs_no_one_to_meet():
    topology = read_topology(MASTER_ONLY)
    assert (topology.shape, topology.host) == ("pod", "")
    assert topology.describe(2) == "pod signs-master-0 runs 2 processes on its own"


def test_a_pod_without_a_downward_api_is_known_by_its_hostname():
    given = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "signs-master-0"}
    assert read_topology(given).describe(1) == "pod signs-master-0 runs 1 process on its own"
    assert read_topology({"HOSTNAME": "laptop"}).describe(1).startswith("this machine")


def test_a_static_worker_knows_its_node_and_the_master():
    topology = read_topology(STATIC_WORKER)
    assert topology.describe(2) == (
        "pod signs-worker-1 is node 2 of 3 with 2 processes of 6, static rendezvous at signs-master-0:23456"
    )
    assert flags(topology) == [
        "--nnodes=3", "--nproc-per-node=2", "--shutdown-timeout=25", "--max-restarts=0", "--node-rank=2",
        "--master-addr=signs-master-0", "--master-port=23456", "--rdzv-conf=timeout=600",
    ]  # fmt: skip
    assert not topology.meets_here("signs-worker-1")
    assert read_topology(STATIC_WORKER | {"PET_NODE_RANK": "0"}).meets_here("signs-master-0")


def test_the_node_rank_comes_from_rank_where_that_is_all_there_is():
    given = {"MASTER_ADDR": "m", "RANK": "1", "WORLD_SIZE": "2", "PET_NNODES": "2"}
    topology = read_topology(given)
    assert (topology.node_rank, topology.host, topology.port) == (1, "m", 29500)


def test_an_elastic_worker_takes_the_job_as_its_meeting():
    topology = read_topology(ELASTIC_WORKER)
    assert (topology.run_id, topology.node_rank, topology.max_restarts) == ("signs", None, 10)
    assert flags(topology, 1) == [
        "--nnodes=2:4", "--nproc-per-node=1", "--shutdown-timeout=25", "--max-restarts=10", "--rdzv-backend=c10d",
        "--rdzv-endpoint=signs-worker-0:23456", "--rdzv-id=signs", "--rdzv-conf=join_timeout=600",
    ]  # fmt: skip
    assert "one of 2 to 4 nodes with 1 process each, elastic rendezvous 'signs'" in topology.describe(1)
    assert topology.meets_here("signs-worker-0")
    assert read_topology(ELASTIC_WORKER | {"PET_RDZV_ENDPOINT": "signs-worker-1.team:1"}).meets_here("signs-worker-1")
    assert not topology.meets_here("signs-worker-1")


def test_what_an_elastic_policy_says_itself_is_kept():
    given = ELASTIC_WORKER | {"PET_RDZV_ID": "mine", "PET_RDZV_CONF": "last_call_timeout=5", "PET_NNODES": "2"}
    topology = read_topology(given)
    assert flags(topology, 1)[-2:] == ["--rdzv-id=mine", "--rdzv-conf=last_call_timeout=5"]
    assert flags(topology, 1)[0] == "--nnodes=2:2"


def test_an_endpoint_may_be_without_port_or_of_six_parts():
    assert read_topology(ELASTIC_WORKER | {"PET_RDZV_ENDPOINT": "w0"}).port == 29400
    topology = read_topology(ELASTIC_WORKER | {"PET_RDZV_ENDPOINT": "[fd00::1]:99"})
    assert (topology.host, topology.port) == ("fd00::1", 99)


@pytest.mark.parametrize("name", ["PET_STANDALONE", "PET_RDZV_CONF", "PET_RDZV_ID", "PET_MAX_RESTARTS", "JOB_NAME"])
def test_an_empty_variable_counts_as_none(name):
    topology = read_topology(ELASTIC_WORKER | {name: ""})
    assert topology.shape == "elastic"
    assert "" not in [flag.partition("=")[2] for flag in flags(topology)]


def test_what_becomes_a_flag_does_not_reach_torchrun_twice():
    assert {name for name in (MASTER_ONLY | ELASTIC_WORKER) if name.startswith("PET_")} <= CONSUMED
    assert "PET_STANDALONE" in CONSUMED


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"PET_NNODES": "3"}, "3 Workers without a Master and without elasticPolicy"),
        (STATIC_WORKER | {"PET_NODE_RANK": "3"}, "PET_NODE_RANK is 3, but there are 3 nodes"),
        (STATIC_WORKER | {"PET_NODE_RANK": "-1"}, "PET_NODE_RANK is -1: it must be a whole number"),
        (STATIC_WORKER | {"PET_NODE_RANK": "", "RANK": ""}, "PET_NODE_RANK is not set"),
        (STATIC_WORKER | {"PET_MASTER_PORT": "0"}, "PET_MASTER_PORT is 0: a port is a number"),
        (STATIC_WORKER | {"PET_NNODES": "1:3"}, "1:3, a range, which only an elasticPolicy can have"),
        (STATIC_WORKER | {"PET_NNODES": "three"}, "PET_NNODES is three"),
        (ELASTIC_WORKER | {"PET_NNODES": "4:2"}, "PET_NNODES is 4:2: write MIN:MAX"),
        (ELASTIC_WORKER | {"PET_NNODES": "0"}, "PET_NNODES is 0"),
        (ELASTIC_WORKER | {"PET_RDZV_ENDPOINT": ""}, "elasticPolicy needs an rdzvHost"),
        (STATIC_WORKER | ELASTIC_WORKER | {"PET_NNODES": "1:2", "WORLD_SIZE": "3"}, "one pod too many"),
        ({"PET_NPROC_PER_NODE": "many"}, "nprocPerNode is many: write a number in quotes, auto, gpu or cpu"),
        ({"PET_NPROC_PER_NODE": "0"}, "nprocPerNode is 0"),
        ({"LOCAL_RANK": "0"}, "below torchrun use `-m trainer.train`"),
    ],
)
def test_a_job_that_cannot_come_together_is_refused(given, says):
    with pytest.raises(SettingsError, match=re.escape(says)) as caught:
        read_topology(given)
    assert "\n" not in str(caught.value)


def test_a_master_beside_an_elastic_policy_works_if_all_pods_fit():
    given = STATIC_WORKER | ELASTIC_WORKER | {"PET_NNODES": "2:3", "WORLD_SIZE": "6", "PET_NPROC_PER_NODE": "2"}
    assert read_topology(given).shape == "elastic"


@pytest.mark.parametrize(
    ("asked", "gpus", "device", "expected"),
    [
        ("3", 0, "auto", 3),
        ('"2"', 0, "auto", 2),
        ("'2'", 0, "auto", 2),
        ("auto", 0, "auto", 2),  # floor of 2.5 CPUs, whatever the host has
        ("auto", 4, "auto", 4),
        ("auto", 4, "cpu", 2),
        ("cpu", 4, "auto", 2),
        ("gpu", 4, "auto", 4),
    ],
)
def test_processes_of_a_node(asked, gpus, device, expected):
    limits = Limits(**{**vars(LIMITS), "gpus": gpus})
    assert resolve_processes(read_topology({"PET_NPROC_PER_NODE": asked}), limits, device) == expected


def test_a_fraction_of_a_cpu_still_runs_one_process():
    limits = Limits(**{**vars(LIMITS), "cpus": 0.2})
    assert resolve_processes(read_topology({"PET_NPROC_PER_NODE": "auto"}), limits, "auto") == 1


def test_gpus_that_are_not_there_end_the_pod_for_good():
    with pytest.raises(PreflightError, match=r"nvidia\.com/gpu"):
        resolve_processes(read_topology({"PET_NPROC_PER_NODE": "gpu"}), LIMITS, "auto")
    assert PreflightError.exit_code == 5
