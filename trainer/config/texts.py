"""Types of settings that hold an expression: checked when loaded, kept as the text the user wrote.

A number or, for moments, a mapping with one key (`every: 500 steps` in YAML) is taken, too. The JSON Schema carries a
pattern in RE2 syntax, so that Helm refuses a malformed moment before anything is installed.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from trainer.config.expressions import NUMBER, Amount, Curve, Patience, Trigger

_NUMBER = NUMBER.replace("[+-]?", r"\+?", 1)
_AMOUNT = rf"\s*{_NUMBER}\s*(steps?|%|epochs?)?\s*"
_CURVE_VALUE = rf"\s*{NUMBER}\s*"


def _as_text(value: Any) -> Any:
    """A bare number is a number of steps."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_moment(value: Any) -> Any:
    """`{every: 500 steps}` is "every 500 steps"; two keys would be two moments for one thing."""
    if not isinstance(value, Mapping):
        return _as_text(value)
    if len(value) != 1:
        raise ValueError(f"takes one moment, got {len(value)}: {', '.join(map(str, value))}")
    (keyword, amount), *_ = value.items()
    return f"{keyword} {amount}"


def _checked(parse: Callable[[str], object]) -> AfterValidator:
    """A validator that parses and gives the text back."""

    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


def _schema(pattern: str, *types: str) -> WithJsonSchema:
    return WithJsonSchema({"type": list(types), "pattern": rf"^({pattern})$"})


AmountText = Annotated[str, BeforeValidator(_as_text), _checked(Amount.parse), _schema(_AMOUNT, "string", "number")]
"""`500 steps`, `10%`, `2.5 epochs`, `500`."""

TriggerText = Annotated[
    str,
    BeforeValidator(_as_moment),
    _checked(Trigger.parse),
    _schema(
        rf"\s*(never|(every|each):?{_AMOUNT}(\sfrom{_AMOUNT})?(\sto{_AMOUNT})?|at:?{_AMOUNT}(,{_AMOUNT})*)(\s*and\s+end)?\s*",
        "string",
    ),
]
"""`every 500 steps`, `at 10%, 50%`, `each 2 epochs and end`, `never`."""

CurveText = Annotated[
    str,
    _checked(Curve.parse),
    _schema(rf"{_CURVE_VALUE}@{_AMOUNT}(,{_CURVE_VALUE}@{_AMOUNT})*(\s(linear|cosine|hold))?\s*", "string"),
]
"""`0 @ 0, 1 @ 10% linear`."""

PatienceText = Annotated[
    str,
    BeforeValidator(_as_text),
    _checked(Patience.parse),
    _schema(rf"{_AMOUNT}|\s*[0-9]+\s*passe?s?\s*", "string", "number"),
]
"""An amount, or `3 passes`."""
