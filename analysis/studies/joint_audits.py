"""One page for the three audits, rebuilt from their studies' records: DIR/overhead and so on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analysis.evidence.load import StudyData, load_study
from analysis.page.document import WrittenPage
from analysis.page.render import render
from analysis.studies.forgetting_law import page as forgetting_law
from analysis.studies.overhead import page as overhead
from analysis.studies.small_batch import page as small_batch
from grit.errors import ConfigError
from grit.io.files import write_atomically
from ray_jobs.records.study_file import STUDY_FILE
from ray_jobs.tracking.marks import StudyMarks

#: The audits, by the name of their study and folder.
PARTS: dict[str, Callable[[StudyData, Path], WrittenPage]] = {
    "overhead": overhead.build,
    "small_batch": small_batch.build,
    "forgetting_law": forgetting_law.build,
}
PAGE_FILE = "audit.html"


@dataclass(frozen=True, kw_only=True)
class AuditsPage:
    """The joint page, and the parts that are on it by name."""

    path: Path
    parts: dict[str, WrittenPage]

    def terminal(self) -> str:
        """The answers of all parts."""
        return "\n\n".join(part.terminal() for part in self.parts.values())

    def marks(self) -> StudyMarks:
        """Each audit's study has its own."""
        return StudyMarks()


def build(folder: Path) -> AuditsPage:
    """Rebuilds the reports of the studies in `folder` and joins them in `audit.html` there.

    Raises:
        ConfigError: there is none of the three with a completed trial.
    """
    parts: dict[str, WrittenPage] = {}
    for name, make in PARTS.items():
        if (folder / name / STUDY_FILE).exists():
            data = load_study(folder / name)
            if any(record.usable for record in data.records):
                parts[name] = make(data, folder / name)
    if not parts:
        raise ConfigError("audit", str(folder), f"holds none of {', '.join(PARTS)} with a completed trial")
    missing = [name for name in PARTS if name not in parts]
    write_atomically(folder / PAGE_FILE, render("audit.html.j2", parts=parts, missing=missing))
    return AuditsPage(path=folder / PAGE_FILE, parts=parts)
