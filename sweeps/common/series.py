"""Several studies, one after the other, each in a folder of its own below one.

Over tasks, over backbones, or one audit after another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grit.cli.one_line import EXIT_BAD_INPUT
from grit.errors import ConfigError
from ray_jobs.records.study_file import STUDY_FILE
from sweeps.common.plan_forecast import PlanForecast, series_line
from sweeps.common.request import CommandLine
from sweeps.common.script import StudyScript


@dataclass(frozen=True, kw_only=True)
class Member:
    """One study of a series: what the terminal calls it, its folder's name, its script and its options."""

    label: str
    place: str
    script: StudyScript
    line: CommandLine


def in_turn(name: str, kind: str, members: Sequence[Member], conclude: Callable[[Path], None]) -> int:
    """Runs the studies, then what they come to together; stops at the first that does not end well.

    Args:
        name: of the series, for its default folder.
        kind: what a member is, for the terminal.
        members: in order; they share `--output`, which is the folder of all, and `--resume`, which reaches
            those whose turn had come.
        conclude: writes and prints what the folder holds; not called where nothing was launched.

    Returns:
        The exit code.
    """
    shared = members[0].line.execution
    for option in ("study", "save_study"):
        if getattr(shared, option) is not None:
            print(f"error: --{option.replace('_', '-')}: is for one study; this is a series", file=sys.stderr)
            return EXIT_BAD_INPUT
    if shared.resume and shared.output is None:
        print("error: resume = True: needs --output: the folder of the studies to continue", file=sys.stderr)
        return EXIT_BAD_INPUT
    folder = shared.output or Path("results") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    plans: list[PlanForecast] = []
    for number, member in enumerate(members, 1):
        print(f"{kind} {number} of {len(members)}: {member.label}", file=sys.stderr, flush=True)
        place = folder / member.place
        begun = (place / STUDY_FILE).exists()
        execution = replace(member.line.execution, output=place, resume=shared.resume and begun)
        if code := member.script.run(replace(member.line, execution=execution), plans.append):
            return code
    if shared.dry_run:
        print("\n" + series_line(plans, usd_per_gpu_hour=shared.usd_per_gpu_hour))
        return 0
    try:
        conclude(folder)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0
