"""By which settings two runs differ, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from grit.config.declared_knobs import KNOB_OF
from grit.config.run_config import RunConfig

#: How many differences are named.
NAMED_DIFFERENCES = 4
_CONFIG = TypeAdapter(RunConfig)


def difference(name: str, there: object, here: object) -> str:
    """One thing that is not the same."""
    return f"{name} {there} there, {here} here"


def as_read(config: RunConfig) -> RunConfig:
    """As a file gives it back: a whole number of a setting that need not be whole has become a float."""
    return _CONFIG.validate_json(_CONFIG.dump_json(config))


def setting_differences(there: RunConfig, here: RunConfig) -> list[str]:
    """Every setting that decides the result and differs.

    Args:
        there: as a file has it.
        here: as it is asked for.
    """
    earlier, asked = (_flat(each.decisive_settings()) for each in (there, as_read(here)))
    apart = [name for name in earlier if name in asked and earlier[name] != asked[name]]
    return [difference(name, earlier[name], asked[name]) for name in apart]


def in_few_words(differences: Sequence[str]) -> str:
    """The first differences, and how many more there are."""
    named = list(differences[:NAMED_DIFFERENCES])
    if len(differences) > NAMED_DIFFERENCES:
        named.append(f"and {len(differences) - NAMED_DIFFERENCES} more")
    return "; ".join(named)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """By name, or their knob's; those of a section in the place of the section."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(value, Mapping):
            flat[name] = value
            continue
        prefix = f"{name} " if name in ("budget", "task") else ""
        own = {f"{prefix}{KNOB_OF.get(key, key)}": each for key, each in value.items()}
        flat |= {key: each for key, each in own.items() if key not in flat}
    return flat
