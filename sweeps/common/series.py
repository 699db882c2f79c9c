"""Several studies, one after the other, each in a folder of its own below one.

Over tasks, over backbones, or one audit after another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from grit.errors import ConfigError
from sweeps.common.command import EXIT_BAD_INPUT


class Member(NamedTuple):
    """One study of a series.

    What the terminal calls it, its folder's name, and what runs it on a command line.
    """

    label: str
    place: str
    run: Callable[[list[str]], int]


def in_turn(
    name: str,
    kind: str,
    members: Sequence[Member],
    output: Path | None,
    rest: Sequence[str],
    conclude: Callable[[Path], None],
) -> int:
    """Runs the studies, then what they come to together; stops at the first that does not end well.

    Args:
        name: of the series, for its default folder.
        kind: what a member is, for the terminal.
        members: in order.
        output: the folder of all; None for a new one.
        rest: the options that all members share; `--resume` reaches those whose turn had come.
        conclude: writes and prints what the folder holds; not called for a dry run.

    Returns:
        The exit code.
    """
    if "--resume" in rest and output is None:
        print("error: resume = True: needs --output: the folder of the studies to continue", file=sys.stderr)
        return EXIT_BAD_INPUT
    folder = output or Path("results") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number, member in enumerate(members, 1):
        print(f"{kind} {number} of {len(members)}: {member.label}", file=sys.stderr, flush=True)
        begun = (folder / member.place / "study.json").exists()
        options = [option for option in rest if option != "--resume" or begun]
        if code := member.run([*options, "--output", str(folder / member.place)]):
            return code
    if "--dry-run" in rest:
        return 0
    try:
        conclude(folder)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0
