"""Plain values into typed objects, with one clear line for what does not fit."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from grit.errors import ConfigError


def refusal(error: ValidationError, name: str | None = None) -> ConfigError:
    """The first thing that pydantic found wrong, in one line; `name` goes before its place."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return cause
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    return ConfigError(".".join(filter(None, (name, place))) or "value", first.get("input"), message)


def validated(adapter: TypeAdapter[Any], values: object, name: str | None = None) -> Any:
    """What `adapter` makes of plain values: no unknown name, no text for a number.

    Raises:
        ConfigError: with the place, the value and what is allowed.
    """
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        raise refusal(error, name) from None
