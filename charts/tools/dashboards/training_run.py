"""Dashboard "Training run": one run, from "is it alive?" to "what are its pods doing?"."""

from charts.tools.dashboards.codes import PHASES, STATES, TIMES
from charts.tools.dashboards.grafana import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Dashboard,
    Json,
    Panel,
    Query,
    Row,
    annotation,
    bars,
    choice,
    dial,
    filled,
    first_choices,
    fixed,
    lines,
    mapping,
    override,
    stacked,
    table,
    tile,
    timeline,
)
from charts.tools.dashboards.promql import POD, RUNS_OF_JOB, Scope

RUN = Scope('run="$run"')
GONE = "not running"


def dashboard() -> Dashboard:
    """The whole."""
    return Dashboard(
        uid="trainer-run",
        title="Training run",
        text="One training run over all its attempts: is it alive, does it learn, where does the time go, what would a "
        "kill cost now, what do its pods do.",
        variables=variables(),
        annotations=annotations(),
        rows=[
            Row("Is it alive?", alive()),
            Row("Does it learn?", learning()),
            Row("How do the terms of its loss weigh?", terms()),
            Row("Where does the time go?", time()),
            Row("What would a kill cost now?", checkpoints()),
            Row("What do its pods do?", pods()),
        ],
    )


def variables() -> list[Json]:
    """From the widest choice to the narrowest."""
    one = RUN.of("run_info")
    return [
        *first_choices("Of the pods. All: also series without a namespace, from outside of a cluster."),
        choice("run", "Run", f"label_values({RUNS_OF_JOB}, run)", text="Name of the run (run.name)."),
        choice("job_name", "PyTorchJob", f"label_values({one}, job_name)", all_value="",
               text="Jobs that the run has had; its pods are found by them."),
    ]  # fmt: skip


def annotations() -> list[Json]:
    """What happened, as marks on all curves."""
    began = RUN.lead("start_timestamp_seconds", "run")
    published = RUN.now("last_checkpoint_success_timestamp_seconds")
    return [
        annotation("Attempt began", f"{began} * 1000", "blue", "start or restart of {{run}}", value_is_time=True),
        annotation("Attempt ended", f"{RUN.now('exit_code')} + 1 > 0", "purple", "{{run}}: how, says the tile State"),
        annotation("Epoch done", f"{RUN.increase('epochs_completed_total', range_='$__interval')} > 0", "#8e8e8e",
                   "{{run}}"),
        annotation("Checkpoint published", f"{published} * 1000", "green", "{{run}}", value_is_time=True),
        annotation("Alert", 'max by (alertname) (ALERTS{alertstate="firing", run="$run"})', "red", "{{alertname}}"),
    ]  # fmt: skip


def alive() -> list[Panel]:
    """Tiles of the present, and what the run did over time."""
    words = {"defaults": {"mappings": mapping(STATES)}}
    return [
        tile("State", "How the newest attempt stands. *Lost without a word*: it was killed (out of memory, node lost), "
             "or its last values were not scraped. An operator restarts what ended with 128 or more.",
             Query(RUN.state()), width=4, **words),
        tile("Last step", "Time since a step or an evaluation batch ended. It grows while a checkpoint is written and "
             "report or export are made; minutes in the phase *train* mean a hang: look at the pod's log, the watchdog "
             "writes all stacks there.",
             Query(f"time() - {RUN.now('last_step_timestamp_seconds')}"), unit="s", no_value=GONE,
             steps=[(None, GREEN), (120, ORANGE), (600, RED)]),
        dial("Progress", "Part of the run's length that is done.", Query(RUN.last("progress_ratio")),
             steps=[(None, BLUE)]),
        tile("Time left", "At the pace of the newest attempt so far.", Query(RUN.now("eta_seconds")), unit="s",
             no_value=GONE),
        tile("Epochs", "Done, and of the whole run.", Query(RUN.last("epoch"), "done"),
             Query(RUN.last("epochs_target"), "in all"), width=4, options={"textMode": "value_and_name"}),
        tile("Attempts", "Lives of the run so far. Every restart is one: evictions, lost nodes, kills, upgrades.",
             Query(RUN.last("attempts")), width=2, steps=[(None, GREEN), (2, BLUE), (5, ORANGE), (10, RED)]),
        tile("Pods", "Pods (processes outside of a cluster) that answer scrapes now.",
             Query(f"count by (run) ({RUN.now('build_info', POD)})"), width=2, no_value="0"),
        tile("Not finite", "Losses and gradients that were NaN or infinite. The ledger names their samples; "
             "`nonfinite.policy` says what the run does about them.",
             Query(RUN.counted("nonfinite_total")), steps=[(None, GREEN), (1, RED)]),
        timeline("What it did", "Phases of the run's first process. A gap: no pod answered. Seconds between two "
                 "scrapes are not seen here; the row on time counts all of them.",
                 Query(RUN.lead("phase", "phase"), "{{phase}}"), unit="none", height=8, width=14,
                 overrides=[override(name, thresholds=filled(color)) for name, color in PHASES.items()]),
        table("Who it is", "What each attempt trained, where and by which version.",
              {"_run": Query(_identity())}, width=10, height=8, hide=["run"], unit="none"),
    ]  # fmt: skip


