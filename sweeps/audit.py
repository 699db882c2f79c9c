"""The three audits, one after the other, and one page over all of them.

Runtime, small batches, the law of forgetting.

python sweeps/audit.py                                       # the embedded default, small: one seed, few
steps python sweeps/audit.py --preset embedded                     # as the three scripts run by themselves
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python sweeps/x.py` puts sweeps/ there, not the repository

from grit.cli.options import OneLineParser
from sweeps import forgetting_law, overhead, small_batch
from sweeps.common.series import Member, in_turn

STUDIES = {"overhead": overhead.run, "small_batch": small_batch.run, "forgetting_law": forgetting_law.run}


def run(argv: Sequence[str]) -> int:
    """Runs the studies, each in a folder of its own, then writes the page.

    Stops at the first that does not end well.
    """
    own = OneLineParser(add_help=False, allow_abbrev=False)
    own.add_argument("--output", type=Path)
    own.add_argument("--preset", default="smoke")
    arguments, rest = own.parse_known_args(list(argv))
    if "-h" in rest or "--help" in rest:
        print(
            f"{__doc__}\nAll options of the other sweeps hold for each of the three; --output is the "
            "folder of all, --preset is smoke by default."
        )
        return 0
    rest = ["--preset", arguments.preset, *rest]
    return in_turn(
        "audit",
        "audit",
        [Member(name, name, study) for name, study in STUDIES.items()],
        arguments.output,
        rest,
        _conclude,
    )


def _conclude(folder: Path) -> None:
    from analysis.studies.audits import build

    print(f"\nall three:  xdg-open {build(folder)}")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
