"""`trainer prepare`: recordings of any layout, or generated ones, into the packed form; and words as pictures."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from trainer.cli.arguments import JsonOption
from trainer.cli.options import ConfigOption, SetOption, SettingsArguments
from trainer.cli.output import print_json
from trainer.config.signs import SignsSettings
from trainer.errors import SettingsError
from trainer.tasks import registry

PathsArgument = Annotated[
    list[Path],
    typer.Argument(
        help="SOURCE and TARGET; TARGET alone with --synthetic; a packed folder with --show or --check.",
        metavar="PATHS",
    ),
]
SyntheticOption = Annotated[bool, typer.Option("--synthetic", help="Generate recordings instead of reading some.")]
WordsOption = Annotated[int | None, typer.Option(help="Generated words (data.synthetic_words).")]
SignersOption = Annotated[int | None, typer.Option(help="Generated signers (data.synthetic_signers).")]
RepetitionsOption = Annotated[int | None, typer.Option(help="Recordings of a word by a signer.")]
DifficultyOption = Annotated[float | None, typer.Option(help="0: signers hardly differ; 1: they differ a lot.")]
LayoutOption = Annotated[str | None, typer.Option(help="Layout of SOURCE; found out if left out.")]
DtypeOption = Annotated[Literal["float32", "float16"], typer.Option(help="Number format of the packed frames.")]
BadOption = Annotated[Literal["fail", "skip"] | None, typer.Option(help="What to do with bad samples.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a packed TARGET.")]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Verify the packed TARGET and say what is in it: counts, lengths, faults.")
]
ShowOption = Annotated[
    list[str] | None,
    typer.Option(help="Draw this word (its id or name) as stick figures; may be repeated.", metavar="WORD"),
]


def prepare(
    paths: PathsArgument,
    synthetic: SyntheticOption = False,
    words: WordsOption = None,
    signers: SignersOption = None,
    repetitions: RepetitionsOption = None,
    difficulty: DifficultyOption = None,
    layout: LayoutOption = None,
    dtype: DtypeOption = "float32",
    bad_samples: BadOption = None,
    overwrite: OverwriteOption = False,
    show: ShowOption = None,
    check: CheckOption = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Pack recordings into the memory-mapped form that training reads, or generate some."""
    given = {
        "data.synthetic_words": words,
        "data.synthetic_signers": signers,
        "data.synthetic_repetitions": repetitions,
        "data.synthetic_difficulty": difficulty,
        "data.layout": layout,
        "data.bad_samples": bad_samples,
    }
    flags = {name: str(value) for name, value in given.items() if value is not None}
    settings = cast(SignsSettings, SettingsArguments(config, overrides or [], flags).load().settings)
    source, target = _ends(paths, synthetic, bool(show) or check)
    files, summary = [], f"{target} is packed already"
    if source or synthetic:
        summary = _pack(settings, source, target, dtype, overwrite)
    if show:
        files = _draw(settings.task, target, show)
    findings = registry.load(settings.task, "check").check(target) if check else None
    if as_json:
        found = findings.to_json() if findings else None
        print_json({"path": target, "summary": summary, "pictures": files, "check": found})
        return 0
    print(findings.to_text() if findings else summary)
    for file in files:
        print(file)
    return 0


def _ends(paths: list[Path], synthetic: bool, show: bool) -> tuple[Path | None, Path]:
    """Source, if one is needed, and target."""
    if len(paths) == 1 and (synthetic or show):
        return None, paths[0]
    if len(paths) == 2 and not synthetic:
        return paths[0], paths[1]
    raise SettingsError(
        "prepare takes SOURCE and TARGET (`trainer prepare karsl-502 data/signs`), TARGET alone with --synthetic, or a "
        f"packed folder with --show; got {len(paths)} paths{' and --synthetic' if synthetic else ''}"
    )


def _pack(settings: SignsSettings, source: Path | None, target: Path, dtype: str, overwrite: bool) -> str:
    """Pack with a bar on a terminal; one line that says what there is now, and one on stderr for each bad sample."""
    room = registry.load(settings.task, "prepare")
    with _progress() as progress:
        prepared = room.prepare_data(
            settings.data,
            target,
            source=source,
            synthetic=source is None,
            dtype=dtype,
            overwrite=overwrite,
            progress=progress,
        )
    for line in prepared.left_out:
        print(f"left out: {line}", file=sys.stderr)
    summary: str = prepared.summary()
    return summary


def _draw(task: str, folder: Path, words: list[str]) -> list[Path]:
    recordings = registry.load(task, "packed").Recordings.open(folder)
    wanted = [int(word) if word.isdecimal() else word for word in words]
    files: list[Path] = registry.load(task, "prepare").draw(
        recordings, wanted, folder.with_name(f"{folder.name}-pictures")
    )
    return files


@contextmanager
def _progress() -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task("packing", total=None)
        yield lambda done, total: bar.update(job, completed=done, total=total)
