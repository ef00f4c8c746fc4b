"""What every tokenizer is: reserved ids, forms of text, and the two ways between text and ids."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

PAD, BOS, EOS, UNK = 0, 1, 2, 3
RESERVED = ("<pad>", "<bos>", "<eos>", "<unk>")
Kind = Literal["char", "word", "bpe", "unigram"]
Form = Literal["nfc", "none"]


class Tokenizer(Protocol):
    """One side's vocabulary and how text is cut into it."""

    @property
    def kind(self) -> Kind:
        """How text is cut."""
        ...

    @property
    def size(self) -> int:
        """Tokens in the vocabulary, reserved ones included."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, without `<bos>` and `<eos>`."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; `<pad>`, `<bos>` and `<eos>` have none."""
        ...

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id, reserved ones included, for people."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Everything that `from_json` needs."""
        ...


def normalised(text: str, form: Form) -> str:
    """The text in the Unicode form of a tokenizer."""
    return unicodedata.normalize("NFC", text) if form == "nfc" else text
