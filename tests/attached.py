"""What tests of attached models share: how they are adapted and stepped, and their factors' definition."""

import torch
from architectures import ARCHITECTURES
from oracles import assert_factors, factors_by_definition
from peft import LoraConfig, PeftModel, get_peft_model

from grit.adapters.peft_adapters import quiet_peft
from grit.capture.label_positions import streams_of
from grit.config.method import GritConfig

WATCH = GritConfig(cov_update_freq=1, preconditioner="none", T=None)
ACTIVE = GritConfig(
    cov_update_freq=1, kfac_update_freq=1, kfac_min_samples=1, T=2, min_lora_rank=1, tau=0.7, lambda_=1e-2
)


def architecture(name):
    return next(entry for entry in ARCHITECTURES if entry.name == name)


def parameters(model):
    return [p for p in model.parameters() if p.requires_grad]


def still(model):
    """An optimizer that leaves the weights where they are."""
    return torch.optim.SGD(parameters(model), lr=0.0)


def moving(model, kind=torch.optim.AdamW, **options):
    return kind(parameters(model), lr=1e-2, **options)


def adapted(backbone, **lora):
    with quiet_peft():
        return get_peft_model(backbone, LoraConfig(init_lora_weights=False, **lora))


def reloaded(backbone, path):
    """As PEFT alone loads an export."""
    with quiet_peft():
        return PeftModel.from_pretrained(backbone, str(path)).double().eval()


def take_step(model, optimizer, batch):
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def assert_defined(handle, model, micro_batches, layout, *, rtol=1e-3, atol=1e-4):
    """The factors are those of the definition. Takes GRIT out of the model."""
    streams = streams_of(model, layout, [layer.name for layer in handle.layers])
    handle.detach()
    model.zero_grad()
    expected = factors_by_definition(model, handle.layers, micro_batches, layout, streams)
    assert_factors(handle, expected, rtol=rtol, atol=atol)
