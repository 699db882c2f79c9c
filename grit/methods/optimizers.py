"""The optimizers that methods train with, by the names that declarations use.

The only importer of pytorch_optimizer, which is loaded only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer

from grit.adapters.peft_adapters import adapted_layers
from grit.config.run_config import RunConfig
from grit.methods.loca import TakingTurns
from grit.methods.lora_pro import LoraPro

#: LoRA+'s ratio of B's learning rate to A's.
LORA_PLUS_RATIO = 16.0
#: Shampoo's first preconditioned step, and the steps between computations of its roots: they cost more than
#: the rest of a step.
SHAMPOO_START, SHAMPOO_EVERY = 10, 10
#: Of heavy-ball SGD.
SGD_MOMENTUM = 0.9
#: Dimensions above which Shampoo would leave a side alone: none of ours (its blocks bound the cost).
SHAMPOO_LARGEST = 1 << 20
#: Dimensions above which SOAP leaves a side alone: on real models all but the rank's own.
SOAP_LARGEST = 512


def build_optimizer(config: RunConfig, model: Any) -> torch.optim.Optimizer:
    """AdamW on all that the model trains, unless the method or the run has another."""
    name = config.spec.optimizer
    if name == "adamw":
        name = config.optimization.optimizer
    return OPTIMIZERS[name](model, config)


def _trained(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _adamw(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        _trained(model), lr=config.optimization.learning_rate, weight_decay=config.optimization.weight_decay
    )


def _sgd(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        _trained(model),
        momentum=SGD_MOMENTUM,
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
    )


def _lora_plus(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW in which B learns faster than A."""
    return create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=config.optimization.learning_rate,
        loraplus_lr_ratio=LORA_PLUS_RATIO,
        loraplus_weight_decay=config.optimization.weight_decay,
    )


def _lora_fa(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """Freezes A."""
    return create_lorafa_optimizer(
        model,
        r=config.adapter.rank,
        lora_alpha=round(config.adapter.alpha),
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
    )


def _riemannian(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW on gradients that the other factor's Gramian scales (Zhang and Pilanci, 2024)."""
    return create_riemannian_optimizer(
        model,
        torch.optim.AdamW,
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
    )


def _lora_pro(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """Adam on the weights' own update (Wang et al., 2024)."""
    return LoraPro(
        adapted_layers(model),
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
    )


def _loca(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW on coefficients and their places in turn (Du et al., 2025)."""
    return TakingTurns(
        adapted_layers(model),
        steps=int(config.budget.amount),
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
    )


def _muon(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """Orthogonalized momentum, of the size of an AdamW step so that a rate means what it means there."""
    return torch.optim.Muon(
        _trained(model),
        adjust_lr_fn="match_rms_adamw",
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
    )


def _soap(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """Adam in Shampoo's eigenbases (Vyas et al., 2024), of the factors as matrices."""
    from pytorch_optimizer import SOAP

    return SOAP(
        _trained(model),
        max_precondition_dim=SOAP_LARGEST,
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
    )


def _lora_rite(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """Steps that do not depend on how B A is factored (Yen et al., 2024)."""
    from pytorch_optimizer import LoRARite

    return LoRARite(
        _trained(model), lr=config.optimization.learning_rate, weight_decay=config.optimization.weight_decay
    )


def _shampoo(model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """Distributed Shampoo (Anil et al., 2020), grafted to the size of a signed step.

    So that a learning rate means what it means for Adam.

    Roots are found by Newton's iteration: the library's SVD was seen to fail on finite statistics.
    """
    from pytorch_optimizer import ScalableShampoo
    from pytorch_optimizer.optimizer.utils import graft, partition, preconditioner

    # What its state holds beside tensors, so that a checkpoint can be read back without trusting more than
    # this.
    torch.serialization.add_safe_globals(
        [
            preconditioner.PreConditioner,
            partition.PreConditionerType,
            partition.BlockPartitioner,
            graft.SQRTNGraft,
            graft.LayerWiseGrafting,
        ]
    )
    return ScalableShampoo(
        _trained(model),
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
        betas=(0.9, 0.99),
        moving_average_for_momentum=True,
        nesterov=False,
        graft_type=graft.LayerWiseGrafting.SQRTN,
        start_preconditioning_step=SHAMPOO_START,
        preconditioning_compute_steps=SHAMPOO_EVERY,
        use_svd=False,
        no_preconditioning_for_layers_with_dim_gt=SHAMPOO_LARGEST,
    )


#: By name: makes an optimizer of the model and the run.
OPTIMIZERS: dict[str, Callable[[Any, RunConfig], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "lora_plus": _lora_plus,
    "lora_fa": _lora_fa,
    "lora_pro": _lora_pro,
    "loca": _loca,
    "lora_rite": _lora_rite,
    "riemannian": _riemannian,
    "muon": _muon,
    "soap": _soap,
    "shampoo": _shampoo,
}


def follow_parameters(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Moves restored state to `device`, wherever an optimizer keeps it.

    Torch moves only what is filed under a parameter, as a tensor.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value if value.ndim == 0 else value.to(device)  # a step counter stays where torch put it
        if isinstance(value, list):
            return [moved(item) for item in value]
        if type(value).__module__.startswith("pytorch_optimizer."):
            for name, item in vars(value).items():
                setattr(value, name, moved(item))
        return value

    for state in optimizer.state.values():
        for name, value in state.items():
            state[name] = moved(value)
