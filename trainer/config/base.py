"""The base of all sections, and `setting`, which adds to a field what pydantic does not know."""

from copy import deepcopy
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A group of settings: unknown names are refused, values are checked on assignment, too."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def setting(default: Any = ..., *, flag: str | None = None, matters: bool = True, **rules: Any) -> Any:
    """A field of a section.

    `flag` is its short form on the command line; `matters=False` keeps it out of the config digest, because no
    value of it can change a weight. Everything else goes to pydantic's `Field` (ge, le, pattern, ...).
    """
    extra: dict[str, Any] = {}
    if flag:
        extra["flag"] = flag
    if not matters:
        extra["matters"] = False
    if isinstance(default, (list, dict, BaseModel)):
        value = default
        return Field(default_factory=lambda: deepcopy(value), json_schema_extra=extra or None, **rules)
    return Field(default, json_schema_extra=extra or None, **rules)
