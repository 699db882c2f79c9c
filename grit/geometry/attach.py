"""`attach`: GRIT on any PEFT LoRA model and any torch optimizer, through hooks alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers, check_acts, task_type
from grit.adapters.quantization import is_quantized
from grit.capture.attachable import bare_optimizer, check_bare, check_layout, check_reads_text, check_trained
from grit.capture.label_positions import Layout, layout_of
from grit.capture.token_samples import TokenSamples, token_samples
from grit.config.first_effect import idle_schedules
from grit.config.method import GritConfig
from grit.data.encode import moved
from grit.errors import ConfigError
from grit.geometry.handle import GritHandle
from grit.runtime.clock import NoClock, StepClock

#: Optimizers that can work in a basis that changes: elementwise, with a first and a second moment at most.
TURNED = (torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.SGD)


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Any,
    config: GritConfig,
    *,
    labels: Layout | None = None,
    clock: StepClock | None = None,
    adapter: str = "default",
    verify: bool = True,
    total_steps: int | None = None,
    source: Iterable[Mapping[str, Tensor]] = (),
) -> GritHandle:
    """Makes `optimizer` train `model`'s LoRA adapter with GRIT; the training loop needs no other change.

    The model must be called with `labels` (and `attention_mask`, when it is padded), so that padding, labels
    and the loss's scale are known. Gradients should be clipped by `max_grad_norm` here, after
    preconditioning, and not by the loop before it.

    Args:
        model: a PEFT model with a LoRA adapter on linear layers; the bare one, before it is compiled or
            wrapped for data parallelism.
        optimizer: any torch optimizer that trains it, or what Accelerate made of one.
        config: the switches.
        labels: how labels line up with positions; None asks the adapter's task type or the model's class.
        clock: charged with the time GRIT takes, for loops that keep one.
        adapter: the adapter's name.
        verify: in the first two steps that show anything, hold what is captured against autograd's own
            gradients and the loss's scale against the gradient at the logits; a difference raises
            RuntimeError in that step. docs/reference/architectures.md says what it costs.
        total_steps: optimizer steps of the whole training, where known: what would not act within them is
            warned of by name (`GritConfig.for_steps` scales the schedules).
        source: batches of general text with `attention_mask` and `labels`, on which nothing is measured, for
            `source_weight` and `source_penalty`; the untuned model reads them once, now.

    Raises:
        ConfigError: the model has no plain LoRA adapter of that name that acts, the optimizer does not train
            it whole, the model is wrapped or has GRIT already, how its labels line up is not known, or the
            configuration asks for something that this model cannot do.
    """
    check_layout(labels)
    check_bare(model)
    optimizer = bare_optimizer(optimizer)
    layers = adapted_layers(model, adapter)
    check_acts(model, adapter)
    check_trained(layers, optimizer)
    check_reads_text(model, layers)
    _check_fit(layers, optimizer, config)
    _warn_of_idle(config, total_steps)
    layout = labels or layout_of(model, task_type(model, adapter))
    return GritHandle(
        model,
        optimizer,
        config,
        layers=layers,
        layout=layout,
        source=_samples(model, layers, config, layout, source),
        clock=clock or NoClock(),
        adapter=adapter,
        verify=verify,
    )


def _samples(
    model: Any,
    layers: tuple[AdaptedLayer, ...],
    config: GritConfig,
    layout: Layout,
    source: Iterable[Mapping[str, Tensor]],
) -> Sequence[TokenSamples]:
    if not config.knows_source:
        return ()
    name = "source_weight" if config.source_weight > 0 else "source_penalty"
    value = getattr(config, name)
    if layout != "causal":
        raise ConfigError(name, value, f"needs a causal language model, and this one's layout is {layout!r}")
    batches = list(source)
    if not batches:
        raise ConfigError(name, value, "needs general text: give attach(..., source=batches)")
    for batch in batches:
        for key in ("attention_mask", "labels"):
            if not isinstance(batch, Mapping) or key not in batch:
                raise ConfigError("source", f"a batch without {key}", "must have attention_mask and labels")
    here = [moved(batch, layers[0].down.weight.device) for batch in batches]
    return token_samples(model, layers, here, config.source_tokens)


def _warn_of_idle(config: GritConfig, total_steps: int | None) -> None:
    for idle in [] if total_steps is None else idle_schedules(config, total_steps):
        warnings.warn(
            f"{idle}, and training ends after {total_steps}: see GritConfig.for_steps", stacklevel=3
        )


def _check_fit(
    layers: tuple[AdaptedLayer, ...], optimizer: torch.optim.Optimizer, config: GritConfig
) -> None:
    _check_quantized(layers, config)
    _check_turns(optimizer, config)


def _check_turns(optimizer: torch.optim.Optimizer, config: GritConfig) -> None:
    """Moments follow the basis: an optimizer must be elementwise, and keep none but those we turn."""
    turned = isinstance(optimizer, TURNED) and not any(g.get("amsgrad") for g in optimizer.param_groups)
    if config.preconditioner == "soap" and not turned:
        names = ", ".join(kind.__name__ for kind in TURNED)
        raise ConfigError(
            "preconditioner",
            config.preconditioner,
            f"needs an optimizer whose moments can be turned ({names}, without amsgrad), and this is "
            f"{type(optimizer).__name__}",
        )


def _check_quantized(layers: tuple[AdaptedLayer, ...], config: GritConfig) -> None:
    if config.quantization_damping and not any(is_quantized(layer.base) for layer in layers):
        raise ConfigError(
            "quantization_damping",
            config.quantization_damping,
            "needs a 4-bit backbone, and no adapted layer of this model is quantized",
        )
