"""How a setting is refused."""

from __future__ import annotations

from grit.secrets import without_secrets


class ConfigError(ValueError):
    """A setting that cannot be used: one line with its name, its value and what is allowed.

    Credentials in addresses are left out of the line.
    Command lines print the message and leave with exit code 2 before anything is launched.
    """

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(without_secrets(f"{name} = {value!r}: {allowed}"))
        self.name, self.value, self.allowed = name, value, allowed

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str]]:
        """Pickle by the three parts, so that the error survives a trip between processes."""
        return type(self), (self.name, self.value, self.allowed)
