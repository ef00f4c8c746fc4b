"""The door to recordings: finds where a run's data are and in which layout, packs them once if need be, opens them.

    s3://... ─► fetched once a node ─► packed folder ────────────┐
    karsl_npz, karsl_mmap, auslan, open ─► Source ─► pack ─► cache ┴─► Recordings ─► select(words, signers)
    synthetic (asked for by name only) ──►┘

The cache is `data/packed/<layout>-<key>` in the working directory; the key is a digest of the source's file listing and
of the options, so changed files are packed anew. Nothing falls back to generated data.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from trainer.config.signs import SchemaSettings, SignsData, SignsSettings
from trainer.errors import DataError, SettingsError
from trainer.tasks.bad_samples import BadSamples
from trainer.tasks.disk import one_at_a_time
from trainer.tasks.remote import is_url, local_path
from trainer.tasks.signs.pack import Progress, pack
from trainer.tasks.signs.packed import HEADER, ClassInfo, Recordings
from trainer.tasks.signs.readers import find_source
from trainer.tasks.signs.readers.source import Source
from trainer.tasks.signs.schema import Schema
from trainer.tasks.signs.synthetic import Corpus
from trainer.tasks.signs.synthetic import source as synthetic_source

__all__ = ["GENERATE", "ClassInfo", "Recordings", "corpus_of", "open_recordings", "recordings_of", "source_of"]

GENERATE = "trainer prepare --synthetic data/signs"
"""The command that a missing data folder's error names."""
CACHE = Path("data/packed")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def recordings_of(settings: SignsSettings) -> Recordings:
    """The recordings of a run, fetched first if `data.path` is a URL. Raises as `open_recordings` and `local_path`."""
    data = settings.data
    if data.path is not None and is_url(data.path):
        data = data.model_copy(update={"path": str(local_path(data.path, settings))})
    return open_recordings(data)


def open_recordings(
    data: SignsData,
    *,
    cache: Path = CACHE,
    note: Callable[[str], None] = _to_stderr,
    progress: Progress | None = None,
    verify: bool = False,
) -> Recordings:
    """The recordings that the settings choose, packed first (once) if they are in another layout.

    `note` is told in one line when something is packed or left out; by default the lines go to stderr. Raises DataError
    for missing or damaged data, words outside of the set and unknown signers, SettingsError for a schema that was set
    and is not the data's.
    """
    path = None if data.path is None else Path(data.path)
    if path is not None and data.layout in ("auto", "packed") and (path / HEADER).is_file():
        recordings = Recordings.open(path, verify=verify)
    elif data.layout == "packed":
        raise _missing(data)
    else:
        recordings = _open_packed_once(source_of(data), data, cache, note, progress, verify)
    _check_schema(recordings, data.dataset_schema)
    first, last = data.selected_signs_from, data.selected_signs_to
    words = None
    if first > 1 or last is not None:
        words = range(first, (last if last is not None else max(i.word for i in recordings.classes)) + 1)
    return recordings.select(words, data.signers) if words is not None or data.signers else recordings


def source_of(data: SignsData) -> Source:
    """What the settings point to, as a stream.

    Raises DataError if there is nothing, or nothing known, SettingsError for a path beside `layout: synthetic`.
    """
    if data.layout == "synthetic":
        if data.path is not None:
            raise SettingsError(
                f"data.layout is synthetic, which reads no files, but data.path is {data.path}: unset one"
            )
        return synthetic_source(corpus_of(data))
    if data.path is None or not Path(data.path).exists():
        raise _missing(data)
    return find_source(Path(data.path), data.layout, Schema.from_settings(data.dataset_schema))


def corpus_of(data: SignsData) -> Corpus:
    """The generator's settings."""
    return Corpus(
        words=data.synthetic_words,
        signers=data.synthetic_signers,
        repetitions=data.synthetic_repetitions,
        difficulty=data.synthetic_difficulty,
        seed=data.synthetic_seed,
    )


def _open_packed_once(
    source: Source, data: SignsData, cache: Path, note: Callable[[str], None], progress: Progress | None, verify: bool
) -> Recordings:
    """The source's packed form from the cache, made now if it is not there."""
    options = [source.key, source.schema.to_json(), data.bad_samples]
    key = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]
    folder = cache / f"{source.layout}-{key}"
    with one_at_a_time(folder):
        if (folder / HEADER).is_file():
            return Recordings.open(folder, verify=verify)
        note(f"packing {source.path} ({source.layout}) into {folder}, once")
        bad = BadSamples(data.bad_samples, data.bad_budget)
        pack(source, folder, bad=bad, progress=progress)
        for line in bad.lines:
            note(f"left out: {line}")
        return Recordings.open(folder)


def _missing(data: SignsData) -> DataError:
    """One line that says what is not there, and how to get something that is."""
    if data.path is None:
        return DataError(f"data.path is not set: give a data folder (--data), or generate one: {GENERATE}")
    what = "is no packed data set" if Path(data.path).exists() else "does not exist"
    return DataError(f"data.path: {data.path} {what}; to generate recordings: {GENERATE}")


def _check_schema(recordings: Recordings, settings: SchemaSettings) -> None:
    """Refuse a schema that was set on purpose and is not the data's; the default takes what the data say."""
    if settings == SchemaSettings():
        return
    wanted = Schema.from_settings(settings)
    if (wanted.features, wanted.groups) != (recordings.schema.features, recordings.schema.groups):
        raise SettingsError(
            f"data.dataset_schema is {wanted.name!r} [{wanted.num_keypoints}, {wanted.num_features}], but "
            f"{recordings.path} holds {recordings.schema.name!r} "
            f"[{recordings.schema.num_keypoints}, {recordings.schema.num_features}]"
        )
