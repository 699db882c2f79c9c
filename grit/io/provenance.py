"""Where a result comes from: versions, commit, machine, command line."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from grit.secrets import without_secrets

#: What a run's numbers depend on.
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def provenance(root: Path, packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Versions of `packages`, git commit (None outside a checkout).

    Hardware and command line of this process.
    """

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
        "command_line": [without_secrets(word) for word in sys.argv],
    }
