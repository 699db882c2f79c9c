"""A trained update multiplied by less than one: the path that one training gives, for no training.

W + s B A for s below 1 forgets less and fits less; the points of all s are a curve of quality over
forgetting. A method that claims less forgetting at some quality is laid beside LoRA's curves, not beside its
end points alone (analysis/studies/baselines/tuning.py). Ours: the paper compares end points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from grit.adapters.peft_adapters import tuned_layers
from grit.io.files import Row


@contextmanager
def scaled(model: Any, factor: float) -> Iterator[None]:
    """The model with every plain LoRA update multiplied by `factor`, within the block."""
    layers = tuned_layers(model)
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer, scalings in zip(layers, before, strict=True):
            layer.scaling.update({name: factor * scaling for name, scaling in scalings.items()})
        yield
    finally:
        for layer, scalings in zip(layers, before, strict=True):
            layer.scaling.update(scalings)


def scale_rows(model: Any, factors: Sequence[float], score: Callable[[], list[Row]]) -> list[Row]:
    """The rows of `score` at every factor, each with it."""
    rows: list[Row] = []
    for factor in factors:
        with scaled(model, factor):
            rows += [{"scale": float(factor), **row} for row in score()]
    return rows
