"""Sub-word tokenizers of the library `tokenizers`, over bytes: no character is unknown, every text comes back.

`bpe` is trained by the library, whose result is the same every time. Its trainer of `unigram` gives other scores each
time (it walks hash maps in random order), so the pieces are chosen here: candidates from byte-pair merges, counted in
the best segmentation under the scores so far, the rarest left out, until the vocabulary has its size (after Kudo 2018,
with hard counts). Segmentation itself is the library's.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.errors import SettingsError
from trainer.tasks.translation.vocabulary import RESERVED, UNK, Form, normalised

NUM_BYTES = 256
_CANDIDATES = 2
"""Candidates for every piece of a unigram vocabulary."""
_KEPT = 0.8
"""Share of the pieces that one round of pruning keeps at least."""
_ESTIMATES = 2
"""Estimates of the scores between two prunings."""
_UNUSED = 0.5
"""Count that a piece without any is scored with."""
_NEVER = -1e4
"""Score of the reserved pieces."""


@dataclass(frozen=True)
class SubwordTokenizer:
    """A model of the library, as JSON."""

    kind: Literal["bpe", "unigram"]
    model: dict[str, Any]
    form: Form = "nfc"
    _library: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_library", _tokenizers().Tokenizer.from_str(json.dumps(self.model)))

    @property
    def size(self) -> int:
        """Tokens in the vocabulary, reserved ones included."""
        return int(self._library.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        return [one.ids for one in self._library.encode_batch_fast([normalised(text, self.form) for text in texts])]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become the replacement character."""
        return str(self._library.decode([one for one in ids if one > UNK]))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id; bytes as the printable characters that the library writes for them."""
        return [RESERVED[one] if one <= UNK else str(self._library.id_to_token(one)) for one in ids]

    def to_json(self) -> dict[str, Any]:
        """Kind, form and the library's own JSON."""
        return {"kind": self.kind, "normalise": self.form, "model": self.model}


def train_subwords(
    texts: Iterable[str], kind: Literal["bpe", "unigram"], *, vocab_size: int, form: Form = "nfc"
) -> SubwordTokenizer:
    """A vocabulary of at most `vocab_size` pieces. Raises SettingsError when not even the bytes find room."""
    smallest = NUM_BYTES + len(RESERVED)
    if vocab_size < smallest:
        raise SettingsError(
            f"tokenizer.vocab_size is {vocab_size}, but {kind} needs {smallest} at least (every byte and the reserved "
            "tokens); raise it, or set tokenizer.kind to word or char"
        )
    if kind == "bpe":
        model = _train_bpe((normalised(text, form) for text in texts), vocab_size)
    else:
        model = _train_unigram([normalised(text, form) for text in texts], vocab_size)
    return SubwordTokenizer(kind, model, form)


def _train_bpe(texts: Iterable[str], vocab_size: int) -> dict[str, Any]:
    """The library's byte-pair merges as JSON, where no text can be read as a reserved token."""
    library = _over_bytes(_tokenizers().models.BPE())
    trainer = _tokenizers().trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(RESERVED), initial_alphabet=_alphabet(), show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    return _to_json(library) | {"added_tokens": []}


def _train_unigram(texts: Sequence[str], vocab_size: int) -> dict[str, Any]:
    """Pieces and their log probabilities; every byte is one of them."""
    wanted = vocab_size - len(RESERVED)
    candidates = _train_bpe(texts, len(RESERVED) + NUM_BYTES + _CANDIDATES * (wanted - NUM_BYTES))
    pieces = sorted(candidates["model"]["vocab"], key=candidates["model"]["vocab"].__getitem__)[len(RESERVED) :]
    words = Counter(word for text in texts for word in _words(text))
    counts: Mapping[str, int] = dict.fromkeys(pieces, 1)
    while True:
        for _ in range(_ESTIMATES):
            counts = _count(words, counts)
        if len(pieces) <= wanted:
            return _to_json(_unigram(counts, is_final=True))
        pieces = _prune(counts, max(wanted, int(_KEPT * len(pieces))))
        counts = {piece: counts[piece] for piece in pieces}


def _count(words: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, int]:
    """How often each piece occurs in the best segmentation of all words under the scores of `counts`."""
    library = _unigram(counts, is_final=False)
    found = dict.fromkeys(counts, 0)
    texts = sorted(words)
    for text, encoded in zip(texts, library.encode_batch_fast(texts), strict=True):
        for piece in map(library.id_to_token, encoded.ids):
            found[piece] += words[text]
    return found


def _prune(counts: Mapping[str, int], num_kept: int) -> list[str]:
    """The most frequent pieces, by (-count, text), and all bytes."""
    alphabet = set(_alphabet())
    ranked = sorted((piece for piece in counts if piece not in alphabet), key=lambda piece: (-counts[piece], piece))
    return sorted(alphabet) + ranked[: num_kept - len(alphabet)]


def _unigram(counts: Mapping[str, int], *, is_final: bool) -> Any:
    """The library's model with log probabilities out of counts; over words until it is final, over text then."""
    total = math.log(sum(max(count, _UNUSED) for count in counts.values()))
    ordered = sorted(counts, key=lambda piece: (-counts[piece], piece))
    scored = [(piece, math.log(max(counts[piece], _UNUSED)) - total) for piece in ordered]
    # A blank never reaches the model, it is a stand-in by then: so no text can be read as a reserved token.
    reserved = [(f"{name} ", _NEVER) for name in RESERVED]
    model = _tokenizers().models.Unigram([*reserved, *scored], unk_id=UNK, byte_fallback=False)
    return _over_bytes(model) if is_final else _tokenizers().Tokenizer(model)


def _to_json(library: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(library.to_str())
    return body


def _over_bytes(model: Any) -> Any:
    """A tokenizer of the library that cuts text into words, blanks before them, and these into bytes."""
    library = _tokenizers().Tokenizer(model)
    library.pre_tokenizer = _tokenizers().pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = _tokenizers().decoders.ByteLevel()
    return library


def _words(text: str) -> Iterator[str]:
    split = _tokenizers().pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return (word for word, _ in split)


def _alphabet() -> list[str]:
    """The printable characters that stand for the 256 bytes."""
    return sorted(_tokenizers().pre_tokenizers.ByteLevel.alphabet())


def _tokenizers() -> Any:
    """The library, imported when used. Raises SettingsError when it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise SettingsError(
            "tokenizer.kind bpe and unigram need the extra `translation`: pip install 'signs-trainer[translation]'"
        ) from None
    return tokenizers
