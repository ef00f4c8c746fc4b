"""The commands by name, and the one place where errors become exit codes.

A TrainerError is one line on stderr a problem and its own code; a wrong command line is 2; anything else is a defect
of ours and keeps its traceback, with 1.
"""

import atexit
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from trainer.cli import checkpoints, cluster, metrics
from trainer.cli.compare import compare
from trainer.cli.config import config
from trainer.cli.launch import PASSED_ON, launch
from trainer.cli.models import evaluate, export
from trainer.cli.options import normalise, what_is_wrong, with_settings
from trainer.cli.output import say_notices
from trainer.cli.preflight import preflight
from trainer.cli.prepare import prepare
from trainer.cli.report import report
from trainer.cli.train import train
from trainer.cli.translate import translate
from trainer.errors import Stopped, TrainerError
from trainer.kube.verdict import begin, leave

USAGE_CODE = 2
INTERRUPTED_CODE = 130
UNWRITTEN_CODE = 120
"""The interpreter's own where output could not be written at the end."""

app = typer.Typer(
    name="trainer",
    help="Train models with exact resume and verified checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command(
    epilog="Examples:\n\n"
    "trainer train --config quick\n\n"
    "trainer train --data FOLDER --selected_signs_to 502 --num_epochs 50\n\n"
    "trainer train --data FOLDER --folds signer --set schedule.name=cosine",
)(with_settings(train))
app.command(
    epilog="Examples:\n\n"
    "trainer config --config karsl --changed\n\n"
    "trainer config --config quick --plan\n\n"
    "trainer config --schema > schema.json",
)(with_settings(config))
app.command(
    epilog="Examples:\n\n"
    "trainer prepare karsl-502 data/signs --dtype float16\n\n"
    "trainer prepare --synthetic data/signs --words 20 --show 1 --show 2",
)(prepare)
app.command(
    epilog="Examples:\n\ntrainer evaluate\n\ntrainer evaluate my-run --checkpoint 5000 --data other/recordings --json",
)(with_settings(evaluate))
app.command(
    epilog="Examples:\n\ntrainer export my-run --format onnx --out model",
)(with_settings(export))
app.command(
    epilog="Examples:\n\ntrainer report\n\ntrainer report my-run --store s3://bucket/runs --out report",
)(report)
app.command(
    epilog="Examples:\n\n"
    "trainer preflight --store s3://bucket/runs\n\n"
    "trainer preflight --store s3://bucket/runs --set s3.endpoint=https://s3.example.org --json",
)(preflight)
app.command(
    epilog="Examples:\n\n"
    "trainer compare optim.name=adam,adamw,sgd --config quick --seeds 3\n\n"
    "trainer compare model.dropout=0.1,0.3 --rates 1e-3 --max_steps 2000 --reach 0.5 --json",
)(with_settings(compare))
app.command(
    epilog="Examples:\n\n"
    "echo 'forty two' | trainer translate\n\n"
    "trainer translate my-run --store s3://bucket/runs --in test.en --out test.de --set decode.beam_size=8",
)(with_settings(translate))
app.command(
    context_settings=PASSED_ON,
    epilog="Examples:\n\n"
    "trainer launch --config /etc/trainer/config.yaml\n\n"
    "PET_NPROC_PER_NODE=2 trainer launch --config quick",
)(launch)
cluster.add_to(app)
app.add_typer(checkpoints.app)
app.add_typer(metrics.app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code."""
    # OpenMP threads that wait by spinning starve each other where cores are shared (a step took five times as long
    # beside one busy neighbour); with few spins they sleep. Read when torch is imported, which is later.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    given = normalise(sys.argv[1:] if arguments is None else arguments)
    begin()
    try:
        try:
            code = app(given, prog_name="trainer", standalone_mode=False)
        finally:
            say_notices()
    except Stopped as stop:
        return _say(str(stop), stop.exit_code, "")
    except TrainerError as error:
        return _say(str(error), error.exit_code)
    except typer.Abort:
        return _say("interrupted", INTERRUPTED_CODE)
    except typer.TyperException as error:
        # without arguments the help is the answer, and was printed
        return _say(what_is_wrong(error), USAGE_CODE)
    except BaseException as error:
        leave(1, f"{type(error).__name__}: {error}")
        raise
    leave(int(code or 0), "complete")
    return int(code or 0)


def run_process(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: `main`, and with it the process."""
    try:
        code = main(arguments)
    except SystemExit as quiet:  # by typer, where nobody reads what is written
        code = quiet.code if isinstance(quiet.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    end_process(code)


def end_process(code: int) -> NoReturn:
    """Leave with this exit code after the handlers of `atexit`, without taking the interpreter down.

    While it goes down, a native thread that asks for its lock aborts the process (CPython 3.11): SIGABRT in place of
    the code. Gloo's threads (torch 2.13) ask when they drop the tensors of the last collective, late on a busy node.
    Nor is there a wait for threads of the SDK, which a silent store holds far beyond the grace period. The price: a
    profiler that writes after its program (`python -m cProfile -m trainer`) has no turn; give it `main`.
    """
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            code = code or UNWRITTEN_CODE
    os._exit(code)


def _say(text: str, code: int, prefix: str = "error: ") -> int:
    for line in text.splitlines():
        print(f"{prefix}{line}", file=sys.stderr)
    leave(code, text)
    return code
