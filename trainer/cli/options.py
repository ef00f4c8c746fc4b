"""Settings on the command line: --config, --set and the short flags that the settings classes declare.

    @app.command()
    @with_settings
    def train(given: SettingsArguments, ...) -> int: ...

makes a command that takes all of them; they are listed in its help, each with its default. `normalise` lets people type
what they are used to: `--signers 01 02 03` and `--num-epochs` for `--num_epochs`.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.markup import escape

from trainer.config.files import ConfigFile
from trainer.config.names import Leaf, flags
from trainer.config.sources import TASK_SETTINGS, Loaded, load_settings
from trainer.errors import SettingsError

_PANEL = "Settings"
_ABOUT_STORES = ("s3", "run.store", "task")


@dataclass(frozen=True)
class SettingsArguments:
    """What a command line said about settings."""

    config: str | None
    overrides: list[str]
    flags: dict[str, Any]

    def load(self, base: ConfigFile | None = None) -> Loaded:
        """The settings of all sources, `base` in place of the defaults. Raises SettingsError."""
        return load_settings(
            config=self.config, overrides=self.overrides, flags=self.flags, environ=os.environ, base=base
        )

    def of_store(self) -> "SettingsArguments":
        """What of it is about the store: all that counts before the run, and with it the task, is known."""
        overrides = [text for text in self.overrides if _setting(text).startswith(_ABOUT_STORES)]
        flags = {flag: value for flag, value in self.flags.items() if flag in ("--store", "--task")}
        return SettingsArguments(self.config, overrides, flags)


ConfigOption = Annotated[
    str | None,
    typer.Option(help="A YAML file of settings, or the name of a preset.", metavar="FILE", rich_help_panel=_PANEL),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Any setting by its dotted name; may be repeated.", metavar="NAME=VALUE", rich_help_panel=_PANEL
    ),
]


def about_store(store: str | None, overrides: list[str] | None) -> SettingsArguments:
    """What --store and --set of a command say that needs no other settings. Raises SettingsError for any other."""
    for text in overrides or []:
        if not _setting(text).startswith(_ABOUT_STORES):
            raise SettingsError(f"--set {_setting(text)} has no effect here; this command takes s3.* and run.store")
    return SettingsArguments(None, overrides or [], {"--store": store} if store else {})


def known_flags() -> dict[str, Leaf]:
    """The short flags of every task; where tasks share one, the default task says its help."""
    found: dict[str, Leaf] = {}
    for settings in TASK_SETTINGS.values():
        found |= {flag: leaf for flag, leaf in flags(settings).items() if flag not in found}
    return found


def with_settings(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of the settings; its parameter `given` receives them."""
    own = inspect.signature(function, eval_str=True).parameters
    names = {_identifier(flag): flag for flag in known_flags()}

    def command(*, config: str | None, overrides: list[str] | None, **values: Any) -> int:
        said = {names[name]: values.pop(name) for name in names}
        typed = {flag: value for flag, value in said.items() if value not in (None, [])}
        return function(given=SettingsArguments(config, overrides or [], typed), **values)

    parameters = [*own.values(), *_settings_parameters()]
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters if one.name != "given"]
    command.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]  # functions have no such attribute
    command.__annotations__ = {one.name: one.annotation for one in keyword}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


def normalise(arguments: Sequence[str]) -> list[str]:
    """Known spellings of flags made the declared ones; every value of a list flag gets a flag of its own."""
    known = known_flags()
    spelling = {_plain(flag): flag for flag in known}
    result: list[str] = []
    repeated = ""
    for argument in arguments:
        name, separator, value = argument.partition("=")
        flag = spelling.get(_plain(name), name)
        if argument.startswith("-"):
            repeated = flag if flag in known and known[flag].kind == "list" and not separator else ""
            result += [] if repeated else [flag + separator + value]
        else:
            result += [repeated, argument] if repeated else [argument]
    return result


def what_is_wrong(error: typer.TyperException) -> str:
    """One line on a wrong command line. Who types a setting as others do (`lr=1`, `--optim.lr 1`) is told how here."""
    text = str(getattr(error, "format_message", error.__str__)())
    is_setting = "." in getattr(error, "option_name", "") or ("extra argument" in text and "=" in text)
    return f"{text.rstrip('.')}; a setting is given as --set NAME=VALUE" if is_setting else text


def _settings_parameters() -> Iterator[inspect.Parameter]:
    """Parameters as typer reads them: --config, --set, and one for each short flag."""
    yield _parameter("config", ConfigOption)
    yield _parameter("overrides", SetOption)
    for flag, leaf in known_flags().items():
        kind: Any = {"switch": bool | None, "list": list[str] | None}.get(leaf.kind, str | None)
        text = escape(f"{leaf.help} [default: {_default(leaf)}]".strip())
        metavar = "" if leaf.kind == "switch" else "|".join(leaf.choices) or leaf.name.rpartition(".")[2].upper()
        option = typer.Option(flag, help=text, show_default=False, metavar=metavar or None, rich_help_panel=_PANEL)
        yield _parameter(_identifier(flag), Annotated[kind, option])


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _setting(override: str) -> str:
    """The name in a text of --set."""
    return override.partition("=")[0].strip()


def _identifier(flag: str) -> str:
    return "flag" + _plain(flag)


def _plain(flag: str) -> str:
    """One spelling for all: underscores."""
    return flag.replace("-", "_")


def _default(leaf: Leaf) -> str:
    return "none" if leaf.default in (None, []) else str(leaf.default)