def _identity() -> str:
    labels = "run, attempt, task, model, dataset, world_size, precision, device"
    versions = "version, git_sha, torch, cuda"
    run, build = (RUN.of(name) for name in ("run_info", "build_info"))
    joined = f"last_over_time({run}[$__range]) * on ({POD}) group_left ({versions}) last_over_time({build}[$__range])"
    return f"max by ({labels}, {versions}) ({joined})"


def learning() -> list[Panel]:
    """Curves of the loss and of the task's metrics, and what moves them."""
    return [
        lines("Loss", "Training: mean since the last log point. Passes: their newest value. Validation that rises "
              "while training falls is overfitting; both flat from the start is a learning rate that is off.",
              Query(RUN.now("loss", "pass"), "{{pass}}"), Query(RUN.now("epoch_loss"), "train, whole epoch"), width=12,
              height=9, no_value="no loss yet"),
        lines("Metrics of the task", "All that the task declares but the loss, by pass (`val`, `test`). Training's "
              "own are means since the last log point, with dropout and augmentation on.",
              Query(RUN.now("metric", "pass, name", name_="!loss"), "{{pass}} {{name}}"),
              Query(RUN.now("epoch_metric", "name"), "train {{name}}, whole epoch"), width=12, height=9,
              no_value="no metrics yet"),
        tile("Best so far", "Of the metric that chooses the best checkpoint (`best.metric`).",
             Query(RUN.last("best_metric", "pass, name"), "{{pass}} {{name}}"), width=6, height=7,
             options={"textMode": "value_and_name"}),
        lines("Learning rate", "Of the last step: schedule and warm-up.", Query(RUN.now("learning_rate"), "rate"),
              width=6, height=7, unit="sci"),
        lines("Gradient norm", "Before clipping. Spikes go with bad batches; a steady rise comes before divergence. "
              "Clipped: part of the steps that were cut to `optim.clip` (right axis).",
              Query(RUN.now("grad_norm"), "norm"), Query(RUN.now("clipped_ratio"), "clipped"), width=6, height=7,
              overrides=[override("clipped", unit="percentunit", max=1, min=0, custom__axisPlacement="right")]),
        lines("Loss scale", "Of fp16 training; it halves at an overflow. Falling without end means gradients that are "
              "not finite. bf16 and fp32 have none.",
              Query(RUN.now("loss_scale"), "scale"), width=6, height=7, no_value="no fp16 loss scaler"),
        bars("Warning signs", "What the run noticed about itself in this time range; the report explains each with a "
             "likely cause.",
             Query(f"{RUN.counted('warnings_total', 'name, severity')} > 0", "{{severity}}: {{name}}"), height=7,
             no_value="none", steps=[(None, ORANGE)]),
        lines("Left out and not finite", "Steps without an update (loss scaler, policy *skip*) and values that were "
              "NaN or infinite.",
              Query(RUN.increase("skipped_steps_total"), "steps left out"),
              Query(RUN.increase("nonfinite_total"), "not finite"), height=7),
        table("Results", "Of the last passes, with the best weights, once the training is over.",
              {"value": Query(RUN.last("result", "pass, name"))}, width=8, height=7, unit="short",
              no_value="not over yet"),
    ]  # fmt: skip


def terms() -> list[Panel]:
    """What the terms of a loss with several come to, how they are weighed, and how they pull at what they share."""
    one = "the loss has one term"
    return [
        lines("Loss of each term", "Of training, before it is weighed: mean since the last log point.",
              Query(RUN.now("term_loss", "term"), "{{term}}"), height=6, no_value=one),
        lines("Weight of each term", "What it is multiplied by, where `balance.kind` weighs the terms. A weight at "
              "`balance.floor` is of a term that is solved, or whose loss has by far the largest scale.",
              Query(RUN.now("term_weight", "term"), "{{term}}"), height=6, no_value="not balanced"),
        lines("Gradient norm of each term", "At the parameters that all terms share: running mean of what `gradnorm` "
              "measured. Times the weight it is how strongly a term pulls there.",
              Query(RUN.now("term_grad_norm", "term"), "{{term}}"), height=6, no_value="not measured"),
    ]  # fmt: skip


