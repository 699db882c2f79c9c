"""`--help-fields`: every setting of a run, read off the declarations."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import Any

from grit.config.method import KNOBS
from grit.config.run_config import RUN_SECTIONS
from grit.config.settings import declared

#: Columns of a terminal that the lines keep to.
WIDTH = 100


def field_lines() -> Iterator[str]:
    """Section by section: name and default, then what the setting does and what is allowed."""
    short_names = {knob.field: name for name, knob in KNOBS.items()}
    for section, kind in RUN_SECTIONS.items():
        yield f"{section}:"
        for item, declaration in declared(kind):
            short = f" ({short_names[item.name]})" if item.name in short_names else ""
            default = "none" if item.default is None else item.default
            yield f"  {item.name}{short} = {default}"
            words = declaration.help
            if declaration.allowed is not None:
                words += f"; {declaration.allowed.words}"
            yield textwrap.fill(words, WIDTH, initial_indent="      ", subsequent_indent="      ")


class HelpFields(argparse.Action):
    """Prints the settings and ends the process, like `--help`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="list every setting that --set and --point take", **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Ends the process."""
        print("\n".join(field_lines()))
        parser.exit()
