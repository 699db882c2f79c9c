"""The optimizer that a method trains with.

The only importer of pytorch_optimizer, which is loaded only where it is used.
"""

from __future__ import annotations

from typing import Any

import torch

from grit.adapters.peft_methods import method_optimizer
from grit.config.run_config import RunConfig

#: Shampoo's first preconditioned step, and the steps between computations of its roots: they cost more than
#: the rest of a step.
SHAMPOO_START, SHAMPOO_EVERY = 10, 10
#: Of heavy-ball SGD.
SGD_MOMENTUM = 0.9
#: Dimensions above which Shampoo would leave a side alone: none of ours (its blocks bound the cost).
SHAMPOO_LARGEST = 1 << 20


def build_optimizer(config: RunConfig, model: Any) -> torch.optim.Optimizer:
    """AdamW on all that the model trains, unless the method has its own."""
    kind = config.spec.optimizer
    if kind in ("lora_plus", "lora_fa"):
        return method_optimizer(kind, model, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if kind == "shampoo":
        return _shampoo(parameters, config)
    rate, decay = config.optimization.learning_rate, config.optimization.weight_decay
    if config.optimization.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=SGD_MOMENTUM, weight_decay=decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


def _shampoo(parameters: list[torch.nn.Parameter], config: RunConfig) -> torch.optim.Optimizer:
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
        parameters,
        lr=config.optimization.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=config.optimization.weight_decay,
        moving_average_for_momentum=True,
        nesterov=False,
        graft_type=graft.LayerWiseGrafting.SQRTN,
        start_preconditioning_step=SHAMPOO_START,
        preconditioning_compute_steps=SHAMPOO_EVERY,
        use_svd=False,
        no_preconditioning_for_layers_with_dim_gt=SHAMPOO_LARGEST,
    )


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