def time() -> list[Panel]:
    """The account of the wall clock, and what its parts are made of."""
    kinds = [override(kind, color=fixed(color)) for kind, color in TIMES.items()]
    return [
        dial("Goodput", "Productive part of the wall clock since the first start of the run: all attempts and the time "
             "between them.", Query(RUN.goodput("run")), width=5, height=8,
             steps=[(None, RED), (0.5, ORANGE), (0.8, GREEN)]),
        bars("Wall clock of the run", "Seconds since the first start by kind. *redone*: steps trained again after a "
             "kill; *idle*: time between attempts and whatever nobody accounts for.",
             Query(RUN.last("goodput_seconds_total", "kind"), "{{kind}}"), width=7, unit="s", overrides=kinds),
        stacked(lines("Where each second goes", "Shares of the kinds of time.",
                      Query(RUN.rate("goodput_seconds_total", "kind"), "{{kind}}"), width=12, unit="percentunit",
                      overrides=kinds), "percent"),
        lines("Throughput", "Samples a second through the model, over all processes; passes count while they last.",
              Query(RUN.rate("samples_total", "pass"), "{{pass}}"), unit="ops"),
        lines("Step time", "One optimizer update without waiting for data: mean, median and 95th percentile of the log "
              "points' means. A p95 far from the median is a straggler, a noisy neighbour or a checkpoint on a slow "
              "disk.",
              Query(RUN.quantile(0.95, "step_duration_seconds"), "p95"),
              Query(RUN.mean("step_duration_seconds"), "mean"),
              Query(RUN.quantile(0.5, "step_duration_seconds"), "median"), unit="s"),
        lines("Waiting for data", "Part of a step's time that it waits for its batch. Above a third the run is bound "
              "by its data: pack them (`trainer prepare`), raise `prefetch`, give the pod more CPU.",
              Query(RUN.data_wait_ratio(), "waiting"), unit="percentunit",
              steps=[(None, GREEN), (0.1, ORANGE), (0.3, RED)], defaults={"min": 0, "max": 1}),
        lines("Epochs and passes", "Mean duration.", Query(RUN.mean("epoch_duration_seconds"), "epoch"),
              Query(RUN.mean("pass_duration_seconds", "pass"), "{{pass}}"), unit="s"),
        lines("Memory of the processes", "Resident memory of each pod's first process. A steady climb ends at the "
              "pod's memory limit.",
              Query(RUN.now("host_memory_resident_bytes", "pod, instance"), "{{pod}} {{instance}}"), unit="bytes"),
        lines("GPU memory", "Of each pod's first GPU: peak in tensors since the last pass, and what torch holds. Only "
              "the first counts when you raise the batch size. None on a CPU.",
              Query(RUN.now("cuda_memory_max_allocated_bytes", "pod, instance"), "peak {{pod}}"),
              Query(RUN.now("cuda_memory_reserved_bytes", "pod, instance"), "held {{pod}}"), unit="bytes",
              no_value="no GPU"),
        bars("Bad samples", "Left out (*skipped*), known gaps of a public data set (*tolerated*), and what ended the "
             "run (*fatal*). The ledger names file and index.",
             Query(f"{RUN.last('data_errors_total', 'kind')} > 0", "{{kind}}"), width=24, height=4, no_value="none",
             steps=[(None, ORANGE)]),
    ]  # fmt: skip


