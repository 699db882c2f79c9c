"""Checkpoints of one run: written whole or not at all, and holding all that decides the next step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grit.runtime.checkpoint_files import CHECKPOINT_FILE

FILE = CHECKPOINT_FILE


def save(folder: Path, state: dict[str, Any]) -> None:
    """Writes `state` atomically: a reader finds the previous checkpoint or this one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    with partial.open("wb") as handle:
        torch.save(state, handle)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(folder / FILE)


def exists(folder: Path) -> bool:
    """Whether there is one."""
    return (folder / FILE).exists()


def load(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint, or None."""
    if not exists(folder):
        return None
    state: dict[str, Any] = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    return state


def discard(folder: Path) -> None:
    """Removes the checkpoint of a finished run."""
    (folder / FILE).unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def adapter_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the trained parameters by name."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def load_adapter_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Restores `adapter_state()`."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(state[name])
