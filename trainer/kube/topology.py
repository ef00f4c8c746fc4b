"""Which processes this start consists of, from the environment that the training operator gives a pod.

    desk      nothing set                                   one node, here
    pod       a Master alone, or one Worker                 one node; needs no rendezvous
    static    Master + Workers: MASTER_ADDR, node ranks     torchrun meets at the master's port
    elastic   Workers only: PET_RDZV_ENDPOINT, MIN:MAX      torchrun meets at the first worker and may meet again

RANK as the operator sets it is the rank of the pod, WORLD_SIZE counts its guess of processes: only node counts and
node ranks are taken from there. Of `PET_...`, which torchrun would read itself, an empty one would crash it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NoReturn

from trainer.errors import PreflightError, SettingsError
from trainer.kube.limits import Limits

DEFAULT_PORTS = {"static": 29500, "elastic": 29400}
"""torchrun's own."""
_READ = """NNODES NPROC_PER_NODE NODE_RANK MASTER_ADDR MASTER_PORT MAX_RESTARTS
    RDZV_BACKEND RDZV_ENDPOINT RDZV_ID RDZV_CONF STANDALONE SHUTDOWN_TIMEOUT"""

CONSUMED = frozenset(f"PET_{name}" for name in _READ.split())
"""Variables of torchrun that become flags (or nothing) here and must not reach it a second time."""

Shape = Literal["desk", "pod", "static", "elastic"]


@dataclass(frozen=True)
class Topology:
    """Nodes, the way they meet, and how many processes were asked for on each."""

    shape: Shape
    min_nodes: int = 1
    max_nodes: int = 1
    node_rank: int | None = 0
    """None: decided when the nodes meet."""
    processes: str = "1"
    """A number, or `auto`, `gpu`, `cpu`."""
    host: str = ""
    """Where the nodes meet."""
    port: int = 0
    backend: str = "static"
    run_id: str = ""
    rendezvous: str = ""
    """Further settings `name=value,...` of the rendezvous."""
    max_restarts: int = 0
    pod: str = ""

    def meets_here(self, hostname: str) -> bool:
        """Whether this node is the one where the others knock."""
        if self.shape == "static":
            return self.node_rank == 0
        own = self.host in (hostname, "localhost", "127.0.0.1", "::1") or self.host.startswith(f"{hostname}.")
        return self.shape != "elastic" or own

    def describe(self, num_processes: int) -> str:
        """The topology in one line."""
        who = f"pod {self.pod}" if self.pod else "this machine"
        here = f"{num_processes} {'process' if num_processes == 1 else 'processes'}"
        if self.shape == "static":
            total = self.max_nodes * num_processes
            nodes = f"is node {self.node_rank} of {self.max_nodes} with {here} of {total}"
            return f"{who} {nodes}, static rendezvous at {self.host}:{self.port}"
        if self.shape == "elastic":
            nodes = f"is one of {self.min_nodes} to {self.max_nodes} nodes with {here} each, elastic rendezvous"
            return f"{who} {nodes} {self.run_id!r} at {self.host}:{self.port}, {self.max_restarts} restarts"
        return f"{who} runs {here} on its own"


def read_topology(environ: Mapping[str, str]) -> Topology:
    """What the operator set. Raises SettingsError for a job that cannot come together, with the reason."""
    if "LOCAL_RANK" in environ or "TORCHELASTIC_RUN_ID" in environ:
        raise SettingsError("trainer launch starts the processes itself; below torchrun use `-m trainer.train`")
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    least, most = _nodes(given.get("PET_NNODES", "1"))
    own = Topology(
        shape="pod" if "PET_NNODES" in given or "KUBERNETES_SERVICE_HOST" in given else "desk",
        min_nodes=least,
        max_nodes=most,
        processes=_processes(given.get("PET_NPROC_PER_NODE", "1")),
        max_restarts=_whole("PET_MAX_RESTARTS", given.get("PET_MAX_RESTARTS", "0")),
        pod=given.get("POD_NAME") or (given.get("HOSTNAME", "") if "KUBERNETES_SERVICE_HOST" in given else ""),
    )
    master = given.get("PET_MASTER_ADDR") or given.get("MASTER_ADDR")
    if "PET_RDZV_ENDPOINT" in given or given.get("PET_RDZV_BACKEND", "static") != "static":
        return _elastic(own, given, master)
    if most > 1:
        return _static(own, given, master)
    return own


def resolve_processes(topology: Topology, limits: Limits, device: str) -> int:
    """Processes of this node; `auto` means the GPUs, or on a CPU no more than the control group allows.

    Raises PreflightError where GPUs were asked for by name and there are none.
    """
    asked = topology.processes
    if asked.isdigit():
        return int(asked)
    wants_gpus = asked == "gpu" or (asked == "auto" and device in ("auto", "cuda"))
    if asked == "gpu" and not limits.gpus:
        raise PreflightError("nprocPerNode is gpu, but this container sees no GPU; put nvidia.com/gpu into its limits")
    return limits.gpus if wants_gpus and limits.gpus else limits.whole_cpus


