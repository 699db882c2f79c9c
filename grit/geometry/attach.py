"""`attach`: GRIT on any PEFT LoRA model and any torch optimizer, through hooks alone."""

from __future__ import annotations

import torch
from torch import nn

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers, task_type
from grit.adapters.quantization import is_quantized
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.handle import GritHandle
from grit.geometry.label_positions import Layout, layout_of
from grit.runtime.clock import NoClock, StepClock


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: GritConfig,
    *,
    labels: Layout | None = None,
    clock: StepClock | None = None,
    adapter: str = "default",
) -> GritHandle:
    """Makes `optimizer` train `model`'s LoRA adapter with GRIT; the training loop needs no other change.

    The model must be called with `labels` (and `attention_mask`, when it is padded), so that padding, labels
    and the loss's scale are known. Gradients should be clipped by `max_grad_norm` here, after
    preconditioning, and not by the loop before it.

    Args:
        model: a PEFT model with a LoRA adapter on linear layers.
        optimizer: any torch optimizer that trains it.
        config: the switches.
        labels: how labels line up with positions; None finds it from the adapter's task type or the model's
            class.
        clock: charged with the time GRIT takes, for loops that keep one.
        adapter: the adapter's name.

    Raises:
        ConfigError: the model has no plain LoRA adapter of that name, the optimizer does not train it, how
            its labels line up is not known, or the configuration asks for something that this model cannot
            do.
    """
    layers = adapted_layers(model, adapter)
    _check_support(layers, optimizer, config)
    layout = labels or layout_of(model, task_type(model, adapter))
    return GritHandle(model, optimizer, config, layers=layers, layout=layout, clock=clock or NoClock())


def _check_support(
    layers: tuple[AdaptedLayer, ...], optimizer: torch.optim.Optimizer, config: GritConfig
) -> None:
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for layer in layers:
        if id(layer.down.weight) not in trained and id(layer.up.weight) not in trained:
            raise ConfigError(
                "optimizer", type(optimizer).__name__, f"does not train the adapter of {layer.name}"
            )
    if config.quantization_damping and not any(is_quantized(layer.base) for layer in layers):
        raise ConfigError(
            "quantization_damping",
            config.quantization_damping,
            "needs a 4-bit backbone, and no adapted layer of this model is quantized",
        )
