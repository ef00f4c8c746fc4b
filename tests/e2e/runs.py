"""Runs that something is done to: started by the chart, disturbed, and compared bit for bit with the desk's.

    trial = Trial.start(cluster, s3, release, WORKERS)     a job whose checkpoints lie in S3
    trial.published()                                      one of the attempt under way is there
    trial.delete_pod(trial.pod()); trial.ended(143)        that attempt is over; the next one is awaited from now on
    trial.check_end(desk_weights(trial, 3))                Succeeded, with the weights and attempts that were to be

Nothing here waits for a time: only for a checkpoint in the store, a line of a log, or a state of a pod.
"""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes
import yaml

from tests.e2e.conftest import S3
from tests.e2e.kube import CONTAINER, Kube, Object, container_of
from tests.e2e.releases import Release, Values
from trainer.checkpoint.attempts import AttemptId, Attempts, get_json, host_of
from trainer.checkpoint.files import FileStore
from trainer.checkpoint.manifest import FolderName
from trainer.checkpoint.restore import LATEST_HINT, load_checkpoint, read_hint
from trainer.checkpoint.run import COMPLETE_FILE
from trainer.checkpoint.store import Store
from trainer.telemetry.reading import Record

STEPS = 1500
"""Of a run that much is done to: long enough that each disturbance finds it in its middle (15 to 30 s on two cores)."""
PATIENCE = 420.0
"""Seconds for what takes 15 to 30 on two idle cores: a start, or the rest of a run."""
LOOK_SECONDS = 0.25
TRAINING: Values = {
    "config": {
        "num_epochs": 100_000,
        "max_steps": STEPS,
        "device": "cpu",
        "threads": 1,  # what a sum of floats comes to depends on how many add it up
        "process_timeout_seconds": 90,
        "passes": {"val": "every 500 steps"},
        "checkpoint": {"every": "every 50 steps and end"},
        "telemetry": {"log_every": "every 50 steps", "tensorboard": "off"},
    }
}
ONE_POD: Values = {}
WORKERS: Values = {"worker": {"replicas": 2}}
ELASTIC: Values = {"elastic": {"enabled": True}, "worker": {"replicas": 2}}

_KILL_RANK = """
newest=0
for process in /proc/[0-9]*; do
  case "$(tr '\\0' ' ' < $process/cmdline)" in *"-m trainer"[.]train*)
    number=${process#/proc/}
    [ $number -gt $newest ] && newest=$number ;;
  esac
done
[ $newest -gt 1 ] && kill -9 $newest && echo killed $newest
"""
"""The newest process that trains: the rank, where torchrun is its parent; the only one elsewhere. (The brackets keep
this very shell out of it.)"""


@dataclass(frozen=True)
class Lives:
    """Pods as they were at a moment; a pod that is made again has the same name."""

    uids: dict[str, str]
    since: str
    """The cluster's name for that moment."""


