"""The three audits, one after the other, and one page over all of them: runtime, small batches, the law of forgetting.

    python sweeps/audit.py                                       # the embedded default, small: one seed, few steps
    python sweeps/audit.py --preset embedded                     # as the three scripts run by themselves
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there, not the repository

from grit.command_line import OneLineParser
from grit.errors import ConfigError
from sweeps import forgetting_law, overhead, small_batch
from sweeps.command import EXIT_BAD_INPUT

STUDIES = {"overhead": overhead.run, "small_batch": small_batch.run, "forgetting_law": forgetting_law.run}


def run(argv: Sequence[str]) -> int:
    """Runs the studies, each in a folder of its own, then writes the page; stops at the first that does not end well."""
    own = OneLineParser(add_help=False, allow_abbrev=False)
    own.add_argument("--output", type=Path)
    own.add_argument("--preset", default="smoke")
    own.add_argument("--resume", action="store_true")
    arguments, rest = own.parse_known_args(list(argv))
    if "-h" in rest or "--help" in rest:
        print(f"{__doc__}\nAll options of the other sweeps hold for each of the three; --output is the folder of all, --preset is smoke by default.")
        return 0
    if arguments.resume and arguments.output is None:
        print("error: resume = True: needs --output: the folder of the audits to continue", file=sys.stderr)
        return EXIT_BAD_INPUT
    folder = arguments.output or Path("results") / f"audit-{time.strftime('%Y%m%d-%H%M%S')}"
    for number, (name, study) in enumerate(STUDIES.items(), 1):
        print(f"audit {number} of {len(STUDIES)}: {name}", file=sys.stderr, flush=True)
        resume = ["--resume"] if arguments.resume and (folder / name / "study.json").exists() else []  # else its turn had not come
        code = study([*rest, "--preset", arguments.preset, *resume, "--output", str(folder / name)])
        if code:
            return code
    return 0 if "--dry-run" in rest else _conclude(folder)


def _conclude(folder: Path) -> int:
    from analysis.audit import build

    try:
        page = build(folder)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f"\nall three:  xdg-open {page}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
