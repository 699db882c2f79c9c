"""LoRA whose intruder dimensions are reduced once it is trained (Shuttleworth et al., 2024; by PEFT).

An intruder dimension is a leading singular vector of W + dW that no singular vector of W is near.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.intruders import reduce_intruder_dimension

from grit.methods.lora import Lora

#: PEFT's names of the trained adapter and of that which is made of it.
TRAINED, REDUCED = "default", "reduced"
#: Of a model: that it was done. A run that is saved in the end and goes on from there is reduced no further.
IS_REDUCED = "intruders_are_reduced"


class ReducedIntruders(Lora):
    """Plain LoRA until its last step; then what PEFT's default settings take away of each intruder."""

    def extra_state(self, model: Any) -> dict[str, Any]:
        """Whether it was done."""
        return {IS_REDUCED: getattr(model, IS_REDUCED, False)}

    def load_extra_state(self, model: Any, state: dict[str, Any]) -> None:
        """Restores `extra_state()`."""
        setattr(model, IS_REDUCED, state[IS_REDUCED])

    @torch.no_grad()
    def after_training(self, model: Any) -> None:
        """Puts the reduced factors in the place of the trained ones, once, unless they have diverged.

        An SVD of every adapted weight, before and after; in the weights' own precision.
        """
        finite = all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad)
        if getattr(model, IS_REDUCED, False) or not finite:
            return
        setattr(model, IS_REDUCED, True)
        reduce_intruder_dimension(model, TRAINED, REDUCED, logging_sink=None)
        layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
        for factors in (factors for layer in layers for factors in (layer.lora_A, layer.lora_B)):
            factors[TRAINED].load_state_dict(factors[REDUCED].state_dict())
        model.set_adapter(TRAINED)
        model.delete_adapter(REDUCED)
