"""Modules of the user's that add to what is declared here: methods, metrics, tasks.

`GRIT_EXTENSIONS=my_methods,my_metrics` names them; every process of a run or a study imports them before it
reads a configuration, and their sources are part of every trial's identity. They must be importable there
(`PYTHONPATH`), and fill registries when they are imported: `METHODS["mine"] = MethodSpec(...)`.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from grit.errors import ConfigError
from grit.io.hashing import digest

VARIABLE = "GRIT_EXTENSIONS"


def load_extensions() -> dict[str, str]:
    """Imports them.

    Returns:
        A hash of each one's source, by name.

    Raises:
        ConfigError: one cannot be imported.
    """
    hashes = {}
    for name in os.environ.get(VARIABLE, "").replace(",", " ").split():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(VARIABLE, name, f"cannot be imported: {error}; see PYTHONPATH") from error
        hashes[name] = digest(Path(module.__file__).read_text(encoding="utf8") if module.__file__ else name)
    return hashes