def checkpoints() -> list[Panel]:
    """Age and safety of the newest checkpoint, and the way to the store."""
    age = f"time() - {RUN.now('last_checkpoint_success_timestamp_seconds')}"
    needed, available = RUN.last("grace_needed_seconds"), RUN.last("grace_available_seconds")
    return [
        tile("Newest durable checkpoint", "Its age: the work that a kill would cost now.", Query(age), width=4,
             unit="s", no_value=GONE, steps=[(None, GREEN), (1800, ORANGE), (7200, RED)]),
        tile("Between checkpoints", "Mean of the newest attempt; 0 before its second one.",
             Query(RUN.last("checkpoint_interval_seconds")), width=4, unit="s"),
        tile("Grace used", "Time that a stop needs (step, copy, upload: the slowest of the last 20) over the time it "
             "gets. Above 1 a stop would be killed in its checkpoint: raise terminationGracePeriodSeconds.",
             Query(f"{needed} / ({available} > 0)"), width=4, unit="percentunit", no_value="no grace period",
             steps=[(None, GREEN), (0.7, ORANGE), (1, RED)]),
        tile("Store away", "How long the store has refused checkpoints. Meanwhile they wait in the spool on the node.",
             Query(RUN.now("store_outage_seconds")), width=4, unit="s", no_value=GONE,
             steps=[(None, GREEN), (1, ORANGE), (600, RED)]),
        tile("Steps done again", "Trained before and again after a restart or rollback; fewer with more checkpoints.",
             Query(RUN.last("redone_steps_total")), width=4, steps=[(None, GREEN), (1, BLUE)]),
        tile("Size", "Of the last checkpoint.", Query(RUN.last("checkpoint_size_bytes")), width=4, unit="bytes"),
        lines("Publishing", "Tries that ended well or not. Errors with no success between: look at the store.",
              Query(RUN.increase("checkpoint_uploads_total", "result"), "{{result}}"),
              overrides=[override("error", color=fixed(RED)), override("ok", color=fixed(GREEN))]),
        lines("Time of a checkpoint", "*stall*: training stands still for the copy; *durable*: from the copy until it "
              "is whole in the store, beside the training.",
              Query(RUN.quantile(0.95, "checkpoint_stall_seconds"), "stall p95"),
              Query(RUN.quantile(0.95, "checkpoint_upload_duration_seconds"), "durable p95"), unit="s"),
        lines("Bytes to the store", "Of published checkpoints.",
              Query(RUN.rate("checkpoint_upload_bytes_total"), "bytes"), unit="Bps"),
        lines("Requests to S3", "By operation and result, retries included. None with a store on a volume.",
              Query(f"{RUN.rate('s3_requests_total', 'op, result')} > 0", "{{op}} {{result}}"), width=12, unit="reqps",
              no_value="no S3 store"),
        bars("Stepped over and replaced", "Checkpoints that failed verification (the run went on from an older one: "
             "look at the store's disk), and those that gave way to a newer one before they were published (publishing "
             "is slower than `checkpoint.every`).",
             Query(f"{RUN.counted('checkpoint_rejected_total', 'reason')} > 0", "stepped over: {{reason}}"),
             Query(f"{RUN.counted('checkpoints_replaced_total')} > 0", "replaced"), width=12, no_value="none",
             steps=[(None, ORANGE)]),
    ]  # fmt: skip


def pods() -> list[Panel]:
    """What Kubernetes says of the pods, also of those that never came up."""
    ours = 'namespace=~"$namespace", pod=~"($job_name)-(master|worker)-[0-9]+"'
    main = f'{ours}, container="pytorch"'
    used = f"max by (pod) (container_memory_working_set_bytes{{{main}}})"
    limit = f'max by (pod) (kube_pod_container_resource_limits{{{main}, resource="memory"}})'
    killed, source = "kube_pod_container_status_last_terminated_reason", "Needs kube-state-metrics."
    return [
        timeline("Phases of the pods", "*Pending* for long: too few resources, or a claim that does not bind. "
                 f"{source}",
                 Query(f"max by (pod, phase) (kube_pod_status_phase{{{ours}}}) == 1", "{{pod}} {{phase}}"),
                 unit="none", width=12, no_value="no kube-state-metrics"),
        lines("Restarts of containers", f"In place, by the kubelet. {source}",
              Query(f"sum by (pod) (increase(kube_pod_container_status_restarts_total{{{main}}}[$__rate_interval]))",
                    "{{pod}}"), width=6, height=7, no_value="no kube-state-metrics"),
        table("Last ends", f"Why the container ended the last time: *OOMKilled* asks for more memory. {source}",
              {"_end": Query(f"max by (pod, reason) (last_over_time({killed}{{{main}}}[$__range])) == 1")},
              width=6, height=7, unit="none", no_value="none"),
        lines("CPU", "Cores in use. Training that waits for data and sits at the request wants more. Needs cAdvisor.",
              Query(f"sum by (pod) (rate(container_cpu_usage_seconds_total{{{main}}}[$__rate_interval]))", "{{pod}}"),
              width=12, unit="short", no_value="no cAdvisor"),
        lines("Memory of the limit", "Working set of the container; at 100 % the kernel kills it. Needs cAdvisor and "
              "kube-state-metrics.",
              Query(f"{used} / {limit}", "{{pod}}"), width=12, unit="percentunit",
              steps=[(None, GREEN), (0.8, ORANGE), (0.95, RED)], defaults={"min": 0}, no_value="no cAdvisor"),
    ]  # fmt: skip
