"""Backbones that have a name of their own: the embedded one, committed beside this file, and SmolLM2."""

from __future__ import annotations

from pathlib import Path

from grit.backbone.smollm2 import SMOLLM2, smollm2_folder

WEIGHTS = Path(__file__).parent / "weights"

#: The name by which command lines ask for the embedded backbone.
EMBEDDED = "embedded"


def resolve(model: str) -> str:
    """A model id or path as `from_pretrained` takes it.

    `embedded` is the backbone that ships with this package, `smollm2-135m` one fetched when first used.

    Raises:
        ConfigError: SmolLM2 cannot be had.
    """
    if model == SMOLLM2:
        return str(smollm2_folder())
    return str(WEIGHTS) if model == EMBEDDED else model
