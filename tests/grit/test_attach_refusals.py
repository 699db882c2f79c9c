"""What `attach` cannot do is refused, by name and at once; what it says that it does is right."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from architectures import ARCHITECTURES
from attached import ACTIVE, WATCH, adapted, moving, reloaded, take_step
from peft import LoraConfig
from torch import nn

from grit.adapters.peft_adapters import quiet_peft
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.geometry.export import export_adapter

# Models.


@pytest.mark.filterwarnings("ignore")
def test_wrappers_are_refused_before_they_hide_the_model(tiny_llama):
    model = tiny_llama()
    optimizer = moving(model)
    with pytest.raises(ConfigError, match="compiled already: attach .* before torch.compile"):
        attach(torch.compile(model), optimizer, WATCH)
    with pytest.raises(ConfigError, match=r"^model = 'DataParallel': .* attach to its \.module"):
        attach(nn.DataParallel(model), optimizer, WATCH)
    model.compile()
    with pytest.raises(ConfigError, match="compiled already"):
        attach(model, optimizer, WATCH)


def test_a_second_handle_on_the_same_adapter_is_refused_until_the_first_is_gone(tiny_llama):
    model = tiny_llama()
    optimizer = moving(model)
    handle = attach(model, optimizer, WATCH)
    with pytest.raises(ConfigError, match=r"q_proj'?: has GRIT attached already: handle\.detach\(\) first"):
        attach(model, optimizer, WATCH)
    handle.detach()
    attach(model, optimizer, WATCH)


def test_a_vision_tower_is_refused_and_the_language_model_is_not():
    llava = next(entry for entry in ARCHITECTURES if entry.name.startswith("Llava"))
    model = adapted(llava.backbone(), r=4, target_modules=["q_proj"])
    with pytest.raises(ConfigError, match="vision_tower.*: lies outside the text part"):
        attach(model, moving(model), WATCH)


def test_experts_single_parameters_and_fused_attention_are_refused_by_name():
    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(4, 4)])

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    expert = adapted(Expert(), r=2, target_modules=["0"])
    with pytest.raises(ConfigError, match=r"experts\.0'?: belongs to an expert"):
        attach(expert, moving(expert), WATCH, labels="aligned")
    fused = adapted(Attention(), r=2, target_modules=["attention"])
    with pytest.raises(ConfigError, match="attention'?: .* uses another variant"):
        attach(fused, moving(fused), WATCH, labels="aligned")
    single = adapted(Expert(), r=2, target_modules=[], target_parameters=["experts.0.weight"])
    with pytest.raises(ConfigError, match="uses another variant"):
        attach(single, moving(single), WATCH, labels="aligned")


def test_an_adapter_that_does_not_act_is_refused(tiny_llama):
    model = tiny_llama(dropout=0.0)
    with quiet_peft():
        model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    optimizer = moving(model)
    with pytest.raises(ConfigError, match=r"^adapter = 'other': does not act in .*set_adapter\('other'\)"):
        attach(model, optimizer, WATCH, adapter="other")
    model.merge_adapter()
    with pytest.raises(ConfigError, match="has its adapter merged"):
        attach(model, optimizer, WATCH)


def test_a_task_type_that_contradicts_the_model_and_an_unknown_layout_are_refused(tiny_t5, tiny_llama):
    backbone = tiny_t5.unload()
    model = adapted(backbone, r=4, target_modules=["q"], task_type="CAUSAL_LM")
    with pytest.raises(ConfigError, match="^task_type = 'CAUSAL_LM': T5For.* is an encoder-decoder"):
        attach(model, moving(model), WATCH)
    llama = tiny_llama()
    with pytest.raises(ConfigError, match="^labels = 'shifted': must be one of causal, "):
        attach(llama, moving(llama), WATCH, labels="shifted")


# Optimizers.


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_both_factors_must_be_trained(tiny_llama, factor):
    """Reprojection writes both: a frozen one would move, and one that nobody trains would stay behind."""
    model = tiny_llama()
    half = [p for name, p in model.named_parameters() if p.requires_grad and factor not in name]
    with pytest.raises(ConfigError, match=f"does not train the adapter of .*q_proj \\({factor[-1]}\\)"):
        attach(model, torch.optim.AdamW(half), WATCH)
    optimizer = moving(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and factor not in name)
    with pytest.raises(ConfigError, match=f"its {factor[-1]} is frozen"):
        attach(model, optimizer, WATCH)


def test_a_closure_is_evaluated_before_its_gradient_is_preconditioned(tiny_llama, token_batches):
    """As Lightning steps: forward and backward run inside `optimizer.step(closure)`."""
    ends = []
    for closed in (False, True):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = moving(model)
        attach(model.train(), optimizer, ACTIVE)
        losses = []
        for batch in batches:

            def closure(batch=batch, model=model, optimizer=optimizer):
                optimizer.zero_grad()
                loss = model(**batch).loss
                loss.backward()
                return loss

            if closed:
                losses.append(float(optimizer.step(closure).detach()))
            else:
                losses.append(float(closure().detach()))
                optimizer.step()
        ends.append((losses, [p.detach() for p in model.parameters()]))
    assert ends[0][0] == ends[1][0]
    assert all(map(torch.equal, ends[0][1], ends[1][1]))


def test_optimizers_that_look_at_the_loss_several_times_are_refused(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    with pytest.raises(ConfigError, match="^optimizer = 'LBFGS': computes the loss several times"):
        attach(model, torch.optim.LBFGS([p for p in model.parameters() if p.requires_grad]), WATCH)

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            return super().step(closure)

    optimizer = moving(model, Twice)
    attach(model.train(), optimizer, WATCH)

    def closure():
        loss = model(**batch).loss
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="evaluates its closure several times"):
        optimizer.step(closure)


@pytest.mark.filterwarnings("ignore")
def test_what_accelerate_prepared_is_attached_to_as_well(tiny_llama, token_batches):
    from accelerate import Accelerator

    ends = []
    for first in (True, False):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = moving(model)
        if first:
            attach(model.train(), optimizer, ACTIVE)
        prepared, wrapped = Accelerator(cpu=True).prepare(model, optimizer)
        if not first:
            attach(prepared.train(), wrapped, ACTIVE)
        for batch in batches:
            take_step(prepared, wrapped, batch)
        ends.append([p.detach() for p in model.parameters()])
    assert all(map(torch.equal, *ends))


# What happens later.


def test_replaced_parameters_stop_the_next_step(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    optimizer = moving(model)
    handle = attach(model.train(), optimizer, WATCH)
    down = handle.layers[3].down
    down.weight = nn.Parameter(down.weight.detach().clone())
    model(**batch).loss.backward()
    with pytest.raises(RuntimeError, match=f"{handle.layers[3].name} has other parameters"):
        optimizer.step()


def test_a_state_of_other_layers_is_refused(tiny_llama):
    model, wider = tiny_llama(), tiny_llama(rank=6)
    handle, other = (attach(m, moving(m), WATCH) for m in (model, wider))
    with pytest.raises(ConfigError, match="q_proj'?: has rank 6 in this state, and 4 in this model"):
        handle.load_state_dict(other.state_dict())


def test_weights_loaded_behind_the_handle_are_not_truncated_by_later_directions(
    tiny_llama, token_batches, tmp_path
):
    """As `load_best_model_at_end` does: earlier weights come back, the handle knows later directions."""
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = moving(model)
    handle = attach(model.train(), optimizer, ACTIVE)
    for step, batch in enumerate(batches[:3]):
        take_step(model, optimizer, batch)
        if step == 1:
            best, held = copy.deepcopy(model.state_dict()), copy.deepcopy(handle.state_dict())
    model.load_state_dict(best)
    with pytest.raises(RuntimeError, match="weights were written since the last step"):
        export_adapter(model, handle, tmp_path)
    handle.load_state_dict(held)
    export_adapter(model, handle, tmp_path)
    loaded = reloaded(tiny_llama(dropout=0.0).unload(), tmp_path)
    model.load_state_dict(best)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batches[0]).logits, model.eval()(**batches[0]).logits)


@pytest.mark.parametrize("suppression", ["project", "gate"])
def test_copies_compute_the_same_and_feed_nobody(tiny_llama, token_batches, suppression):
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = moving(model)
    handle = attach(model.train(), optimizer, replace(ACTIVE, suppression=suppression))
    for batch in batches:
        take_step(model, optimizer, batch)
    assert bool(handle.gates()) == (suppression == "gate")
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    before = handle.state_dict()["groups"]
    for copied in (copy.deepcopy(model), torch.load(stored, weights_only=False)):
        copied.train()(**batches[1]).loss.backward()
        torch.testing.assert_close(copied(**batches[0]).logits, model(**batches[0]).logits)
        if suppression == "project":
            attach(copied, moving(copied), WATCH).detach()
            continue
        with pytest.raises(ConfigError, match="is a copy with a gate"):
            attach(copied, moving(copied), WATCH)
    optimizer.zero_grad()
    take_step(model, optimizer, batches[0])
    seen = int(batches[0]["attention_mask"].sum())
    for group, held in zip(handle.state_dict()["groups"], before, strict=True):
        added = group["statistics"]["moment_a"]["samples"] - held["statistics"]["moment_a"]["samples"]
        assert set(added.tolist()) == {seen}
