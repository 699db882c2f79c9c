"""Passes of text through a model that is not trained meanwhile, watched layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.data.encode import IGNORED_LABEL
from grit.errors import ConfigError


class LayerWatcher(Protocol):
    """What looks at a layer's inputs and outputs.

    Attributes:
        mask: (batch, length), which positions of the present batch count; set before each pass.
    """

    mask: Tensor | None

    def hook(self, layer: AdaptedLayer) -> Callable[..., None]:
        """A forward hook on the layer under the adapter."""


def real_positions(batch: Mapping[str, Tensor]) -> Tensor:
    """(batch, length): what is no padding."""
    return batch["attention_mask"] > 0


def watched_passes(
    model: Any,
    layers: Sequence[AdaptedLayer],
    batches: Sequence[Mapping[str, Tensor]],
    watcher: LayerWatcher,
    *,
    masks: Sequence[Tensor] | None = None,
    adapter_acts: bool = False,
) -> int:
    """Forward and backward passes; the loss is the sum over a batch's labels.

    Args:
        model: a PEFT model, in the mode in which it is to be seen; left as it was.
        layers: which are watched.
        batches: with `attention_mask` and `labels`.
        watcher: what watches them.
        masks: the positions that count, of each batch; all real ones without it.
        adapter_acts: whether they go through the model as it is, or, as mostly, under its adapter.

    Returns:
        How many labels the batches have.

    Raises:
        ConfigError: the model has no input embeddings.
    """
    labels = 0
    with ExitStack() as undo:
        undo.enter_context(torch.enable_grad())
        if not adapter_acts:
            undo.enter_context(model.disable_adapter())
        for parameter in model.parameters():
            if parameter.requires_grad:  # a norm that is trained beside the adapter
                parameter.requires_grad_(False)
                undo.callback(parameter.requires_grad_, True)
        embeddings = model.get_input_embeddings()
        if embeddings is None:
            raise ConfigError("model", type(model).__name__, "has no input embeddings to watch text from")
        # Nothing is trained here: without this no gradient would reach a layer.
        hooks = [embeddings.register_forward_hook(lambda _m, _i, output: output.requires_grad_(True))]
        hooks += [layer.base.register_forward_hook(watcher.hook(layer)) for layer in layers]
        for hook in hooks:
            undo.callback(hook.remove)
        for batch, mask in zip(batches, masks or map(real_positions, batches), strict=True):
            watcher.mask = mask
            count = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
            (model(**batch).loss * count).backward()
            labels += count
    return labels
