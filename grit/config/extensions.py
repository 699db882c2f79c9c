"""Modules of the user's that add to what is declared here: methods and metrics.

`GRIT_EXTENSIONS=my_methods,my_metrics` names them; every process of a run or a study imports them before it
reads a configuration, and their sources are part of every trial's identity. They must be importable there
(`PYTHONPATH`), and fill registries when they are imported: `METHODS["mine"] = MethodSpec(...)`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

from grit.errors import ConfigError
from grit.io.hashing import digest

VARIABLE = "GRIT_EXTENSIONS"
#: Where a module keeps the hash of the source that was imported.
_HASH = "__grit_source_hash__"


def load_extensions() -> dict[str, str]:
    """Imports them.

    Returns:
        A hash of each one's source as it was imported, by name; of a package, of all its modules.

    Raises:
        ConfigError: one cannot be imported.
    """
    hashes: dict[str, str] = {}
    for name in os.environ.get(VARIABLE, "").replace(",", " ").split():
        try:
            module = importlib.import_module(name)
        # whatever somebody else's module raises is told in the one line that it needs
        except Exception as error:  # noqa: BLE001
            why = f"cannot be imported: {type(error).__name__}: {error} (see PYTHONPATH)"
            raise ConfigError(VARIABLE, name, why) from error
        if not hasattr(module, _HASH):
            setattr(module, _HASH, _source_hash(module))
        hashes[name] = getattr(module, _HASH)
    return hashes


def _source_hash(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    if file is None:
        return digest(module.__name__)
    place = Path(file)
    sources = sorted(place.parent.rglob("*.py")) if hasattr(module, "__path__") else [place]
    return digest([[source.name, blake2b(source.read_bytes()).hexdigest()] for source in sources])


def extensions_digest() -> str | None:
    """One hash of all of them; None without any.

    Raises:
        ConfigError: one cannot be imported.
    """
    hashes = load_extensions()
    return digest(hashes) if hashes else None


def check_extensions(expected: str | None) -> None:
    """Refuses to go on with other extensions than those that trials were planned with.

    Raises:
        ConfigError: they are not the same here.
    """
    if extensions_digest() != expected:
        raise ConfigError(
            VARIABLE,
            os.environ.get(VARIABLE),
            "is not what the study was planned with: set it, and PYTHONPATH, for the workers of every node, "
            "to the same modules",
        )


def check_named(made_with: Iterable[str]) -> None:
    """Refuses to read what was made with extensions that are not loaded.

    Raises:
        ConfigError: with their names.
    """
    loaded = load_extensions()
    missing = [name for name in made_with if name not in loaded]
    if missing:
        raise ConfigError(
            VARIABLE,
            os.environ.get(VARIABLE),
            f"must name {', '.join(missing)}, which this was made with (and PYTHONPATH must lead there)",
        )
