"""Files that carry the version of their schema.

What an older version wrote is migrated, what a newer one wrote is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from grit.errors import ConfigError

#: Of every file that this version writes. 1: all settings and measurements lay beside each other (version
#: 0.1).
SCHEMA_VERSION = 2

Migration = Callable[[dict[str, Any]], dict[str, Any]]


def upgraded(values: object, *, name: str, place: str, migrations: Mapping[int, Migration]) -> dict[str, Any]:
    """The values of a file as this version has them.

    Args:
        values: as read.
        name: what a person calls the folder that the file lies in.
        place: the file, for messages.
        migrations: by version, what makes the next version's values of it.

    Raises:
        ConfigError: it is no object, or was written by a newer version.
    """
    if not isinstance(values, dict):
        raise ConfigError(name, place, "is no JSON object")
    version = values.get("schema_version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigError(name, place, f"has no readable schema_version: {version!r}")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            name,
            place,
            f"was written by a newer version (schema {version}, this one reads up to {SCHEMA_VERSION}): "
            "update this project",
        )
    for step in range(version, SCHEMA_VERSION):
        values = migrations[step](values)
    return {**values, "schema_version": SCHEMA_VERSION}
