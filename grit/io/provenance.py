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

#: Says which commit this is where there is no checkout: Ray leaves `.git` out of a submitted job's folder.
COMMIT_VARIABLE = "GRIT_COMMIT"
#: What a run's numbers depend on.
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def provenance(root: Path, packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Versions of `packages`, git commit, hardware and command line of this process.

    Outside a checkout the commit is what the environment variable `GRIT_COMMIT` says (`git describe
    --always --dirty --abbrev=40` ends in `-dirty` where files are changed), and None without it.
    """

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status, commit = git("status", "--porcelain"), git("rev-parse", "HEAD")
    dirty = None if status is None else bool(status)
    submitted = os.environ.get(COMMIT_VARIABLE)
    if commit is None and submitted:
        commit, dirty = submitted.removesuffix("-dirty"), submitted.endswith("-dirty")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
        "git_commit": commit,
        "git_dirty": dirty,
        "command_line": [without_secrets(word) for word in sys.argv],
    }
