"""The only importer of peft: loads a backbone, adds LoRA to it, and finds the adapted layers."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    EvaConfig,
    IA3Config,
    LoraConfig,
    OSFConfig,
    PeftConfig,
    PeftModel,
    RandLoraConfig,
    VeraConfig,
    convert_to_lora,
    get_peft_model,
    get_peft_model_state_dict,
    initialize_lora_eva_weights,
)
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from grit.config.run import RunConfig
from grit.config.sections import Dtype
from grit.errors import ConfigError

transformers_logging.disable_progress_bar()

#: Forward passes after which EVA's decompositions must have converged.
MAX_EVA_PASSES = 400
#: Settings of the methods beside LoRA, as published or as PEFT has them where the paper says none: VeRA's
#: shared rank and initial scale, RandLoRA's alpha per rank, LoRA+'s ratio of B's learning rate to A's, and
#: AdaLoRA's initial over final rank and weight of its orthogonality.
VERA_RANK, VERA_SCALE, RANDLORA_ALPHA, LORA_PLUS_RATIO, ADALORA_START, ADALORA_ORTHOGONALITY = (
    256,
    0.1,
    20,
    16.0,
    1.5,
    0.5,
)

DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class AdaptedLayer:
    """One linear layer with its adapter: y = W x + scaling * B A x, A (rank, d_in), B (d_out, rank).

    `base` holds W.
    """

    name: str
    base: nn.Module
    down: nn.Linear
    up: nn.Linear
    scaling: float

    @property
    def rank(self) -> int:
        """Directions of the adapter, r."""
        return self.down.weight.shape[0]

    @property
    def width(self) -> int:
        """d_in + d_out: trained parameters per direction."""
        return self.down.weight.shape[1] + self.up.weight.shape[0]


@contextmanager
def quiet_peft() -> Iterator[None]:
    """This peft asks this transformers for a property that is about to be renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
        )
        yield


def load_tokenizer(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    One without a pad token pads with its end-of-text token (masked everywhere, so it changes nothing).

    Raises:
        ConfigError: it cannot be read, or has no end-of-text token.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "model", model, f"its tokenizer cannot be read: {str(error).strip().splitlines()[0]}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError("model", model, "its tokenizer has no end-of-text token, so no answer could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_weights(folder: Path) -> None:
    """Reads the headers of a model folder's weights; a hub id is left to the hub.

    Raises:
        ConfigError: a file is damaged.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ConfigError("model", str(path), f"is damaged: {error}") from error


def load_backbone(
    model: str,
    *,
    quantized: bool,
    dtype: Dtype,
    device: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A frozen causal LM from safetensors.

    `quantized` stores its linear layers in NF4 with double quantization (QLoRA).

    Raises:
        ConfigError: the model cannot be read.
    """
    quantization = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[dtype],
        )
        if quantized
        else None
    )
    try:
        backbone: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=DTYPES[dtype],
            quantization_config=quantization,
            device_map={"": device},
            use_safetensors=True,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(
            "model", model, f"cannot be read as a causal LM: {str(error).splitlines()[0]}"
        ) from error
    # not peft's preparation for k-bit training: it makes embeddings, norms and head float32, whatever dtype
    # was asked for
    if quantized:
        _keep_weights_as_stored(backbone)
    return backbone.requires_grad_(False)


