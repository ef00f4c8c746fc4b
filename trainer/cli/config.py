"""`trainer config`: what the settings are, where each came from, their schema, and the plan of the run they make."""

import sys
from typing import Annotated, Any

import typer
import yaml

from trainer.cli.arguments import JsonOption
from trainer.cli.options import SettingsArguments
from trainer.cli.output import print_json, print_table
from trainer.config.digest import digest, matters
from trainer.config.names import leaves
from trainer.config.notes import notes
from trainer.config.schema import schema
from trainer.config.settings import CommonSettings
from trainer.config.sources import Loaded

ChangedOption = Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")]
YamlOption = Annotated[bool, typer.Option("--yaml", help="A file for --config that says the same.")]
SchemaOption = Annotated[bool, typer.Option("--schema", help="The JSON Schema of the settings of every task.")]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Open the data and print when passes and checkpoints are due.")
]


def config(
    given: SettingsArguments,
    changed: ChangedOption = False,
    as_json: JsonOption = False,
    as_yaml: YamlOption = False,
    as_schema: SchemaOption = False,
    plan: PlanOption = False,
) -> int:
    """Show the settings with the source of each value, without starting anything."""
    if as_schema:
        print_json(schema())
        return 0
    loaded = given.load()
    for line in notes(loaded.settings):
        print(f"note: {line}", file=sys.stderr)
    if plan:
        from trainer.cli.plan import show_plan

        return show_plan(loaded.settings, as_json)
    if as_yaml:
        print(yaml.safe_dump(_tree(loaded.settings), sort_keys=False, allow_unicode=True), end="")
    elif as_json:
        print_json(
            {
                "settings": _tree(loaded.settings),
                "sources": loaded.source_of,
                "digest": digest(matters(loaded.settings)),
                "notes": notes(loaded.settings),
            }
        )
    else:
        _show(loaded, changed)
    return 0


def _tree(settings: CommonSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def _show(loaded: Loaded, changed: bool) -> None:
    """Every setting as one line."""
    tree = _tree(loaded.settings)
    rows = []
    for name, source in sorted(loaded.source_of.items(), key=_order(loaded)):
        if changed and source == "default":
            continue
        rows.append((name, _spell(_find(tree, name)), source))
    print_table(("setting", "value", "source"), rows)
    print(f"digest {digest(matters(loaded.settings))}")


def _order(loaded: Loaded) -> Any:
    """Declared order; entries of a mapping stand with it."""
    position = {name: index for index, name in enumerate(leaves(type(loaded.settings)))}

    def key(item: tuple[str, str]) -> tuple[int, str]:
        name = item[0]
        return position.get(name, position.get(name.rpartition(".")[0], len(position))), name

    return key


def _find(tree: dict[str, Any], name: str) -> Any:
    value: Any = tree
    for part in name.split("."):
        value = value[part]
    return value


def _spell(value: Any) -> str:
    """As it would be written in YAML, on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("...").strip()
