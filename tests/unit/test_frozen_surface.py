"""The surface that users, scripts and charts hold on to: names of settings, commands and options.

A name that is added, renamed or removed changes this file and needs a line in the changelog.
"""

import typer.main

from trainer.cli.app import app
from trainer.cli.options import known_flags
from trainer.config.names import leaves
from trainer.config.sources import TASK_SETTINGS

FLAGS = """
    --accumulation accumulation
    --batch_size batch_size
    --corpus data.corpus
    --data data.path
    --data-dir data.path
    --device device
    --epochs num_epochs
    --lr optim.lr
    --max_steps max_steps
    --max_tokens data.max_tokens
    --model_metadata model.size
    --num_epochs num_epochs
    --pairs data.pairs
    --precision precision.amp
    --resume run.resume
    --resume-with-changes run.resume_with_changes
    --run_name run.name
    --save-dir run.store
    --seed seed
    --selected_signs_from data.selected_signs_from
    --selected_signs_to data.selected_signs_to
    --signers data.signers
    --source_lang data.source_lang
    --store run.store
    --target_lang data.target_lang
    --task task
    --test_files data.test_files
    --test_signers data.split.test_signers
    --train_files data.train_files
    --val_files data.val_files
    --val_signers data.split.val_signers
    --weight_decay optim.weight_decay
"""
"""Short flags of all tasks, and the settings they stand for; commands below that say `SETTINGS` take them all."""

COMMANDS = """
    checkpoints average: --best --json --last --name --set --store RUN
    checkpoints list: --json --set --store RUN
    checkpoints promote: --checkpoint --json --set --store RUN
    checkpoints prune: --json --keep-best --keep-last --no-keep-best --set --store RUN
    checkpoints pull: --checkpoint --json --out --set --store RUN
    checkpoints push: --checkpoint --json --set --store RUN
    checkpoints verify: --json --set --store RUN
    compare: SETTINGS --json --metric --rates --reach --seeds VARIANTS
    config: SETTINGS --changed --json --plan --schema --yaml
    evaluate: SETTINGS --checkpoint --json RUN
    export: SETTINGS --checkpoint --format --json --out RUN
    launch: --no-preflight ARGS
    logs: --context --follow --namespace --tail -f -n JOB
    metrics backfill: --every --json --label --out --set --store -o RUN
    metrics list: --json
    metrics password: USER
    preflight: --config --json --set --store
    prepare: PATHS --bad-samples --check --config --difficulty --dtype --json --layout --overwrite --set --show
    prepare: --repetitions --signers --synthetic --task --to --words
    report: --json --out --set --store RUN
    resume: --context --json --namespace --timeout --wait -n JOB
    status: --context --json --namespace --set --store -n JOB
    stop: --context --json --namespace -n JOB
    submit: SETTINGS --context --cpu --data-volume --dry-run --gpus --image --json --memory --name --namespace --nproc
    submit: --secret --service-account --store-volume --timeout --wait --workers -n
    train: SETTINGS --folds --json
    translate: SETTINGS --checkpoint --in --json --nbest --out --scores --temperature --top-k --top-p RUN
    wait: --context --json --namespace --timeout -n JOB
"""

SIGNS = """
    accumulation
    balance.alpha
    balance.eta
    balance.every
    balance.floor
    balance.kind
    balance.momentum
    balance.weights
    batch_size
    best.metric
    best.mode
    cache
    checkpoint.every
    checkpoint.keep_best
    checkpoint.keep_last
    checkpoint.milestones
    checkpoint.outage_seconds
    checkpoint.spool
    data.augment.affine
    data.augment.axis_scale
    data.augment.crop data.augment.degrees
    data.augment.flip
    data.augment.flip_except
    data.augment.frame_drop
    data.augment.group_drop
    data.augment.mixup
    data.augment.noise
    data.augment.scale
    data.augment.shift
    data.augment.time_warp
    data.bad_budget
    data.bad_samples
    data.balance
    data.dataset_schema.cyclic data.dataset_schema.features
    data.dataset_schema.groups
    data.dataset_schema.preset
    data.derive
    data.digest
    data.layout
    data.normalise
    data.path
    data.sampling.frames
    data.sampling.grid
    data.sampling.jitter
    data.sampling.mode
    data.sampling.pad_probability
    data.selected_signs_from
    data.selected_signs_to
    data.signers
    data.split.by
    data.split.seed
    data.split.test_share
    data.split.test_signers
    data.split.use_given
    data.split.val_share
    data.split.val_signers
    data.synthetic_difficulty
    data.synthetic_repetitions
    data.synthetic_seed
    data.synthetic_signers
    data.synthetic_words
    device
    early_stop.max_grad_norm
    early_stop.max_loss
    early_stop.metric
    early_stop.min_delta
    early_stop.min_lr
    early_stop.mode
    early_stop.patience
    ema.decay
    ema.enabled
    ema.every
    empty_cache
    eval_batch_size
    loss.label_smoothing
    max_steps
    model.attention_dropout
    model.dropout
    model.dropout_bits
    model.final_norm
    model.head_dropout
    model.input_norm
    model.mask_missing
    model.residual
    model.size
    nonfinite.budget
    nonfinite.policy
    num_epochs
    optim.betas
    optim.clip
    optim.eps
    optim.freeze
    optim.groups
    optim.lr
    optim.lr_scaling
    optim.momentum
    optim.name
    optim.nesterov
    optim.no_decay
    optim.reference_batch
    optim.weight_decay
    output.export
    output.report
    passes
    precision.amp
    precision.compile
    precision.init_scale
    precision.tf32
    prefetch
    process_timeout_seconds
    profile.active
    profile.enabled
    profile.operators
    profile.wait
    profile.warmup
    run.deadline_seconds
    run.grace_seconds
    run.init_allow
    run.init_from
    run.max_dead_attempts
    run.name
    run.resume
    run.resume_with_changes
    run.store
    s3.addressing
    s3.ca_bundle
    s3.checksums
    s3.connect_seconds
    s3.encryption
    s3.encryption_required
    s3.endpoint
    s3.kms_key
    s3.parallel
    s3.part_mib
    s3.profile
    s3.read_seconds
    s3.region
    s3.storage_class
    s3.tries
    schedule.curve
    schedule.decay
    schedule.factor
    schedule.floor
    schedule.interval
    schedule.metric
    schedule.name
    schedule.patience
    schedule.stable
    schedule.threshold
    schedule.warmup
    schedule.warmup_from
    schedule.width
    seed
    strategy
    task
    telemetry.log_every
    telemetry.progress
    telemetry.prometheus.auth_file
    telemetry.prometheus.enabled
    telemetry.prometheus.host
    telemetry.prometheus.linger_scrapes
    telemetry.prometheus.linger_seconds
    telemetry.prometheus.port
    telemetry.prometheus.push_job
    telemetry.prometheus.pushgateway
    telemetry.prometheus.tls_cert
    telemetry.prometheus.tls_key
    telemetry.rules
    telemetry.sample_ids
    telemetry.segment_seconds
    telemetry.tensorboard
    telemetry.wandb
    telemetry.wandb_project
    telemetry.warnings
    threads
    watchdog.first_step_seconds
    watchdog.step_seconds
"""

