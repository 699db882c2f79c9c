"""Settings by name, as people write them: `field=value` laid over a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from grit.config.method import KNOBS, GritConfig
from grit.config.run import RunConfig
from grit.errors import ConfigError

_GRIT_FIELDS = {item.name for item in fields(GritConfig)}
_RUN_FIELDS = {item.name for item in fields(RunConfig)} - {"grit", "task", "budget", "seed", "method"}

Overrides = Mapping[str, Any]


def with_overrides(config: RunConfig, overrides: Overrides) -> RunConfig:
    """`config` with knobs (tau, T, lambda) or any field of GritConfig or RunConfig replaced.

    Raises:
        ConfigError: an unknown name, or a value that its field does not allow.
    """
    grit: dict[str, Any] = {}
    run: dict[str, Any] = {}
    for name, value in overrides.items():
        target = KNOBS.get(name, name)
        if target in _GRIT_FIELDS:
            grit[target] = value
        elif target in _RUN_FIELDS:
            run[target] = value
        else:
            raise ConfigError(
                "knob",
                name,
                f"must be tau, T, lambda, or one of {', '.join(sorted(_GRIT_FIELDS | _RUN_FIELDS))}",
            )
    return replace(config, grit=replace(config.grit, **grit), **run)


def parse_setting(text: str) -> tuple[str, Any]:
    """`field=value` with the value read as JSON where it is JSON, else as text; `none` is None.

    Raises:
        ConfigError: there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("set", text, "must look like field=value")
    if value.lower() == "none":
        return name, None
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    return name, tuple(parsed) if isinstance(parsed, list) else parsed


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
