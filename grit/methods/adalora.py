"""AdaLoRA: more ranks than are kept, of which the least important go while it trains (Zhang et al., 2023)."""

from __future__ import annotations

from typing import Any

import torch
from peft import AdaLoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from grit.methods.maker import Adaptation, AdapterMaker

#: Its initial over its final rank, and the weight of its orthogonality.
START, ORTHOGONALITY = 1.5, 0.5


class AdaLora(AdapterMaker):
    """Directions with a weight each, allocated over the modules by importance."""

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """For a run that knows its number of steps."""
        config = wanted.config
        rank, steps = config.adapter.rank, int(config.budget.amount)
        start = max(rank + 1, round(START * rank))
        return get_peft_model(
            backbone,
            AdaLoraConfig(
                target_modules=wanted.targets,
                task_type="CAUSAL_LM",
                init_r=start,
                target_r=rank,
                lora_alpha=round(config.adapter.alpha / rank * start),
                lora_dropout=config.adapter.dropout,
                bias="none",
                tinit=steps // 10,
                tfinal=max(1, steps // 5),
                deltaT=max(1, steps // 50),
                total_step=steps,
                # It is added to every forward pass: once a step is what is meant.
                orth_reg_weight=ORTHOGONALITY / config.optimization.accumulation,
            ),
        )

    def after_step(self, model: Any, step: int) -> None:
        """Allocates the ranks anew."""
        model.base_model.update_and_allocate(step)

    @torch.no_grad()
    def penalty(self, model: Any) -> Tensor | float:
        """Its orthogonality."""
        weight = model.peft_config["default"].orth_reg_weight
        penalties = []
        for name, factor in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gramian = factor @ factor.T if "lora_A" in name else factor.T @ factor
                penalties.append((gramian - torch.eye(len(gramian), out=torch.empty_like(gramian))).norm())
        total: Tensor = weight * torch.stack(penalties).mean()
        return total

    def extra_state(self, model: Any) -> dict[str, Any]:
        """Importances and ranks."""
        allocator = model.base_model.rankallocator
        return {
            "rank_pattern": model.peft_config["default"].rank_pattern,
            "ipt": allocator.ipt,
            "exp_avg_ipt": allocator.exp_avg_ipt,
            "exp_avg_unc": allocator.exp_avg_unc,
        }

    def load_extra_state(self, model: Any, state: dict[str, Any]) -> None:
        """Importances on the model's device."""
        model.peft_config["default"].rank_pattern = state["rank_pattern"]
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            moved = {key: value.to(model.device) for key, value in state[name].items()}
            setattr(model.base_model.rankallocator, name, moved)

    def effective_parameters(self, model: nn.Module, parameters: int) -> int:
        """Those of directions that are not switched off."""
        total = 0
        for module in model.modules():
            if hasattr(module, "lora_E"):
                kept: Any = module
                switched_on = int((kept.lora_E["default"] != 0).sum())
                total += switched_on * (kept.in_features + kept.out_features + 1)
        return total
