"""One page for the three audits, rebuilt from their studies' records.

`python -m analysis.audit DIR`, with a study in DIR/overhead and so on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.data.load import StudyData, load_study
from analysis.page.family import FamilyReport, page_context
from analysis.page.render import render
from analysis.studies import forgetting_law, overhead, small_batch
from grit.cli.options import OneLineParser
from grit.errors import ConfigError
from grit.io.files import write_atomically

PARTS: dict[str, Callable[[StudyData, Path], FamilyReport]] = {
    "overhead": overhead.build,
    "small_batch": small_batch.build,
    "forgetting_law": forgetting_law.build,
}


def build(folder: Path) -> Path:
    """Rebuilds the reports of the studies in `folder` and joins them in `audit.html` there.

    Whose path is returned.

    Raises:
        ConfigError: there is none of the three.
    """
    parts: list[dict[str, Any]] = []
    for name, make in PARTS.items():
        if (folder / name / "study.json").exists():
            data = load_study(folder / name)
            if any(record.usable for record in data.records):
                parts.append({"name": name, "context": page_context(make(data, folder / name), [data])})
    if not parts:
        raise ConfigError("audit", str(folder), f"holds none of {', '.join(PARTS)} with a completed trial")
    missing = [name for name in PARTS if name not in {part["name"] for part in parts}]
    write_atomically(folder / "audit.html", render("audit.html.j2", parts=parts, missing=missing))
    return folder / "audit.html"


def main(argv: Sequence[str]) -> int:
    """Command line; 2 for bad input."""
    parser = OneLineParser(
        prog="python -m analysis.audit", description="Rebuilds the audits' page from the records in DIR."
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    try:
        print(build(parser.parse_args(list(argv)).folder))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
