"""`trainer prepare`: data of any layout, or generated ones, into the form that training reads; and a look at them."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from trainer.cli.arguments import JsonOption
from trainer.cli.options import ConfigOption, SetOption, SettingsArguments
from trainer.cli.output import print_json
from trainer.cli.packing import PreparedSettings, packed, read_order
from trainer.tasks import registry

PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="SOURCE and TARGET; TARGET alone with --synthetic; SOURCE alone, or nothing with --synthetic, where --to "
        "says whither; a packed folder or its URL with --show or --check.",
        metavar="PATHS",
    ),
]
SyntheticOption = Annotated[bool, typer.Option("--synthetic", help="Generate data instead of reading some.")]
WordsOption = Annotated[int | None, typer.Option(help="Generated words (data.synthetic_words).")]
SignersOption = Annotated[int | None, typer.Option(help="Generated signers (data.synthetic_signers).")]
RepetitionsOption = Annotated[int | None, typer.Option(help="Recordings of a word by a signer.")]
DifficultyOption = Annotated[float | None, typer.Option(help="0: signers hardly differ; 1: they differ a lot.")]
LayoutOption = Annotated[str | None, typer.Option(help="Layout of SOURCE; found out if left out.")]
DtypeOption = Annotated[Literal["float32", "float16"], typer.Option(help="Number format of the packed frames.")]
BadOption = Annotated[Literal["fail", "skip"] | None, typer.Option(help="What to do with bad samples.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace packed data at TARGET and --to.")]
ToOption = Annotated[
    str | None,
    typer.Option(
        "--to", help="Put the packed data there: `s3://bucket/folder`, then train with --data URL.", metavar="URL"
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Verify the packed TARGET and say what is in it: counts, lengths, faults.")
]
ShowOption = Annotated[
    list[str] | None,
    typer.Option(
        help="signs: draw this word (its id or name) as stick figures; may be repeated. translation: print so many "
        "pairs as text, tokens and ids; hierarchy: so many rows.",
        metavar="WORD|N",
    ),
]

TaskOption = Annotated[str | None, typer.Option("--task", help="Whose data they are [default: signs].")]


def prepare(
    paths: PathsArgument = None,
    synthetic: SyntheticOption = False,
    words: WordsOption = None,
    signers: SignersOption = None,
    repetitions: RepetitionsOption = None,
    difficulty: DifficultyOption = None,
    layout: LayoutOption = None,
    dtype: DtypeOption = "float32",
    bad_samples: BadOption = None,
    to: ToOption = None,
    overwrite: OverwriteOption = False,
    show: ShowOption = None,
    check: CheckOption = False,
    task: TaskOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Bring data into the form that training reads (recordings: memory-mapped arrays), or generate some."""
    given = {
        "data.synthetic_words": words,
        "data.synthetic_signers": signers,
        "data.synthetic_repetitions": repetitions,
        "data.synthetic_difficulty": difficulty,
        "data.layout": layout,
        "data.bad_samples": bad_samples,
        "task": task,
    }
    flags = {name: str(value) for name, value in given.items() if value is not None}
    settings = cast(PreparedSettings, SettingsArguments(config, overrides or [], flags).load().settings)
    order = read_order(
        paths or [], settings, synthetic=synthetic, looks=bool(show) or check, to=to, dtype=dtype, overwrite=overwrite
    )
    with packed(order, verify=check) as (folder, summary):
        room = registry.load(settings.task, "prepare")
        found = room.shown(settings, folder, show, _beside(folder, order.place)) if show else []
        findings = registry.load(settings.task, "check").check(folder) if check else None
    if as_json:
        checked = findings.to_json() if findings else None
        print_json({"path": order.place, "summary": summary, room.SHOWN: found, "check": checked})
        return 0
    if text := findings.to_text() if findings else summary:
        print(text)
    for text in found:
        print(text)
    return 0


def _beside(folder: Path | None, place: str) -> Path:
    """Where pictures go: beside a folder; those of data in a store into the working directory."""
    name = f"{place.rstrip('/').rpartition('/')[2]}-pictures"
    return Path(name) if folder is None or place.startswith("s3:") else folder.with_name(name)
