import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from attached import ACTIVE as REFRESHING
from attached import WATCH, adapted, moving, reloaded, take_step
from peft import LoraConfig, PeftModel
from torch import nn

from grit.adapters.peft_adapters import quiet_peft
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.geometry.export import export_adapter, truncated

ACTIVE = GritConfig(
    cov_update_freq=1,
    kfac_update_freq=1,
    kfac_min_samples=1,
    T=2,
    min_lora_rank=1,
    tau=0.8,
    max_grad_norm=1.0,
)


def _trained(tiny_llama, token_batches, config, steps=5):
    """Trained past its last reprojection, so that discarded directions have been refilled."""
    model, batches = tiny_llama(dropout=0.1, dtype=torch.float32, rank=8), token_batches()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    handle = attach(model.train(), optimizer, config)
    for step in range(steps):
        model(**batches[step % 4]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), handle, batches[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"two_sided": False},
        {"basis": "balanced"},
        {"suppression": "gate"},
        {"rank_adaptation": False},
        {"reprojection_mix": 0.5},
        {"reprojection_freq": None},
        {"subspace_mixing": 0.4},
    ],
)
def test_the_exported_adapter_is_the_trained_model(tiny_llama, token_batches, tmp_path, changes):
    """Loaded by plain PEFT on the original backbone, it computes the same logits.

    Its file is smaller by the ratio that is reported.
    """
    model, handle, batch = _trained(
        tiny_llama, token_batches, replace(ACTIVE, **{"reprojection_k": 3, **changes})
    )
    report = export_adapter(model, handle, tmp_path / "adapter")
    logits = model(**batch).logits
    with quiet_peft():
        backbone = tiny_llama(dropout=0.0, dtype=torch.float32, rank=8).unload()
        loaded = PeftModel.from_pretrained(backbone, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**batch).logits, logits, rtol=1e-5, atol=1e-5)
    ranks = {
        name: module.lora_A["default"].weight.shape[0]
        for name, module in loaded.named_modules()
        if hasattr(module, "lora_A")
    }
    assert ranks == report.ranks
    trains_all = changes in ({"reprojection_mix": 0.5}, {"reprojection_freq": None})
    assert (report.effective_parameters == report.parameters) == trains_all
    if not trains_all:
        assert ranks == handle.ranks()
        assert min(ranks.values()) < 8
    stored = sum(tensor.numel() for tensor in _tensors(tmp_path / "adapter"))
    assert stored == report.effective_parameters
    assert 4 * stored < report.bytes < 4 * stored + 8000  # four bytes each, and the header


def _tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors").values()


