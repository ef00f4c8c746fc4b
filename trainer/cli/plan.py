"""`trainer config --plan`: the timeline of a run as the engine resolves it, printed."""

from dataclasses import asdict

from trainer.cli.output import print_json, print_table
from trainer.config.lengths import typical
from trainer.config.settings import CommonSettings
from trainer.engine.timeline import timeline
from trainer.tasks import registry


def show_plan(settings: CommonSettings, as_json: bool) -> int:
    """Print passes, checkpoints, milestones and knots of curves in order."""
    plan = timeline(registry.load(settings.task).create(settings), settings)
    lengths = {"steps_per_epoch": plan.steps_per_epoch, "total_steps": plan.total_steps}
    if as_json:
        print_json({**lengths, "timeline": [asdict(line) for line in plan.lines]})
        return 0
    print(f"{plan.total_steps} steps, {typical(plan.steps_per_epoch)} an epoch")
    names = list(plan.lines[0].curves) if plan.lines else []
    rows = []
    for line in plan.lines:
        values = (f"{value:.6g}" for value in (line.learning_rate, *line.curves.values()))
        rows.append((line.step, f"{line.epoch:.3f}", line.what, *values))
    columns = ("step", "epoch", "after it", "next learning rate", *(f"next {name}" for name in names))
    print_table(columns, rows, right=frozenset(range(len(columns))) - {2})
    return 0
