"""Bad input in one line and exit code 2, for every parser here."""

from __future__ import annotations

import argparse
import functools
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, ParamSpec

from grit.config.extensions import load_extensions
from grit.errors import ConfigError, among, nearest

ArgsT = ParamSpec("ArgsT")
#: argparse's own words for a value of the wrong kind, and ours.
_KINDS = {"int": "must be a whole number, not ", "float": "must be a number, not "}
_UNKNOWN = "unrecognized arguments: "
#: Of every command here: bad input, Ctrl-C.
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
#: Of a command that was not done when its reader left, as a shell counts SIGPIPE.
EXIT_PIPE = 141


def ends_with_its_reader(command: Callable[ArgsT, int]) -> Callable[ArgsT, int]:
    """A command that ends quietly where whoever reads its output has enough (`| head`)."""

    @functools.wraps(command)
    def run(*args: ArgsT.args, **kwargs: ArgsT.kwargs) -> int:
        code = EXIT_PIPE
        try:
            code = command(*args, **kwargs)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            if not _reader_has_left():
                raise
        return code

    return run


def _reader_has_left() -> bool:
    """Whether standard output is read no more; what is left of it then goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError):  # there is none, or it is no file
        return False
    looked_at = select.poll()
    looked_at.register(output, 0)
    if not looked_at.poll(0):  # a pipe with both its ends has nothing to tell
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


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
        for kind, allowed in _KINDS.items():
            message = message.replace(f"invalid {kind} value: ", allowed)
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
