"""`trainer translate`: lines in, lines out, with any published checkpoint of any store.

A line of text gives a line of text, whatever it holds; an empty one stays empty. The tokenizers come out of the
checkpoint, so the corpus that the run was trained on need not be there.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli.arguments import JsonOption, RunArgument, WhichOption
from trainer.cli.options import SettingsArguments
from trainer.cli.output import print_json
from trainer.errors import DataError, SettingsError

if TYPE_CHECKING:
    from trainer.tasks.translation.translate import Translation, Translator

BLOCK_LINES = 512
"""Lines read before any is translated: sentences of like length go through the model together."""
STDIN = "-"

InOption = Annotated[
    list[str] | None, typer.Option("--in", help="A file of lines; may be repeated. Left out, or `-`: stdin.")
]
OutOption = Annotated[Path | None, typer.Option(help="File to write to; left out: stdout.")]
NbestOption = Annotated[
    int, typer.Option(help="So many translations a line, best first, as `line ||| text ||| score`.", min=1)
]
ScoresOption = Annotated[bool, typer.Option("--scores", help="The score and a tab before each line.")]
TemperatureOption = Annotated[
    float | None, typer.Option(help="Draw words instead of searching, for exploring: 1 is the model's own.", min=0.01)
]
TopKOption = Annotated[int, typer.Option(help="Draw among so many of the likeliest words only; 0: all.", min=0)]
TopPOption = Annotated[float, typer.Option(help="Draw among the likeliest words of this mass only.", min=0.01, max=1)]


def translate(
    given: SettingsArguments,
    run: RunArgument = None,
    which: WhichOption = "best",
    sources: InOption = None,
    out: OutOption = None,
    nbest: NbestOption = 1,
    scores: ScoresOption = False,
    temperature: TemperatureOption = None,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    as_json: JsonOption = False,
) -> int:
    """Translate lines of text with a checkpoint; --set decode.beam_size and its like say how."""
    is_drawn = temperature is not None or top_k > 0 or top_p < 1
    if is_drawn and nbest > 1:
        raise SettingsError("--nbest belongs to the search; leave it out with --temperature, --top-k and --top-p")
    translator, seed = _open(given, run, which, nbest)
    choose = _sampler(translator, seed, temperature or 1.0, top_k, top_p) if is_drawn else None
    with ExitStack() as stack:
        target = stack.enter_context(out.open("w", encoding="utf-8", newline="\n")) if out else sys.stdout
        first = 0
        for block in _blocks(sources or [STDIN]):
            found = translator.translate(block, num_best=nbest, choose=choose)
            for number, (text, one) in enumerate(zip(block, found, strict=True), start=first):
                _write(target, number, text, one, nbest, scores, as_json)
            target.flush()
            first += len(block)
    if translator.num_truncated:
        limit = "data.max_source_len"
        print(f"note: {translator.num_truncated} of {first} lines were cut at {limit}", file=sys.stderr)
    return 0


def _open(given: SettingsArguments, run: str | None, which: str, nbest: int) -> "tuple[Translator, int]":
    """The model of a checkpoint with its tokenizers, on the device of the settings; and their seed."""
    from trainer.cli.runs import find_run
    from trainer.cli.saved import open_weights
    from trainer.config.translation import TranslationSettings
    from trainer.engine.world import choose_device, set_threads
    from trainer.tasks.translation.load import load_translator

    saved = open_weights(find_run(run or given.flags.get("--run_name"), given), which, given)
    settings = saved.settings
    if not isinstance(settings, TranslationSettings):
        raise SettingsError(f"this is a run of the task {settings.task}, which does not translate; name another run")
    if nbest > settings.decode.beam_size:
        raise SettingsError(
            f"--nbest {nbest} needs as many hypotheses, decode.beam_size is {settings.decode.beam_size}: "
            f"--set decode.beam_size={nbest}"
        )
    set_threads(settings.threads, 1)
    device = choose_device(settings.device)
    return load_translator(settings, saved.weights, saved.checkpoint.files, device), settings.seed


def _sampler(translator: "Translator", seed: int, temperature: float, top_k: int, top_p: float) -> Any:
    """Draws that are the same every time with the same seed."""
    import torch

    from trainer.tasks.translation.decode import sampler

    device = next(translator.model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    return sampler(generator, temperature=temperature, top_k=top_k, top_p=top_p)


def _blocks(sources: list[str]) -> Iterator[list[str]]:
    """Lines of all sources in order, some hundred at a time; of a terminal one at a time."""
    for source in sources:
        if source == STDIN:
            yield from _blocks_of(sys.stdin.buffer, "stdin", 1 if sys.stdin.isatty() else BLOCK_LINES)
            continue
        try:
            with Path(source).open("rb") as stream:
                yield from _blocks_of(stream, source, BLOCK_LINES)
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error.strerror or error}; give a file of lines") from None


def _blocks_of(stream: IO[bytes], name: str, size: int) -> Iterator[list[str]]:
    """Lines end with a newline and with nothing else: text may hold any other separator that Unicode knows."""
    block: list[str] = []
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}, line {number} is no UTF-8 (byte {error.start + 1}); convert the file") from None
        block.append(text.removesuffix("\n").removesuffix("\r"))
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _write(
    target: IO[str], number: int, source: str, found: "Translation", nbest: int, scores: bool, as_json: bool
) -> None:
    """One line, or with --nbest one for each hypothesis."""
    if as_json:
        whole = asdict(found)
        record = {"source": source, **{name: whole[name] for name in ("text", "score", "is_complete")}}
        if nbest > 1:
            record["nbest"] = [{"text": one.text, "score": one.score} for one in found.nbest]
        print_json(record, target)
        return
    for one in (found.nbest or (found,)) if nbest > 1 else (found,):
        text = " ".join(one.text.splitlines())  # a line stays a line, whatever bytes the model strings together
        if nbest > 1:
            text = f"{number} ||| {text} ||| {one.score:.6f}"
        elif scores:
            text = f"{one.score:.6f}\t{text}"
        target.write(f"{text}\n")
