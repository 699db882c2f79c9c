"""The methods that PEFT has: how each adapter is made, what trains it, what it keeps beside its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    EvaConfig,
    IA3Config,
    LoraConfig,
    OSFConfig,
    PeftConfig,
    RandLoraConfig,
    VeraConfig,
    get_peft_model,
    initialize_lora_eva_weights,
)
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import Tensor, nn
from transformers import PreTrainedModel

from grit.adapters.peft_adapters import quiet_peft
from grit.config.run_config import RunConfig

#: Forward passes after which EVA's decompositions must have converged.
MAX_EVA_PASSES = 400


#: Settings of the methods beside LoRA, as published or as PEFT has them where the paper says none: VeRA's
#: shared rank and initial scale, RandLoRA's alpha per rank, LoRA+'s ratio of B's learning rate to A's, and
#: AdaLoRA's initial over final rank and weight of its orthogonality.
VERA_RANK, VERA_SCALE = 256, 0.1
RANDLORA_ALPHA, LORA_PLUS_RATIO = 20, 16.0
ADALORA_START, ADALORA_ORTHOGONALITY = 1.5, 0.5


def add_lora(
    backbone: PreTrainedModel,
    *,
    ranks: Mapping[str, int],
    scaling: float,
    dropout: float,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A PEFT LoRA model around `backbone`, with an adapter of its own rank on each module named.

    A is drawn from `seed`, B is zero.
    """
    torch.manual_seed(seed)  # PEFT initializes from the global generator
    with quiet_peft():
        return get_peft_model(backbone, _lora_config(ranks, scaling, dropout, options or {}))


def _lora_config(
    ranks: Mapping[str, int], scaling: float, dropout: float, options: Mapping[str, Any]
) -> LoraConfig:
    common = max(ranks.values())
    config = LoraConfig(
        r=common,
        lora_alpha=scaling * common,  # type: ignore[arg-type]  # PEFT computes with any number
        lora_dropout=dropout,
        target_modules=list(ranks),
        bias="none",
        task_type="CAUSAL_LM",
        **options,
    )
    config.rank_pattern = {name: rank for name, rank in ranks.items() if rank != common}
    config.alpha_pattern = {name: scaling * rank for name, rank in config.rank_pattern.items()}
    return config


def add_adapter(
    backbone: PreTrainedModel,
    config: RunConfig,
    ranks: Mapping[str, int],
    batches: Callable[[], Sequence[dict[str, Tensor]]],
) -> Any:
    """The adapter of `config.method` on the modules named.

    Everything that is drawn drawn from the run's seed.

    Args:
        backbone: frozen; a method with `moves_backbone` changes its weights.
        config: the run.
        ranks: of each module, by path.
        batches: training examples, for the methods that look at data first.
    """
    spec, scaling = config.spec, config.adapter.alpha / config.adapter.rank
    if spec.adapter == "LoraConfig" and spec.preparation == "none":
        return add_lora(
            backbone,
            ranks=ranks,
            scaling=scaling,
            dropout=config.adapter.dropout,
            seed=config.seed,
            options=spec.options,
        )
    torch.manual_seed(config.seed)
    with quiet_peft():
        if spec.preparation == "eva":  # rho = 1: every layer keeps its rank
            eva = {**spec.options, "eva_config": EvaConfig(rho=1.0, use_label_mask=False)}
            return _eva(backbone, _lora_config(ranks, scaling, config.adapter.dropout, eva), batches())
        if spec.preparation == "corda":
            corda = {**spec.options, "corda_config": CordaConfig(corda_method="ipm")}
            return _corda(backbone, _lora_config(ranks, scaling, config.adapter.dropout, corda), batches())
        return get_peft_model(backbone, _other_config(config, backbone, list(ranks)))


def _eva(backbone: PreTrainedModel, lora: LoraConfig, batches: Sequence[dict[str, Tensor]]) -> Any:
    """A from the leading directions of the layers' inputs.

    By forward passes over the batches until they have converged.

    Raises:
        RuntimeError: they do not.
    """
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

    model = get_peft_model(backbone, lora, low_cpu_mem_usage=True)
    initialize_lora_eva_weights(model, list(batches), forward_fn=forward, show_progress_bar=False)
    for (
        parameter
    ) in model.parameters():  # PEFT leaves these in the backbone's type; every other method trains in float32
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _corda(backbone: PreTrainedModel, lora: LoraConfig, batches: Sequence[dict[str, Tensor]]) -> Any:
    """Context-oriented decomposition of the weights, with the covariance of the layers' inputs.

    One text at a time, without padding.
    """

    def run() -> None:
        for batch in batches:
            for tokens, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                backbone(input_ids=tokens[mask.bool()][None], use_cache=False)

    preprocess_corda(backbone, lora, run_model=run)
    return get_peft_model(backbone, lora)