def _keep_weights_as_stored(backbone: PreTrainedModel) -> None:
    """Turns off bitsandbytes' repacking of NF4 weights for some CPUs.

    It rewrites the shared weights at the first evaluation, so that later trials would compute with another
    kernel than the first, and it refuses widths that are not multiples of 32.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in backbone.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


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
        chosen = [name for name in targets if name.rpartition(".")[2] in config.spec.kinds] or targets
        return IA3Config(
            **{**common, "target_modules": chosen},
            feedforward_modules=[name for name in chosen if name.endswith("down_proj")],
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
    found = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gramian = factor @ factor.T if "lora_A" in name else factor.T @ factor
            found.append((gramian - torch.eye(len(gramian), out=torch.empty_like(gramian))).norm())
    total: Tensor = weight * torch.stack(found).mean()
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


def trained_modules(model: nn.Module) -> list[str]:
    """Paths of the layers that carry an adapter of whatever method, in the model's order."""
    return [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def effective_parameters(model: nn.Module, parameters: int) -> int:
    """Trained parameters that act: all of them, but for AdaLoRA, whose directions may be switched off."""
    found = [module for module in model.modules() if hasattr(module, "lora_E")]
    if not found:
        return parameters
    total = 0
    for module in found:
        kept: Any = module
        total += int((kept.lora_E["default"] != 0).sum()) * (kept.in_features + kept.out_features + 1)
    return total


def count_parameters(model: nn.Module) -> int:
    """Parameters of a backbone; NF4 weights, stored two to a byte, count as what they stand for."""
    stored: list[Any] = list(model.parameters())
    return sum(
        int(parameter.quant_state.shape.numel() if hasattr(parameter, "quant_state") else parameter.numel())
        for parameter in stored
    )


def converted(
    model: Any, share: float | int, scalings: Mapping[str, float]
) -> dict[str, tuple[Tensor, Tensor]]:
    """PEFT's own conversion of the adapter to a smaller LoRA.

    Factors (k, d_in), (d_out, k) by module, to be multiplied by `scalings` as before.

    Args:
        model: a PEFT model.
        share: of the energy of each module's update that is kept, or a rank for all.
        scalings: per module name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Converting a PEFT adapter to LoRA that is already", category=UserWarning
        )
        _, state = convert_to_lora(model, rank=share)
    found = {
        name: (state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] / scaling)
        for name, scaling in scalings.items()
    }
    widest = {
        name: model.get_submodule(name).r["default"] for name in found
    }  # by rounding, PEFT may count one direction too many
    return {name: (down[: widest[name]], up[:, : widest[name]]) for name, (down, up) in found.items()}


def remove_lora(model: Any) -> PreTrainedModel:
    """The backbone that `add_lora` wrapped, with every adapter layer taken out again."""
    return model.unload()  # type: ignore[no-any-return]


def adapted_layers(model: nn.Module, adapter: str = "default") -> tuple[AdaptedLayer, ...]:
    """Every linear layer of `model` that carries the LoRA adapter, in the model's own order.

    Raises:
        ConfigError: there is none, or one uses a variant for which z = A x is not what lora_A returns (DoRA,
            convolutions, embeddings).
    """
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or adapter not in module.scaling:
            continue
        varies = module.use_dora.get(adapter) or adapter in getattr(module, "lora_variant", {})
        if varies or adapter not in module.lora_A or not isinstance(module.lora_A[adapter], nn.Linear):
            raise ConfigError(
                "model", name, "GRIT attaches to plain LoRA on linear layers; this layer uses another variant"
            )
        down, up = module.lora_A[adapter], module.lora_B[adapter]
        assert isinstance(down, nn.Linear) and isinstance(up, nn.Linear)  # for mypy; checked above
        found.append(
            AdaptedLayer(
                name=name,
                base=module.get_base_layer(),
                down=down,
                up=up,
                scaling=float(module.scaling[adapter]),
            )
        )
    if not found:
        raise ConfigError(
            "model", type(model).__name__, f"has no LoRA adapter named {adapter!r}; add one with peft first"
        )
    return tuple(found)


def task_type(model: Any, adapter: str = "default") -> str | None:
    """PEFT's task type of that adapter (CAUSAL_LM, ...), or None where it was not said."""
    config = getattr(model, "peft_config", {}).get(adapter)
    return (
        None
        if config is None or config.task_type is None
        else str(getattr(config.task_type, "value", config.task_type))
    )


def save_lora(
    model: Any,
    scalings: Mapping[str, float],
    factors: Mapping[str, tuple[Tensor, Tensor]],
    path: Path,
    adapter: str,
) -> int:
    """Writes a plain LoRA adapter with these factors (A (k, d_in), B (d_out, k)) in place of the model's.

    Returns the bytes of its weights.

    Args:
        model: a PEFT model with that adapter; what else it trained (modules_to_save, biases) is written as it
            is.
        scalings: per module name, what B A is multiplied by.
        factors: per module name.
        path: a folder, made if need be.
        adapter: the adapter's name.

    Raises:
        ConfigError: the adapter's initialization changed the backbone's weights, so that a plain adapter
            would not fit the original.
    """
    config = copy.copy(model.peft_config[adapter])
    if not isinstance(config.init_lora_weights, bool) and config.init_lora_weights not in (
        "gaussian",
        "orthogonal",
        "eva",
    ):
        raise ConfigError(
            "init_lora_weights",
            config.init_lora_weights,
            "cannot be exported truncated: it changed the backbone's weights",
        )
    state = get_peft_model_state_dict(model, adapter_name=adapter)
    short = {name: name.removeprefix("base_model.model.") for name in factors}
    for name, (down, up) in factors.items():
        state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] = down.contiguous(), up.contiguous()
    ranks = {short[name]: down.shape[0] for name, (down, _) in factors.items()}
    config.rank_pattern, config.use_rslora, config.init_lora_weights, config.inference_mode = (
        ranks,
        False,
        True,
        True,
    )
    config.alpha_pattern = {short[name]: scalings[name] * ranks[short[name]] for name in factors}
    path.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(path))
    weights = path / "adapter_model.safetensors"
    save_file({name: tensor.cpu() for name, tensor in state.items()}, weights, metadata={"format": "pt"})
    return weights.stat().st_size


def merged_model(
    model: str, adapter: Path, *, dtype: Dtype, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The backbone, in `dtype` and not quantized, with the adapter in that folder added to its weights.

    A model that needs no PEFT.

    Raises:
        ConfigError: the backbone cannot be read.
    """
    backbone = load_backbone(
        model,
        quantized=False,
        dtype=dtype,
        device="cpu",
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    with quiet_peft():
        return PeftModel.from_pretrained(backbone, str(adapter)).merge_and_unload()  # type: ignore[no-any-return]
