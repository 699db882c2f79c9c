"""GRIT and Q-GRIT: geometry-aware LoRA, and the trainer that measures it. Names are imported on first use, so that reading records needs no torch."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grit.config import GritConfig
    from grit.errors import ConfigError
    from grit.export import export_adapter
    from grit.handle import GritHandle, attach
    from grit.result import RunResult
    from grit.run_config import RunConfig
    from grit.trainer import train
    from grit.workbench import Workbench

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of an optional kernel package at every import

_HOMES = {
    "GritConfig": "grit.config", "ConfigError": "grit.errors", "GritHandle": "grit.handle",
    "attach": "grit.handle", "export_adapter": "grit.export",
    "RunResult": "grit.result", "RunConfig": "grit.run_config", "train": "grit.trainer", "Workbench": "grit.workbench",
}

__all__ = ["ConfigError", "GritConfig", "GritHandle", "RunConfig", "RunResult", "Workbench", "attach", "export_adapter", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'grit' has no attribute {name!r}")