@pytest.mark.parametrize("basis", ["fisher", "balanced"])
def test_a_bf16_adapter_is_exported_within_its_rounding(tiny_llama, token_batches, tmp_path, basis):
    model, batches = tiny_llama(dropout=0.0, dtype=torch.bfloat16, rank=8), token_batches()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    handle = attach(model.train(), optimizer, replace(ACTIVE, basis=basis))
    for step in range(5):
        model(**batches[step % 4]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    report = export_adapter(model, handle, tmp_path)
    assert report.effective_parameters < report.parameters


def test_the_file_shrinks_in_the_ratio_of_effective_parameters(bench, short_run, tmp_path):
    """On the embedded backbone, where the header is small beside the weights."""
    config = short_run(rank=16)
    sizes = {}
    for k in (16, 4):
        model = bench.adapted(config)
        try:
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
            handle = attach(
                model.train(),
                optimizer,
                GritConfig(
                    cov_update_freq=1, T=1, kfac_min_samples=1, rank_adaptation=False, reprojection_k=k
                ),
            )
            from grit.data.encode import collate

            batch = collate(bench.training_data(config)[:4], bench.tokenizer(config).pad_token_id)
            model(**batch).loss.backward()
            optimizer.step()
            report = export_adapter(model, handle, tmp_path / str(k))
            sizes[k] = (report.bytes, report.effective_parameters)
            handle.detach()
        finally:
            bench.release(model)
    assert sizes[4][1] / sizes[16][1] == 0.25
    assert sizes[4][0] / sizes[16][0] == pytest.approx(0.25, abs=0.03)


def test_an_adapter_may_start_at_different_ranks_and_scalings(tiny_llama, token_batches, tmp_path):
    model, handle, batch = _trained(tiny_llama, token_batches, ACTIVE)
    export_adapter(model, handle, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["alpha_pattern"] == {
        name: k * 1.0 for name, k in config["rank_pattern"].items()
    }  # alpha / r = 1 before and after
    assert config["use_rslora"] is False
    assert len(config["rank_pattern"]) == 14


def test_an_update_trained_behind_the_handles_back_is_refused(tiny_llama, token_batches, tmp_path):
    model, handle, _ = _trained(tiny_llama, token_batches, ACTIVE)
    handle.finish()
    smallest = min(handle.layers, key=lambda layer: handle.ranks()[layer.name])
    for weight in (smallest.down.weight, smallest.up.weight):
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(RuntimeError, match=f"{smallest.name}: .* energy"):
        export_adapter(model, handle, tmp_path)


def test_an_initialization_that_changed_the_backbone_is_refused(tiny_llama, token_batches, tmp_path):
    from peft import LoraConfig, get_peft_model

    backbone = tiny_llama(dropout=0.0, dtype=torch.float32).unload()
    with quiet_peft():
        model = get_peft_model(
            backbone,
            LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM"),
        )
    handle = attach(
        model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), ACTIVE
    )
    with pytest.raises(ConfigError, match="^init_lora_weights = 'pissa'"):
        export_adapter(model, handle, tmp_path)


def test_truncation_is_the_best_approximation_and_tells_its_loss():
    generator = torch.Generator().manual_seed(0)
    a, b, g = (
        torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((4, 9), (7, 4), (4, 4))
    )
    down, up, lost = truncated(a, b, g, 2)
    whole = b @ g @ a
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    torch.testing.assert_close(up @ down, (left[:, :2] * values[:2]) @ right[:2])
    assert lost == pytest.approx(float(values[2:].square().sum() / values.square().sum()))
    torch.testing.assert_close(down.norm(), up.norm())
    assert truncated(a, torch.zeros(7, 4, dtype=torch.float64), None, 2)[2] == 0.0


# Adapters that are not the usual one.


def test_an_adapter_of_another_name_is_exported_under_its_own_configuration(
    tiny_llama, token_batches, tmp_path
):
    backbone = tiny_llama(dropout=0.0).unload()
    model = adapted(backbone, r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = model.double()
    model.add_adapter(
        "second", LoraConfig(r=6, target_modules=["v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    model.set_adapter("second")
    optimizer = moving(model)
    handle = attach(model.double().train(), optimizer, REFRESHING, adapter="second")
    for batch in token_batches():
        take_step(model, optimizer, batch)
    with pytest.raises(ConfigError, match="^adapter = 'default': this handle trains 'second'"):
        export_adapter(model, handle, tmp_path, adapter="default")
    assert export_adapter(model, handle, tmp_path).parameters == 2 * 6 * (32 + 16)
    expected = model.eval()(**token_batches()[0]).logits
    loaded = reloaded(tiny_llama(dropout=0.0).unload(), tmp_path)
    torch.testing.assert_close(loaded(**token_batches()[0]).logits, expected, rtol=1e-6, atol=1e-7)


def test_an_adapter_of_transformers_itself_loads_as_a_peft_adapter(tiny_llama, token_batches, tmp_path):
    model = tiny_llama(dropout=0.0).unload()
    with quiet_peft():
        model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    optimizer = moving(model.double())
    handle = attach(model.train(), optimizer, REFRESHING)
    for batch in token_batches():
        take_step(model, optimizer, batch)
    assert export_adapter(model, handle, tmp_path).effective_parameters < 2 * 4 * 64
    expected = model.eval()(**token_batches()[0]).logits
    loaded = reloaded(tiny_llama(dropout=0.0).unload(), tmp_path)
    torch.testing.assert_close(loaded(**token_batches()[0]).logits, expected, rtol=1e-6, atol=1e-7)


def test_layers_narrower_than_their_rank_are_exported_at_their_width(tiny_llama, token_batches, tmp_path):
    model = adapted(tiny_llama().unload(), r=40, target_modules=["k_proj"], task_type="CAUSAL_LM").double()
    optimizer = moving(model)
    handle = attach(model.train(), optimizer, WATCH)
    take_step(model, optimizer, token_batches(count=1)[0])
    report = export_adapter(model, handle, tmp_path)
    assert set(report.ranks.values()) == {16}  # two key heads of eight
    assert report.effective_parameters == 2 * 16 * (32 + 16) < report.parameters
    expected = model.eval()(**token_batches()[0]).logits
    loaded = reloaded(tiny_llama().unload(), tmp_path)
    torch.testing.assert_close(loaded(**token_batches()[0]).logits, expected, rtol=1e-6, atol=1e-7)


class _Nested(nn.Module):
    """Two layers of the same last name, one path an ending of the other."""

    def __init__(self):
        super().__init__()
        self.q, self.block = nn.Linear(8, 8), nn.ModuleDict({"q": nn.Linear(8, 8)})

    def forward(self, inputs_embeds=None, labels=None):
        logits = self.block["q"](torch.tanh(self.q(inputs_embeds)))
        return SimpleNamespace(
            loss=nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits=logits
        )


def test_ranks_of_paths_that_end_alike_do_not_mix(tmp_path):
    from grit.adapters.peft_adapters import adapted_layers, save_lora

    torch.manual_seed(0)
    backbone = _Nested()
    model = adapted(copy.deepcopy(backbone), r=4, target_modules=["q"])
    factors = {}
    for layer, rank in zip(adapted_layers(model), (1, 3), strict=True):
        factors[layer.name] = (layer.down.weight.detach()[:rank], layer.up.weight.detach()[:, :rank])
        layer.down.weight.data[rank:] = 0
    save_lora(
        model, {layer.name: layer.scaling for layer in adapted_layers(model)}, factors, tmp_path, "default"
    )
    loaded = reloaded(backbone, tmp_path).float()
    x, labels = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.int64)
    expected = model.eval()(inputs_embeds=x, labels=labels).logits
    torch.testing.assert_close(loaded(inputs_embeds=x, labels=labels).logits, expected)
