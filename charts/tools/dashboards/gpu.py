"""Dashboard "GPU": what DCGM says of the GPUs of training runs, joined with the runs by pod."""

from charts.tools.dashboards.grafana import (
    GREEN,
    ORANGE,
    RED,
    Dashboard,
    Json,
    Panel,
    Query,
    Row,
    choice,
    first_choices,
    lines,
    table,
    tile,
)
from charts.tools.dashboards.promql import RUNS_OF_JOB, Scope, of_pods

RUNS = Scope('run=~"$run", pod=~"$pod"')
EACH = "run, pod, gpu"
NAME = "{{pod}} GPU {{gpu}}"
NOTHING = "no DCGM series for these pods"
MIB = 1024 * 1024


def dashboard() -> Dashboard:
    """The whole."""
    return Dashboard(
        uid="trainer-gpu",
        title="GPU",
        text="GPUs of training runs: do they work, what do they wait for, are they healthy. DCGM's series belong to a "
        "run by namespace and pod, under either spelling (pod, exported_pod). DCGM names a pod only if it requests the "
        "GPU as a resource (gpu.count in the chart); on GKE its exporter may need the id type device-name.",
        variables=variables(),
        rows=[
            Row("Do the GPUs work?", working()),
            Row("Is their memory used?", memory()),
            Row("What do they wait for?", waiting()),
            Row("Are they healthy?", health()),
        ],
    )


def variables() -> list[Json]:
    """From the widest choice to the narrowest."""
    pods = 'trainer_run_info{namespace=~"$namespace", job=~"$job", run=~"$run"}'
    return [
        *first_choices(),
        choice("run", "Run", f"label_values({RUNS_OF_JOB}, run)", all_value=".+", text="Names of runs (run.name)."),
        choice("pod", "Pod", f"label_values({pods}, pod)", all_value=".*", text="Pods of these runs."),
    ]  # fmt: skip


def of_gpus(name: str) -> str:
    """A series of DCGM for each GPU of the chosen runs."""
    return f"max by ({EACH}) ({of_pods(f'DCGM_FI_{name}', RUNS.of('run_info'))})"


def working() -> list[Panel]:
    """Counts, then activity from the honest measure to the popular one."""
    tensor, kernel, power = map(of_gpus, ("PROF_PIPE_TENSOR_ACTIVE", "DEV_GPU_UTIL", "DEV_POWER_USAGE"))
    share = {"unit": "percentunit", "defaults": {"min": 0, "max": 1}, "no_value": NOTHING, "width": 12}
    train = f"max by (run) ({RUNS.of('phase', phase='train')}) == 1"
    return [
        tile("GPUs of the runs", "As the runs themselves count them.",
             Query(f"sum(max by (namespace, run) ({RUNS.of('gpus')}))"), width=4, no_value="0"),
        tile("GPUs seen by DCGM", "Less than the runs count: a pod without the resource request, or a node without "
             "exporter.",
             Query(f"count({kernel}) or vector(0)"), width=4),
        tile("Idle while training", "GPUs below 5 % of the time in any kernel, in runs that are in the phase train.",
             Query(f"count(({kernel}) < 5 and on (run) ({train})) or vector(0)"), width=4,
             steps=[(None, GREEN), (1, RED)]),
        tile("Tensor cores", "Mean share of time in which they compute. Mixed-precision training reaches 0.3 and more; "
             "near 0 the model runs without them (fp32 without TF32) or the GPU waits.",
             Query(f"avg({tensor})"), width=4, unit="percentunit", no_value=NOTHING,
             steps=[(None, RED), (0.05, ORANGE), (0.2, GREEN)]),
        tile("Power", "Of all GPUs of the runs. Far below the limit of the cards, they wait.",
             Query(f"sum({power})"), width=4, unit="watt", no_value=NOTHING),
        tile("Energy of a sample", "Joules of all GPUs for one training sample.",
             Query(f"sum({power}) / sum({RUNS.rate('samples_total', pass_='train')})"), width=4, unit="joule",
             no_value=NOTHING),
        lines("Tensor cores active", "Share of time in which tensor cores compute: the measure of work done.",
              Query(tensor, NAME), **share),
        lines("Any unit active", "Share of time in which the graphics or compute engine is busy.",
              Query(of_gpus("PROF_GR_ENGINE_ACTIVE"), NAME), **share),
        lines("GPU utilisation", "Share of time in which some kernel ran, however small: 100 % does not mean that the "
              "GPU is used well.",
              Query(kernel, NAME), **share | {"unit": "percent", "defaults": {"min": 0, "max": 100}}),
        lines("GPU memory interface active", "Share of time in which data move to or from device memory. High beside "
              "idle tensor cores: the model is bound by memory, not by arithmetic.",
              Query(of_gpus("PROF_DRAM_ACTIVE"), NAME), **share),
    ]  # fmt: skip


