"""Bad input in one line and exit code 2, for every parser here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from grit.config.extensions import load_extensions
from grit.errors import ConfigError, among, nearest

_UNKNOWN = "unrecognized arguments: "
#: Of every command here: bad input, Ctrl-C.
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


class OneLineErrors(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, which names what is missing before it looks at what is misspelt.

        What extensions declare may be named.
        """
        try:
            load_extensions()
        except ConfigError as error:
            self.exit(EXIT_BAD_INPUT, f"error: {error}\n")
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        if message.startswith("the following arguments are required"):
            misspelt = [word for word in self._words if self._is_unknown(word)]
            message = _UNKNOWN + " ".join(misspelt) if misspelt else message
        self.exit(EXIT_BAD_INPUT, f"error: {message}{self._meant(message)} (see --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does; says the nearest choice first."""
        if action.choices is not None and value not in action.choices:
            every = f"must be one of {', '.join(map(str, action.choices))}"
            raise argparse.ArgumentError(
                action, f"{value!r}: {among(value, action.choices, reference=every)}"
            )

    def _is_unknown(self, word: str) -> bool:
        return word.startswith("--") and word.partition("=")[0] not in self._options()

    def _options(self) -> list[str]:
        """Of this parser, and of the commands below it."""
        return [name for parser in (self, *self._commands()) for name in parser._option_string_actions]

    def _commands(self) -> Iterator[argparse.ArgumentParser]:
        """The one that is named; all of them where none is."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                named = [parser for name, parser in action.choices.items() if name in self._words]
                yield from named or action.choices.values()

    def _meant(self, message: str) -> str:
        """The option that an unknown one may have been meant for."""
        unknown = message.partition(_UNKNOWN)[2].split()
        options = [name for name in self._options() if name.startswith("--")]
        meant = nearest(unknown[0].partition("=")[0], options) if unknown else None
        return "" if meant is None else f"; did you mean {meant}?"
