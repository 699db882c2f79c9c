"""Do the defaults travel?

The one-at-a-time sweep on every task, and one page that compares each task's best setting with the default.

    python sweeps/portability.py                                  # the five embedded tasks
    python sweeps/portability.py --tasks reading arithmetic --output results/travel
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.cli.one_line import EXIT_BAD_INPUT
from grit.cli.parser import flag
from grit.config.declared_knobs import KNOBS
from grit.tasks import embedded
from ray_jobs.design.points import Point, one_at_a_time
from sweeps.common.request import StudyRequest
from sweeps.common.script import StudyScript
from sweeps.common.series import Member, in_turn
from sweeps.common.study_options import KNOB_OPTIONS


@dataclass(frozen=True)
class PortabilityOptions:
    """The tasks."""

    _argument_group_name = "this study"

    tasks: list[str] = flag(
        list(embedded.NAMES), "which tasks (default: the five embedded ones)", metavar="NAME"
    )


def points(request: StudyRequest) -> list[Point]:
    """Each knob alone."""
    return one_at_a_time({name: request.base.setting(name) for name in KNOBS}, request.preset.oat)


SCRIPT = StudyScript(
    name="portability", description=__doc__, points=points, regimes=("step",), designs=tuple(KNOB_OPTIONS)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sweep once per task, each in a folder of its own, then the comparison."""
    line, (series,) = SCRIPT.read(argv, PortabilityOptions)
    assert isinstance(series, PortabilityOptions)
    if line.data.task is not None:
        print(f"error: task = {line.data.task!r}: say --tasks", file=sys.stderr)
        return EXIT_BAD_INPUT
    members = [
        Member(label=task, place=task, script=SCRIPT, line=replace(line, data=replace(line.data, task=task)))
        for task in dict.fromkeys(series.tasks)
    ]
    return in_turn("portability", "task", members, _conclude)


def _conclude(folder: Path) -> None:
    from analysis.studies.portability import build

    print("\n" + build(folder).terminal())
    print(f"report:  xdg-open {folder / 'portability.html'}")


if __name__ == "__main__":
    sys.exit(main())