def memory() -> list[Panel]:
    """What is left for a larger batch."""
    used, free = of_gpus("DEV_FB_USED"), of_gpus("DEV_FB_FREE")
    return [
        lines("Framebuffer used", "Of each GPU, by every process on it.", Query(f"{used} * {MIB}", NAME), unit="bytes",
              no_value=NOTHING),
        lines("Framebuffer used of all", "Near 1 the next larger batch fails (exit code 4).",
              Query(f"{used} / ({used} + {free})", NAME), unit="percentunit", defaults={"min": 0, "max": 1},
              steps=[(None, GREEN), (0.9, ORANGE), (0.97, RED)], no_value=NOTHING),
        lines("Seen by torch", "Peak in tensors since the last pass, and held in all, on each pod's first GPU; needs "
              "no DCGM. The difference is the allocator's cache.",
              Query(f"max by (run, pod) ({RUNS.of('cuda_memory_max_allocated_bytes')})", "peak {{pod}}"),
              Query(f"max by (run, pod) ({RUNS.of('cuda_memory_reserved_bytes')})", "held {{pod}}"), unit="bytes",
              no_value="no GPU"),
    ]  # fmt: skip


def waiting() -> list[Panel]:
    """The run's own waits beside the wires."""
    return [
        lines("Waiting for data", "Part of a step's time in which the run waits for its batch. Dips of the tensor "
              "cores that go with it come from the data.",
              Query(RUNS.data_wait_ratio("run"), "{{run}}"), unit="percentunit", defaults={"min": 0, "max": 1},
              steps=[(None, GREEN), (0.1, ORANGE), (0.3, RED)]),
        lines("Time not in steps", "Seconds of a second that go to passes, checkpoints and start-up.",
              Query(RUNS.rate("goodput_seconds_total", "run, kind", kind="~evaluation|checkpoint_stall|startup"),
                    "{{run}} {{kind}}"), unit="percentunit", defaults={"min": 0, "max": 1}),
        lines("PCIe", "Bytes from and to the host.", Query(of_gpus("PROF_PCIE_TX_BYTES"), f"sent {NAME}"),
              Query(of_gpus("PROF_PCIE_RX_BYTES"), f"received {NAME}"), unit="Bps", no_value=NOTHING),
    ]  # fmt: skip


def health() -> list[Panel]:
    """Errors first, then heat."""
    return [
        table("Errors", "The last XID error of each GPU (0 is none; 48, 63, 64, 79, 94, 95 mean that the GPU or its "
              "memory is going: drain the node), and rows of memory that were remapped after uncorrectable errors.",
              {"XID": Query(of_gpus("DEV_XID_ERRORS")),
               "remapped rows": Query(of_gpus("DEV_UNCORRECTABLE_REMAPPED_ROWS"))},
              width=8, unit="none", no_value=NOTHING),
        lines("Temperature", "Of the GPUs; most slow themselves down above 85 to 90 degrees.",
              Query(of_gpus("DEV_GPU_TEMP"), NAME),
              unit="celsius", steps=[(None, GREEN), (85, RED)], no_value=NOTHING),
        lines("Clock", "Of the multiprocessors. One that falls under load is throttled by heat or power.",
              Query(f"{of_gpus('DEV_SM_CLOCK')} * 1e6", NAME), unit="hertz", no_value=NOTHING),
        lines("Power of each GPU", "As DCGM reports it.", Query(of_gpus("DEV_POWER_USAGE"), NAME),
              width=24, unit="watt", no_value=NOTHING),
    ]  # fmt: skip
