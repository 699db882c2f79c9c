"""The makers of adapters by the names that declarations use, and what a run asks of its method's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from transformers import PreTrainedModel

from grit.adapters.peft_adapters import quiet_peft
from grit.config.registry import MethodSpec
from grit.config.run_config import RunConfig
from grit.methods import fixed_factors, peft_tuners
from grit.methods.adalora import AdaLora
from grit.methods.fixed_factors import WithFixedFactors
from grit.methods.initialized_by_data import Corda, Eva, LoraGA
from grit.methods.intruders import ReducedIntruders
from grit.methods.loca import Loca
from grit.methods.lora import Lora
from grit.methods.maker import Adaptation, AdapterMaker, Batches
from grit.methods.matryoshka import Matryoshka
from grit.methods.peft_tuners import Tuner

MAKERS: dict[str, AdapterMaker] = {
    "lora": Lora(),
    "eva": Eva(),
    "corda": Corda("ipm"),
    "corda_kpm": Corda("kpm"),
    "lora_ga": LoraGA(),
    "adalora": AdaLora(),
    "lora_intruders": ReducedIntruders(),
    "ia3": Tuner(peft_tuners.ia3),
    "vera": Tuner(peft_tuners.vera),
    "randlora": Tuner(peft_tuners.randlora),
    "osf": Tuner(peft_tuners.osf),
    "oft": Tuner(peft_tuners.oft),
    "delora": Tuner(peft_tuners.delora),
    "shira": Tuner(peft_tuners.shira),
    "lift": Tuner(peft_tuners.lift),
    "lora_xs": WithFixedFactors(fixed_factors.lora_xs, scaling=None),
    "lora_sb": WithFixedFactors(fixed_factors.lora_sb),
    "svfit": WithFixedFactors(fixed_factors.svfit),
    "loldu": WithFixedFactors(fixed_factors.loldu),
    "s2ft": WithFixedFactors(fixed_factors.s2ft),
    "loca": Loca(),
    "matryoshka": Matryoshka(),
}


def maker_of(spec: MethodSpec) -> AdapterMaker:
    """The maker of a method's adapters: one of `MAKERS`, or what `module:NAME` holds."""
    if spec.adapter in MAKERS:
        return MAKERS[spec.adapter]
    module, _, name = spec.adapter.partition(":")
    maker: AdapterMaker = getattr(import_module(module), name)
    return maker


def add_adapter(
    backbone: PreTrainedModel,
    config: RunConfig,
    ranks: Mapping[str, int],
    *,
    examples: Callable[[], Batches],
    general_text: Callable[[], Batches],
) -> Any:
    """The adapter of `config.method` on the modules named; everything that is drawn, from the run's seed.

    Args:
        backbone: frozen; a method with `moves_backbone` changes its weights.
        config: the run.
        ranks: of each module, by path.
        examples: the first training examples, for the methods that look at them first.
        general_text: documents that nothing is measured on, likewise.
    """
    wanted = Adaptation(config=config, ranks=ranks, examples=examples, general_text=general_text)
    torch.manual_seed(config.seed)  # PEFT initializes from the global generator
    with quiet_peft():
        return maker_of(config.spec).make(backbone, wanted)
