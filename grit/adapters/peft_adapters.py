"""The only importer of peft: loads a backbone, adds LoRA to it, and finds the adapted layers."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grit.adapters.quick_import  # noqa: F401 - first: it says why

# isort: split
from peft import PeftModel, convert_to_lora, get_peft_model_state_dict
from peft.helpers import KappaTuneSelector
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from grit.adapters.backbones import load_backbone
from grit.config.sections import Dtype
from grit.errors import ConfigError

#: What PEFT's wrapper puts before a module's path.
_PREFIX = "base_model.model."


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
    def path(self) -> str:
        """Its name in the backbone, without PEFT's wrapper."""
        return self.name.removeprefix(_PREFIX)

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


def trained_modules(model: nn.Module) -> list[str]:
    """Paths of the layers that carry an adapter of whatever method, in the model's order."""
    return [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def tuned_layers(model: nn.Module) -> list[Any]:
    """Those layers themselves."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


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
    factors = {
        name: (state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] / scaling)
        for name, scaling in scalings.items()
    }
    widest = {
        name: model.get_submodule(name).r["default"] for name in factors
    }  # by rounding, PEFT may count one direction too many
    return {name: (down[: widest[name]], up[:, : widest[name]]) for name, (down, up) in factors.items()}


def remove_lora(model: Any) -> PreTrainedModel:
    """The backbone that `add_lora` wrapped, with every adapter layer taken out again."""
    return model.unload()  # type: ignore[no-any-return]


def adapted_layers(model: nn.Module, adapter: str = "default") -> tuple[AdaptedLayer, ...]:
    """Every linear layer of `model` that carries the LoRA adapter, in the model's own order.

    Raises:
        ConfigError: there is none, one uses a variant for which z = A x is not what lora_A returns (DoRA,
            convolutions, embeddings, single parameters), or does not act now.
    """
    layers = []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or adapter not in module.scaling:
            continue
        _check_plain(name, module, adapter)
        down, up = module.lora_A[adapter], module.lora_B[adapter]
        assert isinstance(down, nn.Linear) and isinstance(up, nn.Linear)  # for mypy; checked above
        layers.append(
            AdaptedLayer(
                name=name,
                base=module.get_base_layer(),
                down=down,
                up=up,
                scaling=float(module.scaling[adapter]),
            )
        )
    if not layers:
        raise ConfigError(
            "model", type(model).__name__, f"has no LoRA adapter named {adapter!r}; add one with peft first"
        )
    return tuple(layers)


def _check_plain(name: str, module: Any, adapter: str) -> None:
    """Whether z = A x of every token is what this layer's lora_A returns in training."""
    varies = module.use_dora.get(adapter) or adapter in getattr(module, "lora_variant", {})
    linear = adapter in module.lora_A and isinstance(module.lora_A[adapter], nn.Linear)
    if varies or not linear or isinstance(module, (MultiheadAttention, ParamWrapper)):
        raise ConfigError(
            "model", name, "GRIT attaches to plain LoRA on linear layers; this layer uses another variant"
        )


def check_acts(model: nn.Module, adapter: str) -> None:
    """Whether every token goes through the adapter's layers, in the order of the model's inputs.

    Raises:
        ConfigError: a layer belongs to an expert, or the adapter is switched off or merged.
    """
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or adapter not in module.scaling:
            continue
        if any(part in ("expert", "experts") for part in name.split(".")):
            raise ConfigError(
                "model",
                name,
                "belongs to an expert, which sees some tokens in an order of its own: adapt other layers",
            )
        if adapter not in module.active_adapters or module.disable_adapters:
            raise ConfigError(
                "adapter", adapter, f"does not act in {name}: call model.set_adapter({adapter!r}) first"
            )
        if module.merged:
            raise ConfigError("model", name, "has its adapter merged: call model.unmerge_adapter() first")


def task_type(model: Any, adapter: str = "default") -> str | None:
    """PEFT's task type of that adapter (CAUSAL_LM, ...), or None where it was not said."""
    config = getattr(model, "peft_config", {}).get(adapter)
    return (
        None
        if config is None or config.task_type is None
        else str(getattr(config.task_type, "value", config.task_type))
    )


def _pattern(path: str, paths: Iterable[str]) -> str:
    """A module's path as a pattern of PEFT that no other fits: patterns match the end of a path."""
    ambiguous = any(other.endswith(f".{path}") for other in paths)
    return f"^{re.escape(path)}" if ambiguous else path


def check_exportable(model: Any, adapter: str) -> None:
    """Whether the adapter is all that was changed of the backbone.

    Raises:
        ConfigError: its initialization changed the backbone's weights.
    """
    config = model.peft_config[adapter]
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
    check_exportable(model, adapter)
    config = copy.copy(model.peft_config[adapter])
    # A transformers model with an adapter of its own (`add_adapter`) has no wrapper, and its names no prefix.
    # What a factor is made of, where it is (grit/methods/fixed_factors.py), is not written: the factor is.
    state = {name: value for name, value in model.state_dict().items() if ".parametrizations." not in name}
    written = {
        _PREFIX + name.removeprefix(_PREFIX): tensor
        for name, tensor in get_peft_model_state_dict(model, state, adapter_name=adapter).items()
    }
    names = {name: name.removeprefix(_PREFIX) for name in factors}
    for name, (down, up) in factors.items():
        written[f"{_PREFIX}{names[name]}.lora_A.weight"] = down.contiguous()
        written[f"{_PREFIX}{names[name]}.lora_B.weight"] = up.contiguous()
    short = {name: _pattern(path, names.values()) for name, path in names.items()}
    ranks = {short[name]: down.shape[0] for name, (down, _) in factors.items()}
    config.rank_pattern, config.use_rslora, config.init_lora_weights, config.inference_mode = (
        ranks,
        False,
        True,
        True,
    )
    config.eva_config = None  # of the initialization, which is over
    config.alpha_pattern = {short[name]: scalings[name] * ranks[short[name]] for name in factors}
    path.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(path))
    weights = path / "adapter_model.safetensors"
    save_file({name: tensor.cpu() for name, tensor in written.items()}, weights, metadata={"format": "pt"})
    return weights.stat().st_size


def save_other_adapter(model: Any, path: Path) -> None:
    """Writes an adapter that is no plain LoRA as PEFT writes it."""
    with quiet_peft():
        model.save_pretrained(str(path))
    (path / "README.md").unlink(missing_ok=True)  # an empty form


def reload_adapter(backbone: PreTrainedModel, path: Path) -> Any:
    """What anybody makes of an adapter's folder: the backbone with it, as PEFT alone loads it.

    Take it out again with `remove_lora`.
    """
    with quiet_peft(), warnings.catch_warnings():
        # AdaLoRA's own files: its pattern is by parameter, and read so
        warnings.filterwarnings("ignore", message="The following rank_pattern keys", category=RuntimeWarning)
        return PeftModel.from_pretrained(backbone, str(path)).eval()


def stored_parameters(model: Any, adapter: str = "default") -> int:
    """Numbers in an adapter's file."""
    return sum(tensor.numel() for tensor in get_peft_model_state_dict(model, adapter_name=adapter).values())


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


def modules_by_condition(model: nn.Module) -> list[str]:
    """Paths of all linear layers, that with the smallest condition number first."""
    names: list[str] = KappaTuneSelector(model, show_progress=False).get_best_targets()
    return names
