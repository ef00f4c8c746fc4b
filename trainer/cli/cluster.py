"""`trainer submit`, `status`, `logs`, `wait`, `stop`, `resume`: a training on a cluster, from the desk."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.arguments import JsonOption, StoreOption
from trainer.cli.options import SetOption, SettingsArguments, about_store, with_settings
from trainer.cli.output import print_json
from trainer.errors import SettingsError

if TYPE_CHECKING:
    from trainer.kube.cluster import Cluster

_PANEL = "Cluster"

JobArgument = Annotated[str, typer.Argument(help="Name of a job; or of its run or release, for the newest of it.")]
JobOrAll = Annotated[str | None, typer.Argument(help="As above; left out: all jobs of the namespace.", metavar="JOB")]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Default: that of the kubeconfig's context.", rich_help_panel=_PANEL),
]
ContextOption = Annotated[
    str | None, typer.Option(help="Context of the kubeconfig; default the current one.", rich_help_panel=_PANEL)
]
TimeoutOption = Annotated[float | None, typer.Option(help="Longest wait in seconds; default no limit.", min=0)]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for its end, as `trainer wait` does.")]
NameOption = Annotated[
    str | None, typer.Option(help="Name of the job; default the run's with a hash of all that makes up its pods.")
]
ImageOption = Annotated[str | None, typer.Option(help="Image of the trainer, where your cluster finds it.")]
WorkersOption = Annotated[int, typer.Option(help="Pods beside the first.", min=0)]
NprocOption = Annotated[int | None, typer.Option(help="Processes of a pod; default one for each GPU, or one.", min=1)]
GpusOption = Annotated[int, typer.Option(help="GPUs of a pod.", min=0)]
CpuOption = Annotated[str | None, typer.Option(help="CPUs that a pod asks for, e.g. `4` or `500m`.")]
MemoryOption = Annotated[str | None, typer.Option(help="Memory of a pod, e.g. `8Gi`.")]
SecretOption = Annotated[
    str | None, typer.Option(help="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for a store in S3.")
]
AccountOption = Annotated[str | None, typer.Option(help="Service account of the pods, for workload identity.")]
StoreVolumeOption = Annotated[
    str | None, typer.Option(help="Claim for a store that is no bucket; default one is made for the run.")
]
DataVolumeOption = Annotated[str | None, typer.Option(help="Claim with the data, mounted at /data.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the objects as YAML and make nothing.")]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over, across restarts.")]
TailOption = Annotated[int | None, typer.Option(help="Only the last lines of each pod.", min=0)]


def submit(
    given: SettingsArguments,
    name: NameOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    image: ImageOption = None,
    workers: WorkersOption = 0,
    nproc: NprocOption = None,
    gpus: GpusOption = 0,
    cpu: CpuOption = None,
    memory: MemoryOption = None,
    secret: SecretOption = None,
    service_account: AccountOption = None,
    store_volume: StoreVolumeOption = None,
    data_volume: DataVolumeOption = None,
    dry_run: DryRunOption = False,
    wait_for_end: WaitOption = False,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Start a training on the cluster with these settings."""
    from trainer.kube.job import Wishes, as_yaml, plan

    _check_timeout(timeout, wait_for_end)
    wishes = Wishes(
        name=name,
        image=image,
        workers=workers,
        nproc=nproc,
        gpus=gpus,
        cpu=cpu,
        memory=memory,
        secret=secret,
        service_account=service_account,
        store_claim=store_volume,
        data_claim=data_volume,
    )
    planned = plan(given.load(), wishes)
    for line in planned.notes:
        _note(line)
    if dry_run:
        print(as_yaml(planned, namespace), end="")
        return 0

    from trainer.kube.cluster import connect
    from trainer.kube.control import create

    cluster = connect(context, namespace)
    made = create(cluster, planned)
    if as_json and not wait_for_end:
        print_json({"job": planned.job, "namespace": cluster.namespace, "run": planned.run, "made": made})
    else:
        _note(f"made {', '.join(made)} in namespace {cluster.namespace}")
        _note(f"run {planned.run} in {planned.store}; `trainer logs -f {planned.job}`, `trainer status {planned.job}`")
    return _wait(cluster, planned.job, timeout, as_json) if wait_for_end else 0


