"""Report pages of the task hierarchy: its levels over the run, the balance, the tree's errors, blocks and rows.

They read the ledger's log points and passes, and of the main pass (`test` if there is one) the `detail` that
`tasks.hierarchy.metrics` wrote. Classes stand in the order of the tree, so that siblings are neighbours.
"""

from collections.abc import Sequence
from typing import Any

from trainer.tasks import classification_pages
from trainer.tasks.classification import from_cells
from trainer.tasks.hierarchy import pages_errors, pages_run
from trainer.tasks.hierarchy.tree import Tree
from trainer.tasks.page import (
    Beside,
    Cell,
    Class,
    Classification,
    Code,
    Details,
    Draw,
    Pages,
    Part,
    RunFacts,
    Section,
    Share,
    Table,
    Text,
)

FATES = {
    "read": "read",
    "no_label": "left out: no label at any level",
    "missing_image": "left out: no image",
    "partial": "left out: a label is unknown",
    "gaps": "left out: a label is missing under a finer one",
    "bad": "left out: bad",
    "overruled": "overruled by the majority",
    "filled": "with a coarser label filled in",
    "used": "used",
}
"""What `tasks.hierarchy.counts` counts, in words."""


def pages(run: RunFacts, draw: Draw) -> Pages:
    """All sections; of a run without a finished pass only what its log points show."""
    if "tree" not in run.info:
        return Pages([])
    tree = Tree.from_json(run.info["tree"])
    found = pages_run.sections(run, tree, draw)
    name = main_pass(run)
    classification = None
    if name is not None:
        detail = run.details[name]["detail"]
        found += pages_errors.sections(name, detail, tree, draw)
        classification = finest(detail, tree)
        if classification.confusion.any():
            found += classification_pages.quality(classification, detail["levels"][tree.levels[0]], draw)
        found.append(Section("Consistency of the levels", _consistency(run, name)))
        found.append(Section("Worst rows", _worst(detail["worst"], tree)))
    found.append(Section("Labels", _labels(run.info, tree)))
    return Pages(found, classification)


def main_pass(run: RunFacts) -> str | None:
    """The pass that is shown: `test` if there is one, else that of the best metric, else any."""
    names = [name for name, record in run.details.items() if record["detail"].get("levels")]
    preferred = ["test", run.best_metric.partition("/")[0], *names]
    return next((name for name in preferred if name in names), None)


def finest(detail: dict[str, Any], tree: Tree) -> Classification:
    """Counts and names of the finest level, numbered from 1."""
    confusion = from_cells(detail["levels"][tree.levels[0]]["confusion"], tree.num_classes[0])
    return Classification(confusion, [Class(number + 1, name) for number, name in enumerate(tree.names[0])])


def _consistency(run: RunFacts, name: str) -> list[Part]:
    """Answers whose parent is the answer above, and rows that are right all the way up."""
    metrics, pairs = run.details[name]["metrics"], run.details[name]["detail"]["consistency"]
    rows: list[list[Cell]] = [[pair, Share(value)] for pair, value in pairs.items()]
    chains = {
        "all levels known": ("chain", "decoded_chain"),
        "every known level": ("known_chain", "decoded_known_chain"),
    }
    both: list[list[Cell]] = [
        [text, Share(metrics.get(alone)), Share(metrics.get(decoded))] for text, (alone, decoded) in chains.items()
    ]
    rule = run.info["decode"]["rule"]
    return [
        Beside(
            Table(("answers that fit", "share"), rows, "Best class of each level: is its parent the answer above?"),
            Table(
                ("rows right at", "best classes", f"decoded ({rule})"), both, "Rows right at every level in question."
            ),
        )
    ]


def _worst(worst: Sequence[dict[str, Any]], tree: Tree) -> list[Part]:
    """Rows with the greatest loss, with label and answer of each level."""
    heads = [text for level in tree.levels for text in (level, "answer")]
    rows: list[list[Cell]] = []
    for one in worst:
        cells = [_name(tree, level, c) for level, pair in enumerate(_pairs(one)) for c in pair]
        rows.append([Code(one["name"]), *cells, float(one["loss"])])
    right = frozenset(row for row, one in enumerate(worst) if all(a in (b, -1) for a, b in _pairs(one)))
    text = "The greatest loss over the known levels; a dash is unknown. Rows that stand out are answered right."
    return [Text(text, muted=True), Table(("row", *heads, "loss"), rows, marked=right)]


def _pairs(one: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(one["labels"], one["answers"], strict=True))


def _name(tree: Tree, level: int, cls: int) -> str | None:
    return None if cls < 0 else tree.names[level][cls]


def _labels(info: dict[str, Any], tree: Tree) -> list[Part]:
    """Classes and unknown labels of each level before and after filling, and what became of the rows."""
    data = info["data"]
    columns = ("level", "classes", "unknown as read", "share", "unknown after filling", "share")
    used = max(1, int(data["rows"]["used"]))
    rows: list[list[Cell]] = []
    for number, level in enumerate(tree.levels):
        before, after = int(data["unknown_before"][level]), int(data["unknown_after"][level])
        rows.append([level, tree.num_classes[number], before, Share(before / used), after, Share(after / used)])
    parts: list[Part] = [Table(columns, rows, "Labels that the rows do not know.")]
    counts: list[list[Cell]] = [[FATES.get(name, name), int(number)] for name, number in data["rows"].items()]
    splits: list[list[Cell]] = [[name, int(number)] for name, number in info["splits"].items()]
    parts.append(Beside(Table(("rows on their way in", "number"), counts), Table(("split", "rows"), splits)))
    alone = [f"{level}: {', '.join(names)}" for level, names in data["classes_without_rows"].items() if names]
    if alone:
        parts.append(Details("Classes without a row", [Text(line) for line in alone]))
    if data["bad"]:
        parts.append(Details("Bad rows", [Text(line) for line in data["bad"]]))
    return parts
