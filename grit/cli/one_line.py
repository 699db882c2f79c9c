"""Bad input in one line and exit code 2, for every parser here."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn


class OneLineErrors(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(2, f"error: {message}{self._meant(message)} (see --help)\n")

    def _meant(self, message: str) -> str:
        """The option that an unknown one may have been meant for."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        options = [name for name in self._option_string_actions if name.startswith("--")]
        nearest = difflib.get_close_matches(unknown[0].partition("=")[0], options, n=1) if unknown else []
        return f"; did you mean {nearest[0]}?" if nearest else ""
