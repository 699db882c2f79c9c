"""Do the defaults travel?

The one-at-a-time sweep on every task, and one page that compares each task's best setting with the default.

python sweeps/portability.py                                  # the five embedded tasks
python sweeps/portability.py --tasks reading arithmetic --output results/travel
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python sweeps/x.py` puts sweeps/ there, not the repository

from grit.cli.options import OneLineParser
from grit.tasks import embedded
from ray_jobs.design.study import Point, one_at_a_time
from ray_jobs.design.study_presets import Preset
from sweeps.common.command import EXIT_BAD_INPUT, main
from sweeps.common.options import SweepOptions
from sweeps.common.series import Member, in_turn


def points(preset: Preset, _options: SweepOptions) -> list[Point]:
    """Each knob alone."""
    grit = preset.base.grit
    return one_at_a_time(
        {"tau": grit.rank_adaptation_threshold, "T": grit.reprojection_freq, "lambda": grit.kfac_damping},
        preset.oat,
    )


def over_tasks(argv: Sequence[str]) -> int:
    """Runs the sweep once per task, each in a folder of its own, then the comparison.

    Stops at the first task that does not end well.
    """
    own = OneLineParser(add_help=False, allow_abbrev=False)
    own.add_argument("--tasks", nargs="+", default=list(embedded.NAMES))
    own.add_argument("--task")
    own.add_argument("--output", type=Path)
    arguments, rest = own.parse_known_args(list(argv))
    if "-h" in rest or "--help" in rest:
        print(
            "--tasks NAME [NAME ...] says which tasks (default: the five embedded ones); all else is as in "
            "the other sweeps:\n"
        )
        return main("portability", __doc__ or "", points, argv=["--help"], regimes=("step",))
    if arguments.task is not None:
        print("error: --task = " + repr(arguments.task) + ": say --tasks", file=sys.stderr)
        return EXIT_BAD_INPUT

    def study(task: str) -> Callable[[list[str]], int]:
        return lambda options: main(
            "portability",
            __doc__ or "",
            points,
            argv=[*options, "--task", task],
            regimes=("step",),
            designs=("tau", "T", "lambda_"),
        )

    members = [Member(task, task, study(task)) for task in dict.fromkeys(arguments.tasks)]
    return in_turn("portability", "task", members, arguments.output, rest, _conclude)


def _conclude(folder: Path) -> None:
    from tabulate import tabulate

    from analysis.studies.portability import HEADER, build, rows_of

    found = build(folder)
    print(
        "\nDo the defaults travel?\n"
        + str(tabulate(rows_of(found), headers=list(HEADER), disable_numparse=True))
    )
    print(f"report:  xdg-open {folder / 'portability.html'}")


if __name__ == "__main__":
    sys.exit(over_tasks(sys.argv[1:]))
