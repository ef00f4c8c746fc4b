"""Small corpora on disk for the tests of the task `translation`."""

import gzip

from trainer.config.sources import load_settings

PAIRS = [(f"a small {noun} sleeps {number}", f"kleines {noun} {number} ruht") for number in range(20) for noun in "xyz"]


def write(path, lines, *, encoding="utf-8"):
    """One text a line; gzip by the name."""
    data = "".join(f"{line}\n" for line in lines).encode(encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def multi30k(folder, ending=""):
    """40 pairs to train on, 10 to validate, 10 to test."""
    for split, part in (("train", PAIRS[:40]), ("val", PAIRS[40:50]), ("test_2016_flickr", PAIRS[50:])):
        write(folder / f"{split}.en{ending}", [source for source, _ in part])
        write(folder / f"{split}.de{ending}", [target for _, target in part])
    return folder


def settings_of(folder=None, *overrides):
    """Settings of a run over a folder, words as tokens."""
    flags = {} if folder is None else {"--data-dir": str(folder)}
    given = {"tokenizer.kind": "word", "tokenizer.min_count": "1", "data.source_lang": "en", "data.target_lang": "de"}
    given |= dict(one.split("=") for one in overrides)
    return load_settings(task="translation", flags=flags, overrides=[f"{k}={v}" for k, v in given.items()]).settings


def embedded(corpus="en_de_numbers", *overrides, pairs=600):
    """Settings of a run over a generated corpus."""
    given = ["data.layout=embedded", f"data.corpus={corpus}", f"data.pairs={pairs}", *overrides]
    return load_settings(task="translation", overrides=given).settings
