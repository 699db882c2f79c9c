"""The only importer of peft: loads a backbone, adds LoRA to it, and finds the adapted layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from grit.errors import ConfigError
from grit.run_config import Dtype

transformers_logging.disable_progress_bar()

DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class AdaptedLayer:
    """One linear layer with its adapter: y = W x + scaling * B A x, A (rank, d_in), B (d_out, rank); `base` holds W."""

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
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def load_tokenizer(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer; one without a pad token pads with its end-of-text token (masked everywhere, so it changes nothing).

    Raises:
        ConfigError: it cannot be read, or has no end-of-text token.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError("model", model, f"its tokenizer cannot be read: {str(error).strip().splitlines()[0]}") from error
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


def load_backbone(model: str, *, quantized: bool, dtype: Dtype, device: str, revision: str | None = None,
                  trust_remote_code: bool = False) -> PreTrainedModel:
    """A frozen causal LM from safetensors; `quantized` stores its linear layers in NF4 with double quantization (QLoRA).

    Raises:
        ConfigError: the model cannot be read.
    """
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=DTYPES[dtype]) if quantized else None
    try:
        backbone: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model, dtype=DTYPES[dtype], quantization_config=quantization, device_map={"": device}, use_safetensors=True,
            revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError("model", model, f"cannot be read as a causal LM: {str(error).splitlines()[0]}") from error
    if quantized:  # not peft's preparation for k-bit training: it makes embeddings, norms and head float32, whatever dtype was asked for
        _keep_weights_as_stored(backbone)
    return backbone.requires_grad_(False)


def _keep_weights_as_stored(backbone: PreTrainedModel) -> None:
    """Turns off bitsandbytes' repacking of NF4 weights for some CPUs.

    It rewrites the shared weights at the first evaluation, so that later trials would compute with another kernel than the first, and
    it refuses widths that are not multiples of 32.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in backbone.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def add_lora(backbone: PreTrainedModel, *, ranks: Mapping[str, int], scaling: float, dropout: float, seed: int) -> nn.Module:
    """A PEFT LoRA model around `backbone`, with an adapter of its own rank on each module named; A is drawn from `seed`, B is zero."""
    torch.manual_seed(seed)  # PEFT initializes from the global generator
    common = max(ranks.values())
    config = LoraConfig(r=common, lora_alpha=scaling * common, lora_dropout=dropout, target_modules=list(ranks), bias="none",  # type: ignore[arg-type]
                        task_type="CAUSAL_LM")
    config.rank_pattern = {name: rank for name, rank in ranks.items() if rank != common}
    config.alpha_pattern = {name: scaling * rank for name, rank in config.rank_pattern.items()}
    with quiet_peft():
        return get_peft_model(backbone, config)


def remove_lora(model: Any) -> PreTrainedModel:
    """The backbone that `add_lora` wrapped, with every adapter layer taken out again."""
    return model.unload()  # type: ignore[no-any-return]


def adapted_layers(model: nn.Module, adapter: str = "default") -> tuple[AdaptedLayer, ...]:
    """Every linear layer of `model` that carries the LoRA adapter, in the model's own order.

    Raises:
        ConfigError: there is none, or one uses a variant for which z = A x is not what lora_A returns (DoRA, convolutions, embeddings).
    """
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or adapter not in module.scaling:
            continue
        varies = module.use_dora.get(adapter) or adapter in getattr(module, "lora_variant", {})
        if varies or adapter not in module.lora_A or not isinstance(module.lora_A[adapter], nn.Linear):
            raise ConfigError("model", name, "GRIT attaches to plain LoRA on linear layers; this layer uses another variant")
        down, up = module.lora_A[adapter], module.lora_B[adapter]
        assert isinstance(down, nn.Linear) and isinstance(up, nn.Linear)  # for mypy; checked above
        found.append(AdaptedLayer(name=name, base=module.get_base_layer(), down=down, up=up, scaling=float(module.scaling[adapter])))
    if not found:
        raise ConfigError("model", type(model).__name__, f"has no LoRA adapter named {adapter!r}; add one with peft first")
    return tuple(found)


def task_type(model: Any, adapter: str = "default") -> str | None:
    """PEFT's task type of that adapter (CAUSAL_LM, ...), or None where it was not said."""
    config = getattr(model, "peft_config", {}).get(adapter)
    return None if config is None or config.task_type is None else str(getattr(config.task_type, "value", config.task_type))


def save_lora(model: Any, scalings: Mapping[str, float], factors: Mapping[str, tuple[Tensor, Tensor]], path: Path, adapter: str) -> int:
    """Writes a plain LoRA adapter with these factors (A (k, d_in), B (d_out, k)) in place of the model's; returns the bytes of its weights.

    Args:
        model: a PEFT model with that adapter; what else it trained (modules_to_save, biases) is written as it is.
        scalings: per module name, what B A is multiplied by.
        factors: per module name.
        path: a folder, made if need be.
        adapter: the adapter's name.

    Raises:
        ConfigError: the adapter's initialization changed the backbone's weights, so that a plain adapter would not fit the original.
    """
    config = copy.copy(model.peft_config[adapter])
    if not isinstance(config.init_lora_weights, bool) and config.init_lora_weights not in ("gaussian", "orthogonal", "eva"):
        raise ConfigError("init_lora_weights", config.init_lora_weights, "cannot be exported truncated: it changed the backbone's weights")
    state = get_peft_model_state_dict(model, adapter_name=adapter)
    short = {name: name.removeprefix("base_model.model.") for name in factors}
    for name, (down, up) in factors.items():
        state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] = down.contiguous(), up.contiguous()
    ranks = {short[name]: down.shape[0] for name, (down, _) in factors.items()}
    config.rank_pattern, config.use_rslora, config.init_lora_weights, config.inference_mode = ranks, False, True, True
    config.alpha_pattern = {short[name]: scalings[name] * ranks[short[name]] for name in factors}
    path.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(path))
    weights = path / "adapter_model.safetensors"
    save_file({name: tensor.cpu() for name, tensor in state.items()}, weights, metadata={"format": "pt"})
    return weights.stat().st_size


def merged_model(model: str, adapter: Path, *, dtype: Dtype, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """The backbone, in `dtype` and not quantized, with the adapter in that folder added to its weights: a model that needs no PEFT.

    Raises:
        ConfigError: the backbone cannot be read.
    """
    backbone = load_backbone(model, quantized=False, dtype=dtype, device="cpu", revision=revision, trust_remote_code=trust_remote_code)
    with quiet_peft():
        return PeftModel.from_pretrained(backbone, str(adapter)).merge_and_unload()  # type: ignore[no-any-return]
