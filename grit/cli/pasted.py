"""Commands as they can be pasted into a shell, and where that is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def pasted(*words: str | Path) -> str:
    """One command, quoted where a word has blanks or a shell's own characters.

    The program's path is as short as it can be from where this process was started.
    """
    program, *rest = (str(word) for word in words)
    here = Path.cwd()
    if Path(program).is_relative_to(here):
        program = str(Path(program).relative_to(here))
    return shlex.join([program, *rest])


def command_into(
    output: Path,
    words_given: Sequence[str] | None = None,
    *,
    without: Sequence[str] = (),
    more: Sequence[str] = (),
) -> str:
    """A command with this `--output` instead of its own.

    Args:
        output: the folder.
        words_given: script and options; this process's own without it.
        without: options that are left out with their values.
        more: words that are added.
    """
    words, left_out = list[str](), False
    for word in sys.argv if words_given is None else words_given:
        if word.startswith("--"):
            left_out = word.partition("=")[0] in ("--output", *without)
        if not left_out:
            words.append(word)
    return pasted(sys.executable, *words, *more, "--output", output)
