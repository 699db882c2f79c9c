"""Commands as they can be pasted into a shell, and where that is."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from grit.secrets import without_secrets

#: What begins an option, and not a value below zero.
_OPTION = re.compile(r"--?[A-Za-z]")


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
    for word in own_words() if words_given is None else words_given:
        if _OPTION.match(word):
            left_out = word.partition("=")[0] in ("--output", *without)
        if not left_out:
            words.append(word)
    return pasted(sys.executable, *words, *more, "--output", output)


def own_words() -> list[str]:
    """This process's script and options; of a package that was run by name, `-m` and its name."""
    program, *options = sys.argv
    return ["-m", Path(program).parent.name, *options] if Path(program).name == "__main__.py" else sys.argv


def goes_on(folder: Path, words_given: Sequence[str] | None = None) -> str:
    """How a study goes on that has ended early: in words, and as a command on a line, without credentials."""
    own = folder_of_command(folder, sys.argv if words_given is None else words_given)
    return without_secrets(
        f"the same command with --output {own} goes on:\n  {command_into(own, words_given)}"
    )


def folder_of_command(folder: Path, words: Sequence[str]) -> Path:
    """What a command's `--output` is whose study lies in `folder`: that, or for a series, what holds it."""
    own = next((words[i + 1] for i, word in enumerate(words[:-1]) if word == "--output"), None)
    own = next((word.partition("=")[2] for word in words if word.startswith("--output=")), own)
    above = folder.absolute().parent
    if own is not None:
        is_member = Path(own).name == above.name != folder.absolute().name
    else:
        is_member = bool(words) and above.name.startswith(f"{Path(words[0]).stem}-")
    return folder.parent if is_member else folder
