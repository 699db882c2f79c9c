"""Every training method by name, each a declaration.

How its adapter is made, which optimizer trains it, what it needs. Pure data, without torch.

`lora`, `qlora`, `grit` and `qgrit` are what this project is about; the others are what GRIT is compared with:
the paper's own baselines (Tables 2 and 8), its neighbours in PEFT, and further attempts to make geometry win.
`grit/adapters/peft_adapters.py` and `grit/adapters/optimizers.py` carry the declarations out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from grit.errors import ConfigError, among

#: A name in `METHODS`: `RunConfig` refuses any other.
Method = str
Optimizer = Literal["adamw", "lora_plus", "lora_fa", "shampoo"]
#: What is looked at before an adapter is made: nothing, inputs of the adapted layers by forward passes over
#: training examples.
Preparation = Literal["none", "eva", "corda"]


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """One method.

    Attributes:
        title: its name in tables. source: who proposed it.
        quantized: the backbone is stored in NF4. geometry: GRIT acts on its adapter.
        adapter: PEFT's configuration class.
        options: fields of that class beside those that every method shares (targets; rank, alpha and dropout
            where it has them).
        ranked: whether the adapter has the run's rank (and alpha, and dropout).
        factors: whether what is trained is a plain LoRA adapter, B A beside an unchanged layer: the ones
            whose spectra are measured and which can be truncated.
        optimizer: what trains it, AdamW unless said otherwise.
        preparation: data passes before training.
        moves_backbone: initialization changes weights of the adapted layers, which are put back when the run
            has ended.
        inexact: untrained, the model is the backbone up to rounding only.
        kinds: adapt only layers with these names where the model has any; published placement rather than all
            linear layers. Empty: all.
        switches: settings that make it this method, whatever a preset has there.
        rate_multiple: what a grid of rates for AdamW is multiplied by: other optimizers have others.
        scheduled: needs to know the number of steps in advance, so that it has no time-matched form.
    """

    title: str
    source: str
    quantized: bool = False
    geometry: bool = False
    adapter: str = "LoraConfig"
    options: Mapping[str, Any] = field(default_factory=dict)
    ranked: bool = True
    factors: bool = True
    optimizer: Optimizer = "adamw"
    preparation: Preparation = "none"
    moves_backbone: bool = False
    inexact: bool = False
    kinds: tuple[str, ...] = ()
    switches: Mapping[str, Any] = field(default_factory=dict)
    rate_multiple: float = 1.0
    scheduled: bool = False


#: Every method there is, by name.
METHODS: dict[Method, MethodSpec] = {
    "lora": MethodSpec(title="LoRA", source="Hu et al., 2021"),
    "qlora": MethodSpec(title="QLoRA", source="Dettmers et al., 2023", quantized=True),
    "grit": MethodSpec(title="GRIT", source="the paper", geometry=True),
    "qgrit": MethodSpec(title="Q-GRIT", source="the paper", geometry=True, quantized=True),
    "orthogonal": MethodSpec(
        title="Orthogonal-LoRA",
        source="PEFT's orthogonal initialization",
        options={"init_lora_weights": "orthogonal"},
        inexact=True,
    ),
    "olora": MethodSpec(
        title="OLoRA",
        source="Buyukakyuz, 2024",
        options={"init_lora_weights": "olora"},
        factors=False,
        moves_backbone=True,
        inexact=True,
    ),
    "ia3": MethodSpec(
        title="IA3",
        source="Liu et al., 2022",
        adapter="IA3Config",
        ranked=False,
        factors=False,
        kinds=("k_proj", "v_proj", "down_proj"),
    ),
    "dora": MethodSpec(title="DoRA", source="Liu et al., 2024", options={"use_dora": True}, factors=False),
    "shampoo": MethodSpec(title="Shampoo", source="Gupta et al., 2018", optimizer="shampoo"),
    "pissa": MethodSpec(
        title="PiSSA",
        source="Meng et al., 2024",
        options={"init_lora_weights": "pissa"},
        factors=False,
        moves_backbone=True,
        inexact=True,
    ),
    "corda": MethodSpec(
        title="CorDA",
        source="Yang et al., 2024",
        options={"init_lora_weights": "corda"},
        factors=False,
        preparation="corda",
        moves_backbone=True,
        inexact=True,
    ),
    "randlora": MethodSpec(
        title="RandLoRA", source="Albert et al., 2025", adapter="RandLoraConfig", factors=False
    ),
    "adalora": MethodSpec(
        title="AdaLoRA", source="Zhang et al., 2023", adapter="AdaLoraConfig", factors=False, scheduled=True
    ),
    "eva": MethodSpec(
        title="EVA", source="Paischer et al., 2024", options={"init_lora_weights": "eva"}, preparation="eva"
    ),
    "osf": MethodSpec(
        title="OSF",
        source="Nayak et al., 2025",
        adapter="OSFConfig",
        ranked=False,
        factors=False,
        moves_backbone=True,
        inexact=True,
    ),
    "vera": MethodSpec(title="VeRA", source="Kopiczko et al., 2023", adapter="VeraConfig", factors=False),
    "lora_plus": MethodSpec(title="LoRA+", source="Hayou et al., 2024", optimizer="lora_plus"),
    "grit_soap": MethodSpec(
        title="GRIT-SOAP",
        source="ours, after Vyas et al., 2024",
        geometry=True,
        switches={"preconditioner": "soap"},
    ),
    "grit_trust": MethodSpec(
        title="GRIT-SGD",
        source="ours, after Martens and Grosse, 2015",
        geometry=True,
        switches={
            "preconditioner": "kfac",
            "damping_scale": "relative",
            "kfac_damping": 0.1,
            "optimizer": "sgd",
            "trust_region": 1e-3,
        },
        rate_multiple=300.0,
    ),
    "grit_source": MethodSpec(
        title="GRIT, source-aware",
        source="ours, after Ritter et al., 2018",
        geometry=True,
        switches={"source_weight": 0.2, "source_penalty": 300.0},
    ),
    "lora_ewc": MethodSpec(
        title="LoRA + EWC",
        source="Kirkpatrick et al., 2017",
        geometry=True,
        switches={"preconditioner": "none", "reprojection_freq": None, "source_penalty": 300.0},
    ),
    "lora_fa": MethodSpec(title="LoRA-FA", source="Zhang et al., 2023", optimizer="lora_fa"),
}


def method_spec(name: Method) -> MethodSpec:
    """The declaration of a method.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in METHODS:
        raise ConfigError("method", name, f"{among(name, METHODS)} (GRIT_EXTENSIONS names modules with more)")
    return METHODS[name]
