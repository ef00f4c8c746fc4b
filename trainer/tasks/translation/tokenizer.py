"""Text to token ids and back; the four reserved ids are the same for every kind.

    text ─► normalise (NFC) ─► pieces ─► ids            ids without reserved ones ─► pieces ─► text

The contract: `encode` gives no `<bos>` and no `<eos>`, the data set adds them; text is never read as a reserved token.
Both sides are one file: the bytes of `TokenizerPair.to_bytes` are saved beside the weights, the digest is of them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.errors import DataError
from trainer.tasks.translation.subwords import SubwordTokenizer
from trainer.tasks.translation.vocabulary import RESERVED, UNK, Form, Tokenizer, normalised

FILE = "tokenizer.json"
"""Beside the weights in every checkpoint."""
FORMAT = 1
"""Raised when a reader of the old format would misread the new one."""


@dataclass(frozen=True)
class ListTokenizer:
    """Characters or words out of a list; what is not in it is `<unk>`."""

    kind: Literal["char", "word"]
    vocabulary: tuple[str, ...]
    """Without the reserved tokens; the first one has the id 4."""
    form: Form = "nfc"
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbered = enumerate(self.vocabulary, len(RESERVED))
        object.__setattr__(self, "_ids", {piece: number for number, piece in numbered})

    @property
    def size(self) -> int:
        """Tokens in the vocabulary, reserved ones included."""
        return len(RESERVED) + len(self.vocabulary)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text."""
        look_up = self._ids.get
        return [[look_up(piece, UNK) for piece in pieces(text, self.kind, self.form)] for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, words joined by single blanks."""
        shown = [RESERVED[UNK] if one == UNK else self.vocabulary[one - len(RESERVED)] for one in ids if one >= UNK]
        return ("" if self.kind == "char" else " ").join(shown)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id."""
        return [(RESERVED[one] if one <= UNK else self.vocabulary[one - len(RESERVED)]) for one in ids]

    def to_json(self) -> dict[str, Any]:
        """Kind, form and the list."""
        return {"kind": self.kind, "normalise": self.form, "vocabulary": list(self.vocabulary)}


def pieces(text: str, kind: Literal["char", "word"], form: Form) -> Sequence[str]:
    """A text cut into characters, or into words at blanks."""
    text = normalised(text, form)
    return text if kind == "char" else text.split()


def train_list(
    texts: Iterable[str], kind: Literal["char", "word"], *, vocab_size: int, min_count: int = 1, form: Form = "nfc"
) -> ListTokenizer:
    """The most frequent characters or words, by (-count, text); `vocab_size` counts the reserved tokens, too.

    Raises DataError when no word is as frequent as `min_count`.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pieces(text, kind, form))
    known = sorted((piece for piece in counts if counts[piece] >= min_count), key=lambda piece: (-counts[piece], piece))
    if not known:
        raise DataError(f"no {kind} occurs {min_count} times in the training text; lower tokenizer.min_count")
    return ListTokenizer(kind, tuple(known[: vocab_size - len(RESERVED)]), form)


def from_json(body: dict[str, Any]) -> Tokenizer:
    """Inverse of `to_json`."""
    if body["kind"] in ("char", "word"):
        return ListTokenizer(body["kind"], tuple(body["vocabulary"]), body["normalise"])
    return SubwordTokenizer(body["kind"], body["model"], body["normalise"])


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of both sides; the same object twice if they are joint."""

    source: Tokenizer
    target: Tokenizer

    @property
    def digest(self) -> str:
        """16 hex characters over both; part of the config digest."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """The one form in which tokenizers are saved; joint ones once."""
        body: dict[str, Any] = {"format": FORMAT, "source": self.source.to_json()}
        if self.target is not self.source:
            body["target"] = self.target.to_json()
        return (json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = FILE) -> "TokenizerPair":
        """Inverse of `to_bytes`. Raises DataError naming `where` for anything else."""
        try:
            body = json.loads(data)
            if body["format"] != FORMAT:
                raise DataError(f"{where} has the format {body['format']}, this version reads {FORMAT} only")
            source = from_json(body["source"])
            return cls(source, from_json(body["target"]) if "target" in body else source)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where} holds no tokenizers ({error!r})") from None

    def check(self, digest: str | None, whose: str) -> None:
        """Refuse tokenizers other than those of `digest`. Raises DataError naming both digests."""
        if digest not in (None, self.digest):
            raise DataError(f"{whose} was made with the tokenizers {digest}, these are {self.digest}: give its own")
