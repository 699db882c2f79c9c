"""The optimizer that a method trains with. The only importer of pytorch_optimizer, which is loaded only where it is used."""

from __future__ import annotations

from typing import Any

import torch

from grit.adapters import method_optimizer
from grit.run_config import RunConfig

#: Shampoo's first preconditioned step, and the steps between computations of its roots: they cost more than the rest of a step.
SHAMPOO_START, SHAMPOO_EVERY = 10, 20


def build_optimizer(config: RunConfig, model: Any) -> torch.optim.Optimizer:
    """AdamW on all that the model trains, unless the method has its own."""
    kind = config.spec.optimizer
    if kind in ("lora_plus", "lora_fa"):
        return method_optimizer(kind, model, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if kind == "shampoo":
        return _shampoo(parameters, config)
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def _shampoo(parameters: list[torch.nn.Parameter], config: RunConfig) -> torch.optim.Optimizer:
    """Distributed Shampoo (Anil et al., 2020), grafted to the size of a signed step, so that a learning rate means what it means for Adam.

    Roots are found by Newton's iteration: the library's SVD was seen to fail on finite statistics.
    """
    from pytorch_optimizer import ScalableShampoo
    from pytorch_optimizer.optimizer.utils import graft, partition, preconditioner

    # What its state holds beside tensors, so that a checkpoint can be read back without trusting more than this.
    torch.serialization.add_safe_globals([preconditioner.PreConditioner, partition.PreConditionerType, partition.BlockPartitioner,
                                          graft.SQRTNGraft, graft.LayerWiseGrafting])
    return ScalableShampoo(parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, moving_average_for_momentum=True,
                           nesterov=False, graft_type=graft.LayerWiseGrafting.SQRTN, start_preconditioning_step=SHAMPOO_START,
                           preconditioning_compute_steps=SHAMPOO_EVERY, use_svd=False)
