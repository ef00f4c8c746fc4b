"""What `trainer prepare --check` says of a prepared corpus: its files are whole, and what reading them finds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.translation import TranslationData
from trainer.tasks.translation.prepare import open_packed
from trainer.tasks.translation.splits import read_text


@dataclass(frozen=True)
class Findings:
    """Counts by split."""

    path: Path
    languages: tuple[str, str]
    report: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"languages": list(self.languages), **self.report}

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.path}: {'-'.join(self.languages)}, every file is what the header says"]
        for name, found in self.report.items():
            if isinstance(found, dict):
                lines.append(f"  {name}: " + ", ".join(f"{count:,} {what}" for what, count in found.items()))
        return "\n".join(lines)


def check(folder: Path) -> Findings:
    """Compare digests, read every pair. Raises DataError for the first thing that is wrong."""
    open_packed(folder)
    text = read_text(TranslationData(path=str(folder), layout="text"), folder)
    return Findings(folder, text.languages, text.report())