TRANSLATION = """
    data.allow_overlap data.bad_budget data.bad_samples data.batch_by data.corpus data.corpus_seed data.digest
    data.layout data.long_pairs data.max_source_len data.max_target_len data.max_tokens data.pairs data.path data.pool
    data.shuffle_targets data.source_lang data.target_lang data.test_files data.test_share data.train_files
    data.val_files data.val_share
    decode.alpha decode.batch_size decode.beam_size decode.min_len decode.no_repeat_ngram decode.translate_samples
    loss.label_smoothing loss.smoothing_mass
    model.activation model.d_ff model.d_model model.decoder_layers model.dropout model.norm model.num_heads
    model.num_layers model.position model.tie
    tokenizer.digest tokenizer.joint tokenizer.kind tokenizer.min_count tokenizer.normalise tokenizer.path
    tokenizer.target_vocab_size tokenizer.vocab_size
"""
"""Beside those that all tasks have."""

HIERARCHY = """
    data.augment.colour data.augment.crop data.augment.erase data.augment.flip data.augment.noise data.bad_budget
    data.bad_samples data.blocks data.digest data.drop_gaps data.drop_partial data.features data.fill data.group
    data.image_column data.image_size data.layout data.levels data.on_conflict data.order data.path data.split.by
    data.split.seed data.split.test_share data.split.val_share data.subsets data.toy_seed data.tree data.tree_digest
    decode.rule decode.threshold
    loss.class_weights loss.criteria loss.criterion loss.label_smoothing loss.tree_alpha loss.tree_beta
    loss.weigh_passes loss.weights
    mask.all mask.combinations mask.final mask.partial mask.passes mask.when
    mix.alpha mix.cutmix mix.level mix.probability
    model.block_width model.depth model.dropout model.heads model.input_norm model.joint_width model.trunk
    model.validity model.width
"""
"""Beside those that all tasks have."""


def parameters(command):
    """Options with all spellings, arguments in capitals."""
    options = [
        name for one in command.params if one.param_type_name == "option" for name in one.opts + one.secondary_opts
    ]
    return {*options, *(one.name.upper() for one in command.params if one.param_type_name == "argument")}


def commands(command, path=""):
    """Every command by its path, with its parameters."""
    below = getattr(command, "commands", {})
    for name, one in below.items():
        yield from commands(one, f"{path} {name}".strip())
    if not below:
        yield path, parameters(command)


def test_short_flags_are_frozen():
    frozen = dict(line.split() for line in FLAGS.strip().splitlines())
    assert {flag: leaf.name for flag, leaf in known_flags().items()} == frozen


def test_commands_and_their_options_are_frozen():
    settings = {"--config", "--set", *known_flags()}
    frozen: dict[str, set[str]] = {}
    for line in COMMANDS.strip().splitlines():
        path, _, names = line.strip().partition(": ")
        words = set(names.split())
        frozen[path] = frozen.get(path, set()) | words - {"SETTINGS"} | (settings if "SETTINGS" in words else set())
    assert dict(commands(typer.main.get_command(app))) == frozen


def test_names_of_settings_are_frozen():
    common = [name for name in SIGNS.split() if not name.startswith(("data.", "model.", "loss."))]
    extra = {"translation": TRANSLATION, "hierarchy": HIERARCHY}
    frozen = {"signs": SIGNS} | {task: " ".join([*common, own]) for task, own in extra.items()}
    assert set(TASK_SETTINGS) == set(frozen), "every task has its list here"
    for task, names in frozen.items():
        assert set(leaves(TASK_SETTINGS[task])) == set(names.split())
