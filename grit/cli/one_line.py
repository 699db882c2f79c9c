"""Bad input in one line and exit code 2, for every parser here."""

from __future__ import annotations

import argparse
from typing import NoReturn


class OneLineErrors(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(2, f"error: {message} (see --help)\n")