def status(
    job: JobOrAll = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    store: StoreOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """How a job stands: conditions, pods, restarts with reasons, progress and metrics, time left."""
    from trainer.cli.cluster_text import show_jobs, show_status
    from trainer.kube.cluster import connect
    from trainer.kube.progress import read_progress
    from trainer.kube.status import OURS, find_job, read_status, summed_up

    about_store(store, overrides)
    at_desk = [*(overrides or []), *([f"run.store={store}"] if store else [])]
    cluster = connect(context, namespace)
    if job is None:
        found = cluster.jobs(OURS)
        if as_json:
            print_json([asdict(summed_up(one)) for one in found])
        else:
            show_jobs(found, cluster.namespace)
        return 0
    one = find_job(cluster, job)
    now = read_status(cluster, one)
    progress = read_progress(cluster, one, at_desk)
    if as_json:
        print_json({**asdict(now), "code": now.code, "progress": asdict(progress)})
    else:
        show_status(now, progress)
    return 0


def logs(
    job: JobArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    follow: FollowOption = False,
    tail: TailOption = None,
) -> int:
    """The logs of all pods of a job, each line with the pod it is from."""
    from trainer.kube.cluster import connect
    from trainer.kube.logs import print_logs
    from trainer.kube.status import find_job

    cluster = connect(context, namespace)
    name = find_job(cluster, job)["metadata"]["name"]
    if not print_logs(cluster, name, follow=follow, tail=tail, write=_print_line):
        _note(f"no pod of {name} has a log (yet); `trainer status {name}` says why")
    return 0


def wait(
    job: JobArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Wait until a job is over and end with its exit code: 0, or that of the pod that failed it."""
    from trainer.kube.cluster import connect
    from trainer.kube.status import find_job

    cluster = connect(context, namespace)
    return _wait(cluster, find_job(cluster, job)["metadata"]["name"], timeout, as_json)


def stop(
    job: JobArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> int:
    """Stop a job: its pods publish a checkpoint and go; `trainer resume` goes on from there."""
    from trainer.kube.cluster import connect
    from trainer.kube.control import stop as stop_job
    from trainer.kube.status import find_job

    cluster = connect(context, namespace)
    stopped = stop_job(cluster, find_job(cluster, job), _note)
    if as_json:
        print_json(asdict(stopped))
    else:
        print(stopped.text)
    return stopped.exit_code


def resume(
    job: JobArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    wait_for_end: WaitOption = False,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Go on with a job that was stopped or has failed; its run continues from the last checkpoint."""
    from trainer.kube.cluster import connect
    from trainer.kube.control import resume as resume_job
    from trainer.kube.status import find_job

    _check_timeout(timeout, wait_for_end)
    cluster = connect(context, namespace)
    found = find_job(cluster, job)
    name = found["metadata"]["name"]
    text = resume_job(cluster, found, _note)
    if as_json and not wait_for_end:
        print_json({"job": name, "namespace": cluster.namespace, "done": text})
    else:
        _note(text)
    return _wait(cluster, name, timeout, as_json) if wait_for_end else 0


def add_to(app: typer.Typer) -> None:
    """Register the commands, each with its examples."""
    app.command(
        epilog="Examples:\n\n"
        "trainer submit --config quick --image registry.example.org/signs-trainer:1 --wait\n\n"
        "trainer submit --config quick --store s3://bucket/runs --secret s3-keys --workers 2 --gpus 1 --memory 16Gi\n\n"
        "trainer submit --config quick --dry-run | kubectl apply -f -",
    )(with_settings(submit))
    for command, examples in (
        (status, "trainer status\n\ntrainer status my-run --set s3.endpoint=http://127.0.0.1:9000 --json"),
        (logs, "trainer logs my-run --follow"),
        (wait, "trainer wait my-run --timeout 3600"),
        (stop, "trainer stop my-run"),
        (resume, "trainer resume my-run --wait"),
    ):
        app.command(epilog=f"Examples:\n\n{examples}")(command)


def _wait(cluster: "Cluster", name: str, timeout: float | None, as_json: bool) -> int:
    """Until the job is over; its end in words and its exit code."""
    from trainer.cli.cluster_text import end_text
    from trainer.kube.control import wait as wait_for

    now = wait_for(cluster, name, timeout, _note)
    if as_json:
        print_json({**asdict(now), "code": now.code})
    else:
        print(end_text(now))
    return now.code or 0


def _check_timeout(timeout: float | None, wait_for_end: bool) -> None:
    if timeout is not None and not wait_for_end:
        raise SettingsError("--timeout has no effect without --wait")


def _note(text: str) -> None:
    """What a person wants to know meanwhile; results go to stdout."""
    print(text, file=sys.stderr, flush=True)


def _print_line(line: str) -> None:
    print(line, flush=True)
