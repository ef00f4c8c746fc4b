"""`trainer preflight`: what training needs of a store, tried before anything depends on it."""

import json
from dataclasses import asdict
from typing import Any

from trainer.checkpoint.probe import policy, probe, verdict
from trainer.checkpoint.probe_steps import Check
from trainer.checkpoint.stores import open_store
from trainer.cli.arguments import JsonOption, StoreOption
from trainer.cli.options import ConfigOption, SetOption, SettingsArguments
from trainer.cli.output import print_json, print_table


def preflight(
    store: StoreOption = None, config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> int:
    """Try everything that training asks of a store, and say what is missing and how to mend it.

    Ends with 0 when all that is needed is there, 5 when the store refuses, 170 when it cannot be reached.
    """
    settings = SettingsArguments(config, overrides or [], {"--store": store} if store else {}).load().settings
    opened = open_store(settings.run.store, settings.s3)
    checks = probe(opened, settings.s3)
    statement = policy(opened.url, checks, settings.s3)
    error = verdict(opened.url, checks)
    if as_json:
        rows = [{**asdict(check), "result": check.result} for check in checks]
        print_json({"store": opened.url, "ok": error is None, "checks": rows, "policy": statement})
    else:
        _show(checks, statement)
    if error:
        raise error
    return 0


def _show(checks: list[Check], statement: dict[str, Any] | None) -> None:
    rows = []
    for check in checks:
        is_tried = check.ok is not None
        result = check.result if is_tried else f"skipped ({check.advice})"
        time = f"{check.milliseconds:.0f}" if is_tried else "-"
        rows.append((check.name, result, time, check.advice if is_tried else ""))
    print_table(("check", "result", "ms", "what to do"), rows, right=frozenset({2}))
    if statement:
        print("\nThis statement in the IAM policy of the keys' owner gives the rights that were refused:\n")
        print(json.dumps(statement, indent=2))
