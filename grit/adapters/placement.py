"""Which layers carry an adapter, and of what rank.

By name, by kind of block, by depth, by an importance score, or by the condition of the weights.

Source: patent, paragraph 91 ("manual selection ... or automatic selection using heuristics derived from
activation statistics or layer
importance scores"); the condition numbers are KappaTune's (arXiv 2506.16289), by PEFT.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import modules_by_condition
from grit.config.run_config import RunConfig
from grit.config.sections import EVERY_LINEAR, Placement
from grit.errors import ConfigError

#: Parts of a module's path that say which kind of block it belongs to.
_BLOCKS: dict[Placement, re.Pattern[str]] = {
    "attention": re.compile(r"attn|attention", re.IGNORECASE),
    "mlp": re.compile(r"mlp|ffn|feed_?forward|DenseReluDense", re.IGNORECASE),
}


def layer_number(name: str) -> int | None:
    """The first number in a module's path: the layer it belongs to. None outside the layers."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _called(names: Sequence[str], target: str) -> list[str]:
    """The layers of that name, or of that path."""
    return [name for name in names if name == target or name.endswith(f".{target}")]


def matching(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Paths of the linear layers that `targets` name, whole or by their last part, in the model's order.

    `auto`: all but the output head.

    Raises:
        ConfigError: a target that no layer of the model has, or a model without linear layers.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if tuple(targets) == EVERY_LINEAR:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        inside = [name for name in linear if model.get_submodule(name) is not head]
        if not inside:
            raise ConfigError(
                "model", type(model).__name__, "has no linear layers to adapt (GRIT adapts torch.nn.Linear)"
            )
        return inside
    missing = [target for target in targets if not _called(linear, target)]
    if missing:
        raise ConfigError("targets", ",".join(targets), f"this model has no layer named {', '.join(missing)}")
    wanted = {name for target in targets for name in _called(linear, target)}
    return [name for name in linear if name in wanted]


def place(model: nn.Module, config: RunConfig, importance: Any = None) -> dict[str, int]:
    """The rank of the adapter on each module that gets one, by path, in the model's order.

    Args:
        model: the backbone.
        config: the run.
        importance: called without arguments for the placements `auto` and `kappa`; returns a score per path.

    Raises:
        ConfigError: nothing is left to adapt, or the ranks do not fit the model's layers.
    """
    names = matching(model, config.adapter.targets)
    layers = 1 + max((number for name in names if (number := layer_number(name)) is not None), default=-1)
    if config.adapter.last_layers is not None:
        if config.adapter.last_layers > layers:
            raise ConfigError(
                "last_layers", config.adapter.last_layers, f"must be at most the model's {layers} layers"
            )
        names = [
            name
            for name in names
            if (number := layer_number(name)) is not None and number >= layers - config.adapter.last_layers
        ]
    if config.adapter.placement in _BLOCKS:
        block = _BLOCKS[config.adapter.placement]
        names = [name for name in names if any(map(block.search, name.split(".")[:-1]))]
    if config.adapter.placement in ("auto", "kappa"):
        names = most_important(names, importance(), config.adapter.placement_share)
    if not names:
        raise ConfigError(
            "placement",
            config.adapter.placement,
            f"leaves none of the targets {', '.join(config.adapter.targets)} to adapt",
        )
    if config.adapter.layer_ranks is None:
        return dict.fromkeys(names, config.adapter.rank)
    if len(config.adapter.layer_ranks) != layers:
        raise ConfigError(
            "layer_ranks",
            list(config.adapter.layer_ranks),
            f"must hold one rank for each of the model's {layers} layers",
        )
    return {name: config.adapter.layer_ranks[layer_number(name) or 0] for name in names}


def most_important(names: Sequence[str], scores: dict[str, float], share: float) -> list[str]:
    """The `share` of `names` (at least one) with the highest scores, in their own order."""
    count = max(1, round(share * len(names)))
    kept = set(sorted(names, key=lambda name: -scores[name])[:count])
    return [name for name in names if name in kept]


def condition_scores(model: nn.Module, names: Iterable[str]) -> dict[str, float]:
    """Per module, the higher the smaller the condition number of its weight.

    That is the ratio of the largest to the smallest singular value; 4-bit weights are dequantized for it.
    What PEFT finds too large for an SVD comes last.
    """
    places = {name: -float(place) for place, name in enumerate(modules_by_condition(model))}
    return {name: places.get(name, -math.inf) for name in names}


def importance_scores(
    model: Any, names: Iterable[str], batches: Iterable[dict[str, Tensor]]
) -> dict[str, float]:
    """Per module, the trace of the Fisher of its frozen weight W on these batches.

    How much the loss would move if W did.

    That is the sum over tokens of |x|^2 |g|^2, x the module's input and g the gradient of the summed loss at
    its output.
    """
    scores = dict.fromkeys(names, 0.0)
    inputs: dict[str, Tensor] = {}

    def forward(name: str) -> Any:
        def hook(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name] = given[0].detach().float().square().sum(-1)
            output.register_hook(lambda gradient: add(name, gradient))

        return hook

    def add(name: str, gradient: Tensor) -> None:
        scores[name] += float((inputs.pop(name) * gradient.float().square().sum(-1)).sum())

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(forward(name)) for name in scores]
    model.enable_input_require_grads()  # the weights are frozen: without this there is no graph
    try:
        for batch in batches:
            with torch.enable_grad():
                model(**batch, num_items_in_batch=1).loss.backward()
    finally:
        model.disable_input_require_grads()
        for hook in hooks:
            hook.remove()
    return scores
