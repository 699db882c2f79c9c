"""`--help-fields`: every setting of a run, read off the declarations."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from grit.config.declared_knobs import KNOBS
from grit.config.run_config import RUN_SECTIONS
from grit.config.settings import declared, words_of

#: Columns of a terminal that the lines keep to.
WIDTH = 100


class ListedSetting(NamedTuple):
    """One setting as people read of it; `allowed` is empty where its type says enough."""

    section: str
    name: str
    knob: str | None
    default: str
    help: str
    allowed: str
    waits_for: str


def listed_settings() -> Iterator[ListedSetting]:
    """Every setting of a run, section by section."""
    knobs = {knob.field: name for name, knob in KNOBS.items()}
    for section, kind in RUN_SECTIONS.items():
        words = words_of(kind)
        for item, declaration in declared(kind):
            allowed = "" if declaration.allowed is None else declaration.allowed.words
            if words[item.name]:
                allowed = f"must be one of {', '.join(words[item.name])}"
            yield ListedSetting(
                section=section,
                name=item.name,
                knob=knobs.get(item.name),
                default=_shown(item.default),
                help=declaration.help,
                allowed=allowed,
                waits_for=" or ".join(sorted(declaration.waits_for)),
            )


def _shown(default: object) -> str:
    if default is None:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def field_lines() -> Iterator[str]:
    """Section by section: name and default, then what the setting does and what is allowed."""
    for section, settings in groupby(listed_settings(), key=attrgetter("section")):
        yield f"{section}:"
        for setting in settings:
            knob = f" ({setting.knob})" if setting.knob else ""
            yield f"  {setting.name}{knob} = {setting.default}"
            words = "; ".join(filter(None, (setting.help, setting.allowed)))
            yield textwrap.fill(words, WIDTH, initial_indent="      ", subsequent_indent="      ")


class HelpFields(argparse.Action):
    """Prints the settings and ends the process, like `--help`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="list every setting that --set and --point take", **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Ends the process."""
        print("\n".join(field_lines()))
        parser.exit()