def torchrun_flags(topology: Topology, num_processes: int, *, shutdown_seconds: int, meet_seconds: int) -> list[str]:
    """The flags that say all this to torchrun; `meet_seconds` is the longest wait for the other nodes."""
    nodes = {"elastic": f"{topology.min_nodes}:{topology.max_nodes}", "static": str(topology.max_nodes)}
    flags = [f"--nnodes={nodes.get(topology.shape, '1')}", f"--nproc-per-node={num_processes}"]
    flags += [f"--shutdown-timeout={shutdown_seconds}", f"--max-restarts={topology.max_restarts}"]
    if topology.shape == "static":
        flags += [f"--node-rank={topology.node_rank}", f"--master-addr={topology.host}"]
        return [*flags, f"--master-port={topology.port}", f"--rdzv-conf=timeout={meet_seconds}"]
    if topology.shape == "elastic":
        rendezvous = topology.rendezvous or f"join_timeout={meet_seconds}"
        flags += [f"--rdzv-backend={topology.backend}", f"--rdzv-endpoint={topology.host}:{topology.port}"]
        return [*flags, f"--rdzv-id={topology.run_id}", f"--rdzv-conf={rendezvous}"]
    return [*flags, "--standalone"]


def _static(own: Topology, given: Mapping[str, str], master: str | None) -> Topology:
    """Master and Workers."""
    if not master:
        raise SettingsError(
            f"this job has {own.max_nodes} Workers without a Master and without elasticPolicy, so they have nowhere to "
            "meet: add a Master (and one Worker less), or an elasticPolicy"
        )
    if own.min_nodes != own.max_nodes:
        raise SettingsError(f"PET_NNODES is {given['PET_NNODES']}, a range, which only an elasticPolicy can have")
    rank = _whole("PET_NODE_RANK", given.get("PET_NODE_RANK") or given.get("RANK", ""))
    if rank >= own.max_nodes:
        raise SettingsError(f"PET_NODE_RANK is {rank}, but there are {own.max_nodes} nodes, counted from 0")
    port = given.get("PET_MASTER_PORT") or given.get("MASTER_PORT") or str(DEFAULT_PORTS["static"])
    return replace(own, shape="static", node_rank=rank, host=master, port=_port("PET_MASTER_PORT", port))


def _elastic(own: Topology, given: Mapping[str, str], master: str | None) -> Topology:
    """Workers only, which meet again when one comes or goes."""
    if master and own.max_nodes < _num_pods(given):
        raise SettingsError(
            f"this job has a Master beside an elasticPolicy of at most {own.max_nodes} nodes: one pod too many, all "
            "would wait for ever; leave the Master out"
        )
    endpoint = given.get("PET_RDZV_ENDPOINT", "")
    found = re.fullmatch(r"\[?(?P<host>[^\]]+?)\]?(:(?P<port>\d+))?", endpoint)
    if not found:
        raise SettingsError(f"PET_RDZV_ENDPOINT is {endpoint!r}: elasticPolicy needs an rdzvHost, e.g. job-worker-0")
    return replace(
        own,
        shape="elastic",
        node_rank=None,
        host=found["host"],
        port=_port("PET_RDZV_ENDPOINT", found["port"] or str(DEFAULT_PORTS["elastic"])),
        backend=given.get("PET_RDZV_BACKEND", "c10d"),
        run_id=given.get("PET_RDZV_ID") or given.get("JOB_NAME") or "trainer",
        rendezvous=given.get("PET_RDZV_CONF", ""),
    )


def _num_pods(given: Mapping[str, str]) -> int:
    """The operator multiplies pods and processes where it knows both."""
    processes = _processes(given.get("PET_NPROC_PER_NODE", "1"))
    return _whole("WORLD_SIZE", given.get("WORLD_SIZE", "1")) // (int(processes) if processes.isdigit() else 1)


def _nodes(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    numbers = _whole("PET_NNODES", least), _whole("PET_NNODES", most or least)
    if not 1 <= numbers[0] <= numbers[1]:
        raise SettingsError(f"PET_NNODES is {text}: write MIN:MAX with 1 <= MIN <= MAX")
    return numbers


def _processes(text: str) -> str:
    """People quote the number once more than YAML needs."""
    asked = text.strip("\"' ")
    if asked in ("auto", "gpu", "cpu") or (asked.isdigit() and int(asked) > 0):
        return asked
    raise SettingsError(f"nprocPerNode is {text}: write a number in quotes, auto, gpu or cpu")


def _whole(name: str, text: str) -> int:
    return int(text) if text.isdigit() else _refuse(f"{name} is {text or 'not set'}: it must be a whole number")


def _port(name: str, text: str) -> int:
    port = _whole(name, text)
    return port if 0 < port < 65536 else _refuse(f"{name} is {text}: a port is a number from 1 to 65535")


def _refuse(text: str) -> NoReturn:
    raise SettingsError(text)
