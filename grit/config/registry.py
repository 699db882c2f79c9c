"""Every training method by name, each a declaration.

How its adapter is made, which optimizer trains it, what it needs. Pure data, without torch; `grit/methods/`
carries the declarations out.

`lora`, `qlora`, `grit` and `qgrit` are what this project is about; the others are what GRIT is compared with:
the paper's own baselines (Tables 2 and 8), controls, further attempts to make geometry win, and the field's
neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from grit.errors import ConfigError, among

#: A name in `METHODS`: `RunConfig` refuses any other.
Method = str
#: Why a method is here: what the project is about, what the paper compares it with, what its claims must
#: survive, our own further attempts, what else the field has.
Role = Literal["subject", "paper", "control", "attempt", "neighbour"]


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """One method.

    Attributes:
        title: its name in tables. source: who proposed it. role: why it is here.
        quantized: the backbone is stored in NF4. geometry: GRIT acts on its adapter.
        adapter: who makes it: a name in grit/methods/makers.py, or `module:NAME` of an `AdapterMaker` of
            one's own.
        options: fields of PEFT's LoRA configuration beside those that every method shares (targets, rank,
            alpha, dropout).
        one_rank: whether all layers must have the same rank.
        factors: whether what is trained is a plain LoRA adapter, B A beside an unchanged layer: the ones
            whose spectra are measured and which can be truncated.
        optimizer: what trains it, a name in grit/methods/optimizers.py.
        reads_general_text: whether it looks at general text before training.
        moves_backbone: initialization changes weights of the adapted layers, which are put back when the run
            has ended.
        inexact: untrained, the model is not quite the backbone: by rounding, or by how the method begins.
        switches: settings that make it this method, whatever a preset has there.
        rate_multiple: what a grid of rates for AdamW is multiplied by: other optimizers have others.
        weight_bytes: that it holds for every weight of the adapted layers, beside the backbone's own.
        scheduled: needs to know the number of steps in advance, so that it has no time-matched form.
        one_process: its initialization may differ between processes, which then would train two models.
    """

    title: str
    source: str
    role: Role = "neighbour"
    quantized: bool = False
    geometry: bool = False
    adapter: str = "lora"
    options: Mapping[str, Any] = field(default_factory=dict)
    one_rank: bool = False
    factors: bool = True
    optimizer: str = "adamw"
    reads_general_text: bool = False
    moves_backbone: bool = False
    inexact: bool = False
    switches: Mapping[str, Any] = field(default_factory=dict)
    rate_multiple: float = 1.0
    weight_bytes: float = 0.0
    scheduled: bool = False
    one_process: bool = False

    @property
    def turns(self) -> bool:
        """Whether GRIT's geometry changes what is trained, rather than only knowing the curvature."""
        untouched = {"preconditioner": "none", "reprojection_freq": None}
        return self.geometry and not untouched.items() <= dict(self.switches).items()


