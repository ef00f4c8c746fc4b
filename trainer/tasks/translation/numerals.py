"""Numbers 0 to 999,999 as English and as German words, parts separated by blanks.

English: "n hundred", tens before units ("twenty one"), no "and", no hyphen. German: units before tens with "und" ("ein
und zwanzig"); 1 is "eins" at the very end and "ein" before "hundert", "tausend" and "und".
"""

from functools import lru_cache

LARGEST = 999_999
_THOUSAND = 1000


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ENGLISH = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_ENGLISH_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
_GERMAN = _words(
    "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn"
)
_GERMAN_TENS = _words("zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")


def english(number: int) -> str:
    """The number in English words."""
    thousands, rest = divmod(number, _THOUSAND)
    parts = [f"{_english_below(thousands)} thousand"] if thousands else []
    return " ".join(parts + ([_english_below(rest)] if rest or not parts else []))


def german(number: int) -> str:
    """The number in German words."""
    thousands, rest = divmod(number, _THOUSAND)
    parts = [f"{_german_below(thousands)} tausend"] if thousands else []
    words = " ".join(parts + ([_german_below(rest)] if rest or not parts else []))
    return f"{words}s" if words == "ein" or words.endswith(" ein") else words


@lru_cache(maxsize=_THOUSAND)
def _english_below(number: int) -> str:
    """A number below a thousand."""
    hundreds, rest = divmod(number, 100)
    parts = [_ENGLISH[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        parts.append(_ENGLISH_TENS[rest // 10 - 2])
        rest %= 10
        parts += [_ENGLISH[rest]] if rest else []
    elif rest or not parts:
        parts.append(_ENGLISH[rest])
    return " ".join(parts)


@lru_cache(maxsize=_THOUSAND)
def _german_below(number: int) -> str:
    """A number below a thousand, 1 as "ein"."""
    hundreds, rest = divmod(number, 100)
    parts = [_GERMAN[hundreds], "hundert"] if hundreds else []
    if rest >= 20:
        parts += [_GERMAN[rest % 10], "und"] if rest % 10 else []
        parts.append(_GERMAN_TENS[rest // 10 - 2])
    elif rest or not parts:
        parts.append(_GERMAN[rest])
    return " ".join(parts)
