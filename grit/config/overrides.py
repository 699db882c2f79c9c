"""Settings by name, as people write them: `field=value` laid over a configuration."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

from grit.config.declared_knobs import ALIASES
from grit.config.run_config import RUN_SECTIONS, Overrides, RunConfig, section_of
from grit.errors import ConfigError

#: What tau moves where ranks grow.
_GROWTH = "rank_growth_threshold"


def with_overrides(config: RunConfig, overrides: Overrides) -> RunConfig:
    """`config` with knobs (tau, T, lambda) or any setting of any section replaced.

    Where ranks grow, tau is the share of the energy that may not lie outside: it moves the growth threshold
    to 1 - tau, unless that is named as well.

    Raises:
        ConfigError: an unknown name, or a value that its field does not allow.
    """
    for name in overrides:
        section_of(name)  # a run's own fields (seed, budget, method) are no settings
    for name, value in overrides.items():
        held = config.spec.switches.get(ALIASES.get(name, name), value)
        if held != value:
            raise ConfigError(name, value, f"is {held} in method {config.method}, which is made of it")
    changed = config.changed(**overrides)
    moved = {ALIASES.get(name, name) for name in overrides}
    if changed.grit.rank_policy != "growth" or ALIASES["tau"] not in moved or _GROWTH in moved:
        return changed
    return changed.changed(**{_GROWTH: _outside(changed.grit.tau)})


def _outside(tau: float) -> float:
    """1 - tau as people would write it, without the last bits of a binary fraction."""
    return float(f"{1 - tau:.12g}")


def parse_setting(text: str, option: str = "set") -> tuple[str, Any]:
    """`field=value` with the value read as JSON where it is JSON, else as text.

    `none` is the word where the field has it among its words (preconditioner=none), else it is None.

    Raises:
        ConfigError: there is no `=`; named after `option`.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(option, text, "must look like field=value")
    if value.lower() == "none":
        return name, "none" if "none" in _words(name) else None
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    return name, tuple(parsed) if isinstance(parsed, list) else parsed


def _words(name: str) -> tuple[Any, ...]:
    """The words that a setting allows; none where it is no choice of words, or unknown."""
    try:
        section = section_of(name)
    except ConfigError:
        return ()
    return get_args(get_type_hints(RUN_SECTIONS[section])[ALIASES.get(name, name)])


def parse_cadence(text: str) -> int | None:
    """T from a command line: a whole number of steps, or `none`.

    Raises:
        ConfigError: it is neither.
    """
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            "T (reprojection_freq)", text, "must be a whole number of at least 1, or none"
        ) from None
