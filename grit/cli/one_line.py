"""Bad input in one line and exit code 2, for every parser here."""

from __future__ import annotations

import argparse
from typing import NoReturn

from grit.errors import nearest


class OneLineErrors(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(2, f"error: {message}{self._meant(message)} (see --help)\n")

    def _meant(self, message: str) -> str:
        """The option that an unknown one may have been meant for."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        options = [name for name in self._option_string_actions if name.startswith("--")]
        meant = nearest(unknown[0].partition("=")[0], options) if unknown else None
        return "" if meant is None else f"; did you mean {meant}?"