def _other_config(config: RunConfig, backbone: nn.Module, targets: list[str]) -> PeftConfig:
    """PEFT's configuration of a method that is not LoRA, of the run's rank where it has one.

    OSF's rank is the number of directions that are left to train.
    """
    kind, rank = config.spec.adapter, config.adapter.rank
    common: dict[str, Any] = {"target_modules": targets, "task_type": "CAUSAL_LM"}
    if kind == "IA3Config":
        adapted = [name for name in targets if name.rpartition(".")[2] in config.spec.kinds] or targets
        return IA3Config(
            **{**common, "target_modules": adapted},
            feedforward_modules=[name for name in adapted if name.endswith("down_proj")],
        )
    if kind == "VeraConfig":
        return VeraConfig(
            **common,
            r=VERA_RANK,
            projection_prng_key=config.seed,
            save_projection=True,
            vera_dropout=config.adapter.dropout,
            d_initial=VERA_SCALE,
            bias="none",
        )
    if kind == "RandLoraConfig":
        return RandLoraConfig(
            **common,
            r=rank,
            randlora_alpha=RANDLORA_ALPHA * rank,
            projection_prng_key=config.seed,
            save_projection=True,
            randlora_dropout=config.adapter.dropout,
            bias="none",
        )
    if kind == "OSFConfig":
        frozen: dict[str, Any] = {
            f"^{re.escape(name)}$": max(1, min(backbone.get_parameter(f"{name}.weight").shape) - rank)
            for name in targets
        }
        return OSFConfig(**common, rank_pattern=frozen)
    assert kind == "AdaLoraConfig"
    steps, start = int(config.budget.amount), max(rank + 1, round(ADALORA_START * rank))
    # Its orthogonality is added to every forward pass: once a step is what is meant.
    return AdaLoraConfig(
        **common,
        init_r=start,
        target_r=rank,
        lora_alpha=round(config.adapter.alpha / rank * start),
        lora_dropout=config.adapter.dropout,
        bias="none",
        tinit=steps // 10,
        tfinal=max(1, steps // 5),
        deltaT=max(1, steps // 50),
        total_step=steps,
        orth_reg_weight=ADALORA_ORTHOGONALITY / config.optimization.accumulation,
    )


def method_optimizer(name: str, model: Any, config: RunConfig) -> torch.optim.Optimizer:
    """LoRA+'s AdamW, in which B learns faster than A, or LoRA-FA's, which freezes A."""
    if name == "lora_plus":
        return create_loraplus_optimizer(
            model,
            torch.optim.AdamW,
            lr=config.optimization.learning_rate,
            loraplus_lr_ratio=LORA_PLUS_RATIO,
            loraplus_weight_decay=config.optimization.weight_decay,
        )
    return create_lorafa_optimizer(
        model,
        r=config.adapter.rank,
        lora_alpha=round(config.adapter.alpha),
        lr=config.optimization.learning_rate,
        weight_decay=config.optimization.weight_decay,
    )


def after_step(model: Any, step: int) -> None:
    """What a method does after the optimizer's step number `step` (from 1), while gradients are there.

    AdaLoRA allocates its ranks.
    """
    if hasattr(model.base_model, "update_and_allocate"):
        model.base_model.update_and_allocate(step)


@torch.no_grad()
def penalty(model: Any) -> Tensor | float:
    """What a method adds to the model's loss in every forward pass: AdaLoRA's orthogonality; else nothing."""
    if not hasattr(model.base_model, "update_and_allocate"):
        return 0.0
    weight = model.peft_config["default"].orth_reg_weight
    penalties = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gramian = factor @ factor.T if "lora_A" in name else factor.T @ factor
            penalties.append((gramian - torch.eye(len(gramian), out=torch.empty_like(gramian))).norm())
    total: Tensor = weight * torch.stack(penalties).mean()
    return total


def extra_state(model: Any) -> dict[str, Any]:
    """What decides the next step beside trained parameters: AdaLoRA's importances and ranks; else nothing."""
    allocator = getattr(model.base_model, "rankallocator", None)
    if allocator is None:
        return {}
    return {
        "rank_pattern": model.peft_config["default"].rank_pattern,
        "ipt": allocator.ipt,
        "exp_avg_ipt": allocator.exp_avg_ipt,
        "exp_avg_unc": allocator.exp_avg_unc,
    }


def load_extra_state(model: Any, state: dict[str, Any]) -> None:
    """Restores `extra_state()`."""
    if state:
        model.peft_config["default"].rank_pattern = state["rank_pattern"]
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            setattr(
                model.base_model.rankallocator,
                name,
                {key: value.to(model.device) for key, value in state[name].items()},
            )
