"""LoRA whose first factors come from passes over data: EVA, CorDA in both its modes, LoRA-GA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from peft import EvaConfig, LoraConfig, LoraGAConfig, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor
from transformers import PreTrainedModel

from grit.methods.lora import configured
from grit.methods.maker import Adaptation, AdapterMaker, Batches, backward_over

#: Forward passes after which EVA's decompositions must have converged.
MAX_EVA_PASSES = 400


class Eva(AdapterMaker):
    """A from the leading directions of the layers' inputs on training examples."""

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """By forward passes over the examples until the directions have converged.

        Raises:
            RuntimeError: they do not.
        """
        # rho = 1: every layer keeps its rank
        lora = configured(wanted, eva_config=EvaConfig(rho=1.0, use_label_mask=False))
        model = get_peft_model(backbone, lora, low_cpu_mem_usage=True)
        initialize_lora_eva_weights(
            model, list(wanted.examples()), forward_fn=_counted_forward(), show_progress_bar=False
        )
        # PEFT leaves these in the backbone's type; every other method trains in float32.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return model


def _counted_forward() -> Callable[[Any, dict[str, Tensor]], Any]:
    """A forward pass that refuses to be called without end."""
    passes = 0

    def forward(model: Any, inputs: dict[str, Tensor]) -> Any:
        nonlocal passes
        passes += 1
        if passes > MAX_EVA_PASSES:
            raise RuntimeError(
                f"EVA: {MAX_EVA_PASSES} forward passes, and its decompositions have not converged; lower "
                "the rank or give "
                "longer examples"
            )
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])

    return forward


class Corda(AdapterMaker):
    """Context-oriented decomposition of the weights, by the covariance of the layers' inputs.

    Args:
        mode: `ipm`, adapting the directions that matter most to the task's examples; `kpm`, those that matter
            least to general text, so that what the model knows is kept (Yang et al., 2024, section 3).
    """

    def __init__(self, mode: Literal["ipm", "kpm"]) -> None:
        self.mode = mode

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """By forward passes over one text at a time, without padding."""
        lora = configured(wanted, corda_config=CordaConfig(corda_method=self.mode))
        batches: Batches = wanted.examples() if self.mode == "ipm" else wanted.general_text()

        def run() -> None:
            for batch in batches:
                for tokens, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                    backbone(input_ids=tokens[mask.bool()][None], use_cache=False)

        preprocess_corda(backbone, lora, run_model=run)
        return get_peft_model(backbone, lora)


class LoraGA(AdapterMaker):
    """A and B from the singular vectors of the first examples' gradient of each weight."""

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """By a forward and a backward pass over each batch of examples."""
        lora: LoraConfig = configured(wanted, lora_ga_config=LoraGAConfig())
        batches = wanted.examples()
        training = backbone.training
        backbone.enable_input_require_grads()  # PEFT watches full backward hooks, which need it
        preprocess_loraga(backbone, lora, lambda: backward_over(backbone, batches))
        backbone.disable_input_require_grads()
        backbone.train(training)
        model: Any = get_peft_model(backbone, lora)
        for module in backbone.modules():
            if hasattr(module, "_peft_loraga_grad"):
                del module._peft_loraga_grad
        model.initial_factors = _factors(model)
        return model

    def extra_state(self, model: Any) -> dict[str, Any]:
        """The first factors, B A of which the weights have lost: another process may find others."""
        return {"initial_factors": model.initial_factors}

    @torch.no_grad()
    def load_extra_state(self, model: Any, state: dict[str, Any]) -> None:
        """Takes off the weights what the checkpoint's run took off, where this process found another."""
        for name, (down, up) in state["initial_factors"].items():
            own_down, own_up = model.initial_factors[name]
            down, up = down.to(own_down.device), up.to(own_up.device)
            if torch.equal(down, own_down) and torch.equal(up, own_up):
                continue
            layer = model.get_submodule(name)
            weight = layer.get_base_layer().weight
            weight += (layer.scaling["default"] * (own_up @ own_down - up @ down)).to(weight.dtype)
            model.initial_factors[name] = (down, up)


def _factors(model: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every module, by path."""
    return {
        name: (
            module.lora_A["default"].weight.detach().clone(),
            module.lora_B["default"].weight.detach().clone(),
        )
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
