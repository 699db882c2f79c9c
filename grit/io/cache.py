"""The folder in which this project keeps what it fetched or measured on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/grit-sweeps`, or `~/.cache/grit-sweeps`; it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "grit-sweeps"