@dataclass
class Trial:
    """A run in the cluster, and what is known of its ends."""

    cluster: Kube
    s3: S3
    release: Release
    job: str
    ends: list[int | None] = field(default_factory=list)
    """Exit code of each attempt, as it should be; None for one that could not say anything any more."""

    @classmethod
    def start(cls, cluster: Kube, s3: S3, release: Release, *values: Values) -> "Trial":
        release.install(s3.values, TRAINING, *values)
        return cls(cluster, s3, release, release.job)

    # the run in the store

    @property
    def name(self) -> str:
        return self.release.name

    @property
    def store(self) -> Store:
        return self.s3.store()

    def published(self) -> FolderName:
        """The newest checkpoint once it is one of the attempt under way, the one after the known ends."""
        wanted = len(self.ends) + 1

        def found() -> FolderName | None:
            newest = read_hint(self.store, self.name, LATEST_HINT)
            number = AttemptId.parse(newest.attempt).number if newest else 0
            assert number <= wanted, f"attempt {number} has begun, {wanted} was to be the newest: {self.story()}"
            if number == wanted:
                return newest
            over = get_json(self.store, f"{self.name}/{COMPLETE_FILE}")
            assert over is None, f"the run was over before attempt {wanted}: {self.story()}"
            return None

        return self.look_for(found, PATIENCE, f"a checkpoint of attempt {wanted}")

    def look_for(self, found: Callable[[], Any], seconds: float, what: str) -> Any:
        """Ask the store, which nobody can watch, until it has an answer."""
        end = time.monotonic() + seconds
        while not (answer := found()):
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds:.0f} s; {self.story()}")
            threading.Event().wait(LOOK_SECONDS)
        return answer

    def attempts(self) -> list[int | None]:
        """Exit codes of the attempts by their own records."""
        begun = Attempts.read(self.store, self.name).begun
        records = [get_json(self.store, f"{self.name}/attempts/{one}.end.json") for one in begun]
        return [record["code"] if record else None for record in records]

    def ended(self, *codes: int) -> Record:
        """The ledger's last record of the attempt under way, once it has ended with one of these codes; notes it."""
        number = len(self.ends)
        wait = lambda: (found := self.attempts()) and len(found) > number and found[number] is not None  # noqa: E731
        self.look_for(wait, PATIENCE, f"the end of attempt {number + 1}")
        (said,) = [one for one in self.records(number + 1) if one["event"] == "AttemptEnded"]
        assert said["code"] in codes, self.story()
        self.ends.append(said["code"])
        return said

    def first_pod(self) -> str:
        """The pod of the attempt's first rank."""
        newest = Attempts.read(self.store, self.name).begun[-1]
        return str(host_of(self.store, self.name, newest))

    def killed(self) -> None:
        """Note that the attempt under way could not say anything any more."""
        self.ends.append(None)

    def records(self, attempt: int | None = None) -> list[Record]:
        """The ledger, or one attempt's part of it."""
        found = self.s3.records(self.name)
        return [one for one in found if attempt in (None, AttemptId.parse(one["attempt"]).number)]

    # its pods

    def pod(self, kind: str = "master", number: int = 0) -> str:
        return f"{self.job}-{kind}-{number}"

    def lives(self, *pods: str) -> Lives:
        """The lives that these pods live now, default all of the job's; to be asked before something ends them."""
        found = self.cluster.core.list_namespaced_pod(self.release.namespace, label_selector=self._labels)
        uids = {one.metadata.name: one.metadata.uid for one in found.items}
        return Lives({pod: uids[pod] for pod in pods or sorted(uids)}, found.metadata.resource_version)

    def ends_of(self, lives: Lives) -> dict[str, Object]:
        """How these lives ended: the container's terminated state, and the `deletionTimestamp` of the pod."""
        ends: dict[str, Object] = {}

        def note(_kind: str, pod: Object) -> bool:
            name, state = pod["metadata"]["name"], container_of(pod)["state"].get("terminated")
            if state and lives.uids.get(name) == pod["metadata"]["uid"]:
                ends[name] = {**state, "deletionTimestamp": pod["metadata"].get("deletionTimestamp")}
            return len(ends) == len(lives.uids)

        self._until(note, f"end of {', '.join(lives.uids)}", lives.since)
        return ends

    def wait_for_new(self, lives: Lives) -> None:
        """Until other pods have taken the place of these."""
        new: set[str] = set()

        def note(_kind: str, pod: Object) -> bool:
            name = pod["metadata"]["name"]
            new.update([name] if lives.uids.get(name, pod["metadata"]["uid"]) != pod["metadata"]["uid"] else [])
            return len(new) == len(lives.uids)

        self._until(note, f"new {', '.join(lives.uids)}", lives.since)

    def delete_pod(self, pod: str) -> Object:
        """Delete a pod; how its container ended."""
        lives = self.lives(pod)
        self.cluster.core.delete_namespaced_pod(pod, self.release.namespace)
        return self.ends_of(lives)[pod]

    def kill_rank(self, pod: str) -> None:
        """`kill -9` of a process that trains, from inside of its container."""
        said = kubernetes.stream.stream(
            self.cluster.core.connect_get_namespaced_pod_exec, pod, self.release.namespace,
            container=CONTAINER, command=["sh", "-c", _KILL_RANK], stderr=True, stdout=True,
        )  # fmt: skip
        assert said.startswith("killed"), f"no rank was killed in {pod}: {said!r}"

    @property
    def _labels(self) -> str:
        return f"training.kubeflow.org/job-name={self.job}"

    def _until(self, note: Callable[[str, Object], bool], what: str, since: str) -> None:
        list_pods = self.cluster.core.list_namespaced_pod
        call = partial(list_pods, namespace=self.release.namespace, label_selector=self._labels)
        self.cluster.until(call, note, PATIENCE, what, since)

    # its end

    def check_end(self, desk: str) -> None:
        """Succeeded, with the weights of an undisturbed run, after the attempts that were to be."""
        self.cluster.job_until(self.release.namespace, self.job, "Succeeded", seconds=PATIENCE)
        expected = [*self.ends, 0]
        assert self.attempts() == expected, self.story()
        codes = dict.fromkeys(record["attempt"] for record in self.records())
        codes |= {one["attempt"]: one["code"] for one in self.records() if one["event"] == "AttemptEnded"}
        assert list(codes.values()) == expected, self.story()
        steps = settings_of(self.release)["max_steps"]
        assert digest(self.store, self.name, steps) == desk, self.story()

    def story(self) -> str:
        """For the text of a failure."""
        return f"attempts so far {self.attempts()}; {self.cluster.describe(self.release.namespace, self.job)}"


def digest(store: Store, run: str, steps: int) -> str:
    """SHA-256 over every tensor of a run's last checkpoint, weights and optimizer, by name."""
    found = load_checkpoint(store, run)
    assert found is not None, f"run {run} has no checkpoint in {store.url}"
    assert found.step == steps, f"the last checkpoint of run {run} is that of step {found.step}, not {steps}"
    total = hashlib.sha256()
    for part, tensors in sorted(found.tensors.items()):
        for name, tensor in sorted(tensors.items()):
            total.update(f"{part}/{name} {tensor.dtype} {list(tensor.shape)}".encode())
            total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def settings_of(release: Release) -> Values:
    """The trainer's settings as the pods of a release get them."""
    text = next(found["data"]["config.yaml"] for found in release.objects if found["kind"] == "ConfigMap")
    return yaml.safe_load(text)


def desk_weights(trial: Trial, num_processes: int) -> str:
    """Digest of the same training by torchrun here, undisturbed."""
    settings = {key: value for key, value in settings_of(trial.release).items() if key not in ("run", "s3")}
    return _train_here(yaml.safe_dump(settings), num_processes)


@cache
def _train_here(config: str, num_processes: int) -> str:
    with TemporaryDirectory(prefix="e2e-desk-") as folder:
        path = Path(folder, "config.yaml")
        path.write_text(config)
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
        command = [*torchrun, "-m", "trainer.train", "--config", str(path), "--run_name", "desk"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("TRAINER__", "PET_"))}
        done = subprocess.run(
            [sys.executable, *command, "--store", f"file://{folder}"], env=environ | {"OMP_NUM_THREADS": "1"},
            cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
        return digest(FileStore(Path(folder)), "desk", yaml.safe_load(config)["max_steps"])