#: Every method there is, by name.
METHODS: dict[Method, MethodSpec] = {
    "lora": MethodSpec(title="LoRA", source="Hu et al., 2021", role="subject"),
    "qlora": MethodSpec(title="QLoRA", source="Dettmers et al., 2023", role="subject", quantized=True),
    "grit": MethodSpec(title="GRIT", source="the paper", role="subject", geometry=True),
    "qgrit": MethodSpec(title="Q-GRIT", source="the paper", role="subject", geometry=True, quantized=True),
    "orthogonal": MethodSpec(
        title="Orthogonal-LoRA",
        source="PEFT's orthogonal initialization",
        role="paper",
        options={"init_lora_weights": "orthogonal"},
        inexact=True,
    ),
    "olora": MethodSpec(
        title="OLoRA",
        source="Buyukakyuz, 2024",
        role="paper",
        options={"init_lora_weights": "olora"},
        factors=False,
        moves_backbone=True,
        inexact=True,
    ),
    "ia3": MethodSpec(
        title="IA3", source="Liu et al., 2022", role="paper", adapter="ia3", one_rank=True, factors=False
    ),
    "dora": MethodSpec(
        title="DoRA", source="Liu et al., 2024", role="paper", options={"use_dora": True}, factors=False
    ),
    "shampoo": MethodSpec(title="Shampoo", source="Gupta et al., 2018", role="paper", optimizer="shampoo"),
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
        adapter="corda",
        options={"init_lora_weights": "corda"},
        factors=False,
        moves_backbone=True,
        inexact=True,
    ),
    "randlora": MethodSpec(
        title="RandLoRA", source="Albert et al., 2025", adapter="randlora", one_rank=True, factors=False
    ),
    "adalora": MethodSpec(
        title="AdaLoRA",
        source="Zhang et al., 2023",
        adapter="adalora",
        one_rank=True,
        factors=False,
        scheduled=True,
    ),
    "eva": MethodSpec(
        title="EVA", source="Paischer et al., 2024", adapter="eva", options={"init_lora_weights": "eva"}
    ),
    "osf": MethodSpec(
        title="OSF",
        source="Nayak et al., 2025",
        role="control",
        adapter="osf",
        one_rank=True,
        factors=False,
        moves_backbone=True,
        inexact=True,
    ),
    "vera": MethodSpec(
        title="VeRA", source="Kopiczko et al., 2023", adapter="vera", one_rank=True, factors=False
    ),
    "lora_plus": MethodSpec(title="LoRA+", source="Hayou et al., 2024", optimizer="lora_plus"),
    "grit_soap": MethodSpec(
        title="GRIT-SOAP",
        source="ours, after Vyas et al., 2024",
        role="attempt",
        geometry=True,
        switches={"preconditioner": "soap"},
    ),
    "grit_trust": MethodSpec(
        title="GRIT-SGD",
        source="ours, after Martens and Grosse, 2015",
        role="attempt",
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
        role="attempt",
        geometry=True,
        switches={"source_weight": 0.2, "source_penalty": 300.0},
    ),
    "lora_ewc": MethodSpec(
        title="LoRA + EWC",
        source="Kirkpatrick et al., 2017",
        role="control",
        geometry=True,
        switches={"preconditioner": "none", "reprojection_freq": None, "source_penalty": 300.0},
    ),
    "lora_mlp": MethodSpec(
        title="LoRA on the MLP", source="PEFT's comparison", role="control", switches={"placement": "mlp"}
    ),
    "lora_attention": MethodSpec(
        title="LoRA on attention",
        source="Hu et al., 2021",
        role="control",
        switches={"placement": "attention"},
    ),
    "lora_kappa": MethodSpec(
        title="LoRA, KappaTune",
        source="KappaTune, by PEFT",
        role="control",
        switches={"placement": "kappa", "placement_share": 0.2},
    ),
    "lora_intruders": MethodSpec(
        title="LoRA, intruders reduced",
        source="Shuttleworth et al., 2024",
        role="control",
        adapter="lora_intruders",
    ),
    "lora_replay": MethodSpec(
        title="LoRA + replay", source="1% of general text", role="control", switches={"general_replay": 0.01}
    ),
    "lora_fa": MethodSpec(title="LoRA-FA", source="Zhang et al., 2023", optimizer="lora_fa"),
    "rslora": MethodSpec(title="rsLoRA", source="Kalajdzievski, 2023", options={"use_rslora": True}),
    "riemannian": MethodSpec(
        title="Riemannian LoRA", source="Zhang and Pilanci, 2024", optimizer="riemannian"
    ),
    "lora_rite": MethodSpec(title="LoRA-RITE", source="Yen et al., 2024", optimizer="lora_rite"),
    "lora_soap": MethodSpec(title="LoRA, SOAP", source="Vyas et al., 2024", optimizer="soap"),
    "lora_muon": MethodSpec(title="LoRA, Muon", source="Jordan et al., 2024", optimizer="muon"),
    "lora_ga": MethodSpec(
        title="LoRA-GA",
        source="Wang et al., 2024",
        adapter="lora_ga",
        options={"init_lora_weights": "lora_ga"},
        factors=False,
        one_process=True,
        moves_backbone=True,
        inexact=True,
    ),
    "corda_kpm": MethodSpec(
        title="CorDA, knowledge kept",
        source="Yang et al., 2024",
        adapter="corda_kpm",
        options={"init_lora_weights": "corda"},
        factors=False,
        reads_general_text=True,
        moves_backbone=True,
        inexact=True,
    ),
    "mica": MethodSpec(
        title="MiCA", source="PEFT's minor components", options={"init_lora_weights": "mica"}, factors=False
    ),
    "oft": MethodSpec(
        title="OFT",
        source="Qiu et al., 2023",
        role="control",
        adapter="oft",
        one_rank=True,
        factors=False,
        inexact=True,
    ),
    "delora": MethodSpec(
        title="DeLoRA", source="Bini et al., 2025", adapter="delora", one_rank=True, factors=False
    ),
    "shira": MethodSpec(
        title="SHiRA", source="Bhardwaj et al., 2024", adapter="shira", one_rank=True, factors=False
    ),
    "lift": MethodSpec(
        title="LIFT, one mask", source="Liu et al., 2025", adapter="lift", one_rank=True, factors=False
    ),
    "lora_pro": MethodSpec(
        title="LoRA-Pro",
        source="Wang et al., 2024",
        optimizer="lora_pro",
        rate_multiple=0.3,
        weight_bytes=8.0,
    ),
    "lora_xs": MethodSpec(
        title="LoRA-XS", source="Balazy et al., 2024", adapter="lora_xs", inexact=True, rate_multiple=2.0
    ),
    "lora_sb": MethodSpec(
        title="LoRA-SB",
        source="Ponkshe et al., 2024",
        adapter="lora_sb",
        one_process=True,
        inexact=True,
        rate_multiple=3.0,
    ),
    "svfit": MethodSpec(
        title="SVFit", source="Sun et al., 2024", adapter="svfit", rate_multiple=20.0, weight_bytes=10.0
    ),
    "loldu": MethodSpec(title="LoLDU", source="Shi et al., 2024", adapter="loldu", weight_bytes=10.0),
    "s2ft": MethodSpec(title="S2FT", source="Yang et al., 2024", adapter="s2ft", rate_multiple=5.0),
    "loca": MethodSpec(
        title="LoCA",
        source="Du et al., 2025",
        adapter="loca",
        optimizer="loca",
        rate_multiple=3.0,
        weight_bytes=20.0,
        scheduled=True,
    ),
    "matryoshka": MethodSpec(
        title="MatryoshkaLoRA", source="Modoranu et al., 2026", adapter="matryoshka", rate_multiple=4.0
    ),
}


def method_spec(name: Method) -> MethodSpec:
    """The declaration of a method.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in METHODS:
        raise ConfigError("method", name, f"{among(name, METHODS)} (GRIT_EXTENSIONS names modules with more)")
    return METHODS[name]
