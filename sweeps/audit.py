"""The three audits, one after the other, and one page over all of them.

Runtime, small batches, the law of forgetting.

    python sweeps/audit.py                      # the embedded default, small: one seed, few steps
    python sweeps/audit.py --preset embedded    # as the three scripts run by themselves

All options of the other sweeps hold for each of the three; --output is the folder of all, --preset is smoke
by default.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.cli.parser import flag
from ray_jobs.design.study_presets import PRESETS
from sweeps import forgetting_law, overhead, small_batch
from sweeps.common.script import StudyScript
from sweeps.common.series import Member, in_turn
from sweeps.common.study_options import DesignOptions

STUDIES = (overhead.SCRIPT, small_batch.SCRIPT, forgetting_law.SCRIPT)


@dataclass(frozen=True)
class SmallDesignOptions(DesignOptions):
    """The common options, small by default."""

    preset: str = flag("smoke", "starting point for every setting (default: smoke)", choices=PRESETS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the studies, each in a folder of its own, then writes the page.

    Stops at the first that does not end well.
    """
    common = replace(overhead.SCRIPT, name="audit", description=__doc__, own=None, design=SmallDesignOptions)
    line, _ = common.read(argv)
    members = [
        Member(label=script.name, place=script.name, script=script, line=replace(line, own=_own(script)))
        for script in STUDIES
    ]
    return in_turn("audit", "audit", members, _conclude)


def _own(script: StudyScript) -> object:
    """A script's own options at their defaults."""
    return None if script.own is None else script.own()


def _conclude(folder: Path) -> None:
    from analysis.studies.joint_audits import build

    print(f"\nall three:  xdg-open {build(folder).path}")


if __name__ == "__main__":
    sys.exit(main())
