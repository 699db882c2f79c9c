"""What a model and an optimizer must be before hooks go in: refused at once, and by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.copied_hooks import FixedGate
from grit.capture.label_positions import Layout
from grit.capture.passes import is_attached
from grit.errors import ConfigError

#: Wrappers whose parameters are pieces of others.
_SHARDING = ("FullyShardedDataParallel", "DeepSpeedEngine")
#: Parts of a configuration that tell of inputs which are no text.
_OTHER_INPUTS = ("vision_config", "audio_config", "speech_config")


def check_layout(layout: str | None) -> None:
    """Refuses a layout of labels that does not exist.

    Raises:
        ConfigError: it is unknown.
    """
    if layout is not None and layout not in get_args(Layout):
        raise ConfigError("labels", layout, f"must be one of {', '.join(get_args(Layout))}")


def check_bare(model: nn.Module) -> None:
    """Refuses wrappers: hooks belong on the model that is wrapped.

    Raises:
        ConfigError: the model is compiled, data-parallel or sharded already.
    """
    name = type(model).__name__
    for module in model.modules():
        if type(module).__name__ in _SHARDING:
            raise ConfigError(
                "model", type(module).__name__, "shards its parameters, and GRIT needs whole factors: use DDP"
            )
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise ConfigError("model", name, "is compiled already: attach to the model before torch.compile")
    if isinstance(model, DistributedDataParallel | DataParallel):
        raise ConfigError("model", name, "is a wrapper: attach to its .module, before wrapping it")


def bare_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer itself, out of what Accelerate and others wrap around it.

    Raises:
        ConfigError: it is none, or takes several looks at the loss in one step.
    """
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError("optimizer", type(optimizer).__name__, "must be a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(
            "optimizer",
            "LBFGS",
            "computes the loss several times in one step; GRIT preconditions one gradient",
        )
    return optimizer


def check_trained(layers: Sequence[AdaptedLayer], optimizer: torch.optim.Optimizer) -> None:
    """Both factors of every layer are whole, trainable, the optimizer's, and nobody else's.

    Raises:
        ConfigError: one is not.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    owners: dict[int, str] = {}
    for layer in layers:
        if any(isinstance(hook, FixedGate) for hook in layer.down._forward_hooks.values()):
            raise ConfigError(
                "model",
                layer.name,
                "is a copy with a gate of GRIT's in it: detach() the original, then copy it",
            )
        if is_attached(layer.down):
            raise ConfigError("model", layer.name, "has GRIT attached already: handle.detach() first")
        for letter, weight in (("A", layer.down.weight), ("B", layer.up.weight)):
            if owners.setdefault(id(weight), layer.name) != layer.name:
                raise ConfigError(
                    "model", layer.name, f"shares its {letter} with {owners[id(weight)]}; each needs its own"
                )
            if isinstance(weight, DTensor) or hasattr(weight, "ds_id"):
                raise ConfigError(
                    "model", layer.name, "has sharded weights (FSDP, ZeRO-3), and GRIT needs whole factors"
                )
            if weight.is_meta:
                raise ConfigError("model", layer.name, "has no weights yet: it is on the meta device")
            if id(weight) not in trained:
                raise ConfigError(
                    "optimizer",
                    type(optimizer).__name__,
                    f"does not train the adapter of {layer.name} ({letter})",
                )
            if not weight.requires_grad:
                raise ConfigError(
                    "model",
                    layer.name,
                    f"its {letter} is frozen, and GRIT would move it: reprojection acts on both factors",
                )


def check_reads_text(model: nn.Module, layers: Sequence[AdaptedLayer]) -> None:
    """In a model that reads more than text, only layers of its text part see the positions of its inputs.

    Raises:
        ConfigError: another one is adapted.
    """
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    config = getattr(inner, "config", None)
    if not any(getattr(config, name, None) is not None for name in _OTHER_INPUTS):
        return
    if not hasattr(inner, "get_decoder"):
        return
    inside = {id(module) for module in inner.get_decoder().modules()}
    head = inner.get_output_embeddings()
    for layer in layers:
        module = model.get_submodule(layer.name)
        if id(module) not in inside and layer.base is not head and module is not head:
            raise ConfigError(
                "model",
                layer.name,
                "lies outside the text part of this model, and reads other positions than its labels have: "
                "adapt the language model alone (target_modules of LoraConfig)",
            )
