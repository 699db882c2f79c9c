"""How a setting is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from grit.secrets import without_secrets

#: More names than this are not listed in a line.
_LISTED = 20


class ConfigError(ValueError):
    """A setting that cannot be used: one line with its name, its value and what is allowed.

    Credentials in addresses are left out of the line.
    Command lines print the message and leave with exit code 2 before anything is launched.
    """

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(without_secrets(f"{name} = {_as_typed(value)}: {allowed}"))
        self.name, self.value, self.allowed = name, value, allowed

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str]]:
        """Pickle by the three parts, so that the error survives a trip between processes."""
        return type(self), (self.name, self.value, self.allowed)


def _as_typed(value: object) -> str:
    """A value as it was given: a text's backslashes are not doubled."""
    plain = isinstance(value, str) and value.isprintable() and "'" not in value
    return f"'{value}'" if plain else repr(value)


def reason(error: Exception) -> str:
    """Why a file cannot be used, in a line; its path is left to the name beside it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def among(value: object, names: Iterable[str], *, reference: str = "") -> str:
    """What is allowed of a name that is none of `names`: the nearest one first, and all if they are few.

    Args:
        value: what was given.
        names: what could be.
        reference: where many names are listed.
    """
    words = [str(name) for name in names]
    meant = nearest(str(value), words)
    allowed = f"must be one of {', '.join(words)}" if len(words) <= _LISTED else reference
    return allowed if meant is None else f"did you mean {meant!r}? {allowed}".strip()


def nearest(word: str, words: list[str]) -> str | None:
    """The one that `word` may have been meant for; None where none is near."""
    return next(iter(difflib.get_close_matches(word, words, n=1)), None)
