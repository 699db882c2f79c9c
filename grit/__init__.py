"""GRIT and Q-GRIT: geometry-aware LoRA, and the trainer that measures it.

Names are imported on first use, so that reading records needs no torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grit.config.method import GritConfig
    from grit.config.run_config import RunConfig
    from grit.errors import ConfigError
    from grit.geometry.attach import attach
    from grit.geometry.export import export_adapter
    from grit.geometry.handle import GritHandle
    from grit.integrations.trainer_callback import GritCallback
    from grit.training.result import RunResult
    from grit.training.trainer import train
    from grit.training.workbench import Workbench

logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # it tells of an optional kernel package at every import

_HOMES = {
    "GritConfig": "grit.config.method",
    "ConfigError": "grit.errors",
    "GritHandle": "grit.geometry.handle",
    "GritCallback": "grit.integrations.trainer_callback",
    "attach": "grit.geometry.attach",
    "export_adapter": "grit.geometry.export",
    "RunResult": "grit.training.result",
    "RunConfig": "grit.config.run_config",
    "train": "grit.training.trainer",
    "Workbench": "grit.training.workbench",
}

__all__ = [
    "ConfigError",
    "GritCallback",
    "GritConfig",
    "GritHandle",
    "RunConfig",
    "RunResult",
    "Workbench",
    "attach",
    "export_adapter",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'grit' has no attribute {name!r}")
