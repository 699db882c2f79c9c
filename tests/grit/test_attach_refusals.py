"""What `attach` cannot do is refused, by name and at once; what it says that it does is right."""

import copy
import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from architectures import ARCHITECTURES
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from grit.adapters.peft_adapters import quiet_peft
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.geometry.export import export_adapter

WATCH = GritConfig(cov_update_freq=1, preconditioner="none", T=None)
ACTIVE = GritConfig(
    cov_update_freq=1, kfac_update_freq=1, kfac_min_samples=1, T=2, min_lora_rank=1, tau=0.7, lambda_=1e-2
)


def _optimizer(model, kind=torch.optim.AdamW, **options):
    return kind([p for p in model.parameters() if p.requires_grad], lr=1e-2, **options)


def _adapted(backbone, **lora):
    with quiet_peft():
        return get_peft_model(backbone, LoraConfig(init_lora_weights=False, **lora))


def _loaded(backbone, path):
    with quiet_peft():
        return PeftModel.from_pretrained(backbone, str(path)).double().eval()


def _step(model, optimizer, batch):
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


# Models.


@pytest.mark.filterwarnings("ignore")
def test_wrappers_are_refused_before_they_hide_the_model(tiny_llama):
    model = tiny_llama()
    optimizer = _optimizer(model)
    with pytest.raises(ConfigError, match="compiled already: attach .* before torch.compile"):
        attach(torch.compile(model), optimizer, WATCH)
    with pytest.raises(ConfigError, match=r"^model = 'DataParallel': .* attach to its \.module"):
        attach(nn.DataParallel(model), optimizer, WATCH)
    model.compile()
    with pytest.raises(ConfigError, match="compiled already"):
        attach(model, optimizer, WATCH)


def test_a_second_handle_on_the_same_adapter_is_refused_until_the_first_is_gone(tiny_llama):
    model = tiny_llama()
    optimizer = _optimizer(model)
    handle = attach(model, optimizer, WATCH)
    with pytest.raises(ConfigError, match=r"q_proj'?: has GRIT attached already: handle\.detach\(\) first"):
        attach(model, optimizer, WATCH)
    handle.detach()
    attach(model, optimizer, WATCH)


def test_a_vision_tower_is_refused_and_the_language_model_is_not():
    llava = next(entry for entry in ARCHITECTURES if entry.name.startswith("Llava"))
    model = _adapted(llava.backbone(), r=4, target_modules=["q_proj"])
    with pytest.raises(ConfigError, match="vision_tower.*: lies outside the text part"):
        attach(model, _optimizer(model), WATCH)


def test_experts_single_parameters_and_fused_attention_are_refused_by_name():
    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(4, 4)])

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    expert = _adapted(Expert(), r=2, target_modules=["0"])
    with pytest.raises(ConfigError, match=r"experts\.0'?: belongs to an expert"):
        attach(expert, _optimizer(expert), WATCH, labels="aligned")
    fused = _adapted(Attention(), r=2, target_modules=["attention"])
    with pytest.raises(ConfigError, match="attention'?: .* uses another variant"):
        attach(fused, _optimizer(fused), WATCH, labels="aligned")
    single = _adapted(Expert(), r=2, target_modules=[], target_parameters=["experts.0.weight"])
    with pytest.raises(ConfigError, match="uses another variant"):
        attach(single, _optimizer(single), WATCH, labels="aligned")


def test_an_adapter_that_does_not_act_is_refused(tiny_llama):
    model = tiny_llama(dropout=0.0)
    with quiet_peft():
        model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    optimizer = _optimizer(model)
    with pytest.raises(ConfigError, match=r"^adapter = 'other': does not act in .*set_adapter\('other'\)"):
        attach(model, optimizer, WATCH, adapter="other")
    model.merge_adapter()
    with pytest.raises(ConfigError, match="has its adapter merged"):
        attach(model, optimizer, WATCH)


def test_a_task_type_that_contradicts_the_model_and_an_unknown_layout_are_refused(tiny_t5, tiny_llama):
    backbone = tiny_t5.unload()
    model = _adapted(backbone, r=4, target_modules=["q"], task_type="CAUSAL_LM")
    with pytest.raises(ConfigError, match="^task_type = 'CAUSAL_LM': T5For.* is an encoder-decoder"):
        attach(model, _optimizer(model), WATCH)
    llama = tiny_llama()
    with pytest.raises(ConfigError, match="^labels = 'shifted': must be one of causal, "):
        attach(llama, _optimizer(llama), WATCH, labels="shifted")


# Optimizers.


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_both_factors_must_be_trained(tiny_llama, factor):
    """Reprojection writes both: a frozen one would move, and one that nobody trains would stay behind."""
    model = tiny_llama()
    half = [p for name, p in model.named_parameters() if p.requires_grad and factor not in name]
    with pytest.raises(ConfigError, match=f"does not train the adapter of .*q_proj \\({factor[-1]}\\)"):
        attach(model, torch.optim.AdamW(half), WATCH)
    optimizer = _optimizer(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and factor not in name)
    with pytest.raises(ConfigError, match=f"its {factor[-1]} is frozen"):
        attach(model, optimizer, WATCH)


def test_a_closure_is_evaluated_before_its_gradient_is_preconditioned(tiny_llama, token_batches):
    """As Lightning steps: forward and backward run inside `optimizer.step(closure)`."""
    ends = []
    for closed in (False, True):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = _optimizer(model)
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

    optimizer = _optimizer(model, Twice)
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
        optimizer = _optimizer(model)
        if first:
            attach(model.train(), optimizer, ACTIVE)
        prepared, wrapped = Accelerator(cpu=True).prepare(model, optimizer)
        if not first:
            attach(prepared.train(), wrapped, ACTIVE)
        for batch in batches:
            _step(prepared, wrapped, batch)
        ends.append([p.detach() for p in model.parameters()])
    assert all(map(torch.equal, *ends))


# What happens later.


def test_replaced_parameters_stop_the_next_step(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    optimizer = _optimizer(model)
    handle = attach(model.train(), optimizer, WATCH)
    down = handle.layers[3].down
    down.weight = nn.Parameter(down.weight.detach().clone())
    model(**batch).loss.backward()
    with pytest.raises(RuntimeError, match=f"{handle.layers[3].name} has other parameters"):
        optimizer.step()


def test_a_state_of_other_layers_is_refused(tiny_llama):
    model, wider = tiny_llama(), tiny_llama(rank=6)
    handle, other = (attach(m, _optimizer(m), WATCH) for m in (model, wider))
    with pytest.raises(ConfigError, match="q_proj'?: has rank 6 in this state, and 4 in this model"):
        handle.load_state_dict(other.state_dict())


def test_weights_loaded_behind_the_handle_are_not_truncated_by_later_directions(
    tiny_llama, token_batches, tmp_path
):
    """As `load_best_model_at_end` does: earlier weights come back, the handle knows later directions."""
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = _optimizer(model)
    handle = attach(model.train(), optimizer, ACTIVE)
    for step, batch in enumerate(batches[:3]):
        _step(model, optimizer, batch)
        if step == 1:
            best, held = copy.deepcopy(model.state_dict()), copy.deepcopy(handle.state_dict())
    model.load_state_dict(best)
    with pytest.raises(RuntimeError, match="weights were written since the last step"):
        export_adapter(model, handle, tmp_path)
    handle.load_state_dict(held)
    export_adapter(model, handle, tmp_path)
    with quiet_peft():
        loaded = _loaded(tiny_llama(dropout=0.0).unload(), tmp_path)
    model.load_state_dict(best)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batches[0]).logits, model.eval()(**batches[0]).logits)


@pytest.mark.parametrize("suppression", ["project", "gate"])
def test_copies_compute_the_same_and_feed_nobody(tiny_llama, token_batches, suppression):
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = _optimizer(model)
    handle = attach(model.train(), optimizer, replace(ACTIVE, suppression=suppression))
    for batch in batches:
        _step(model, optimizer, batch)
    assert bool(handle.gates()) == (suppression == "gate")
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    before = handle.state_dict()["groups"]
    for copied in (copy.deepcopy(model), torch.load(stored, weights_only=False)):
        copied.train()(**batches[1]).loss.backward()
        torch.testing.assert_close(copied(**batches[0]).logits, model(**batches[0]).logits)
        if suppression == "project":
            attach(copied, _optimizer(copied), WATCH).detach()
            continue
        with pytest.raises(ConfigError, match="is a copy with a gate"):
            attach(copied, _optimizer(copied), WATCH)
    optimizer.zero_grad()
    _step(model, optimizer, batches[0])
    seen = int(batches[0]["attention_mask"].sum())
    for group, held in zip(handle.state_dict()["groups"], before, strict=True):
        added = group["statistics"]["moment_a"]["samples"] - held["statistics"]["moment_a"]["samples"]
        assert set(added.tolist()) == {seen}


# Passes that are not one forward and one backward.


def _factors(tiny_llama, batches, backward, **options):
    model = tiny_llama(dropout=0.0)
    if options.get("checkpointing"):
        model.enable_input_require_grads()
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
    optimizer = _optimizer(model, torch.optim.SGD, momentum=0.0)
    handle = attach(model.train(), optimizer, WATCH)
    backward(model, batches)
    optimizer.step()
    return handle.factors()


def _plain(model, batches):
    for batch in batches:
        (model(**batch).loss / len(batches)).backward()


def _twice_through_one(model, batches):
    for batch in batches:
        loss = model(**batch).loss / len(batches)
        (0.25 * loss).backward(retain_graph=True)
        (0.75 * loss).backward()


def _one_backward(model, batches):
    sum(model(**batch).loss / len(batches) for batch in batches).backward()


@pytest.mark.parametrize(
    "backward, checkpointing", [(_twice_through_one, False), (_one_backward, False), (_one_backward, True)]
)
def test_passes_may_share_a_forward_or_a_backward(tiny_llama, token_batches, backward, checkpointing):
    expected = _factors(tiny_llama, token_batches(), _plain)
    factors = _factors(tiny_llama, token_batches(), backward, checkpointing=checkpointing)
    for name, entry in expected.items():
        assert entry[2:] == factors[name][2:]
        for side in (0, 1):
            torch.testing.assert_close(factors[name][side], entry[side], rtol=1e-5, atol=1e-9)


def test_a_backward_pass_through_a_pass_that_was_counted_is_refused(tiny_llama, token_batches):
    model, batches = tiny_llama(dropout=0.0), token_batches()
    attach(model.train(), _optimizer(model), WATCH)
    loss = model(**batches[0]).loss
    loss.backward(retain_graph=True)
    model(**batches[1]).loss.backward()
    with pytest.raises(RuntimeError, match="second backward pass went through a forward pass"):
        loss.backward()


def test_a_first_layer_without_a_gradient_does_not_discard_the_step(tiny_llama, token_batches):
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = _optimizer(model)
    handle = attach(model.train(), optimizer, WATCH, verify=False)
    for batch in batches:
        model(**batch).loss.backward()
        handle.layers[0].down.weight.grad = handle.layers[0].up.weight.grad = None
    optimizer.step()
    assert {entry.seen_a for entry in handle.factors().values()} == {
        sum(int(batch["attention_mask"].sum()) for batch in batches)
    }


# What the first steps verify.


def _smoothed(model, batch):
    output = model(**batch)
    return output.loss + 10 * output.logits.square().mean()


def test_a_loss_that_is_more_than_the_labels_is_named(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    optimizer = _optimizer(model)
    attach(model.train(), optimizer, WATCH)
    _smoothed(model, batch).backward()
    with pytest.raises(
        RuntimeError, match=r"the loss is not the mean .* of the gradient at logits come from"
    ):
        optimizer.step()
    unchecked = tiny_llama(dropout=0.0)
    optimizer = _optimizer(unchecked)
    attach(unchecked.train(), optimizer, WATCH, verify=False)
    _smoothed(unchecked, batch).backward()
    optimizer.step()


def test_unshifted_labels_are_named_with_the_layout_that_explains_them():
    entry = next(entry for entry in ARCHITECTURES if entry.name == "BartForCausalLM")
    model = entry.make().train()
    optimizer = _optimizer(model)
    attach(model, optimizer, WATCH)
    tokens = torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(1))
    model(input_ids=tokens, labels=tokens).loss.backward()
    with pytest.raises(RuntimeError, match="line up with positions as 'aligned', not as 'causal'"):
        optimizer.step()


@pytest.mark.parametrize("change", ["kept", "scaled", "lost"])
def test_gradients_that_the_capture_does_not_explain_are_named(tiny_llama, token_batches, change):
    """Kept from the last step, or turned for one layer; a factor common to all is a loop's clipping."""
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = _optimizer(model)
    handle = attach(model.train(), optimizer, WATCH)
    if change == "kept":
        model(**batches[0]).loss.backward()
        optimizer.step()
    model(**batches[1]).loss.backward()
    for parameter in model.parameters():
        if change == "scaled" and parameter.grad is not None:
            parameter.grad *= 0.01
    if change == "lost":
        handle.layers[2].down.weight.grad *= -1.0
    if change == "scaled":
        with pytest.warns(UserWarning, match=r"multiplied by 0\.01 before GRIT saw them .*max_grad_norm"):
            optimizer.step()
        return
    with pytest.raises(RuntimeError, match="what was captured does not explain its gradient"):
        optimizer.step()


class _SequenceFirst(nn.Module):
    """Reads (sequence, batch), as older attention does, and scores every position."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        logits = self.layer(self.embedding(input_ids.T)).transpose(0, 1)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return SimpleNamespace(loss=loss, logits=logits)


@pytest.mark.parametrize("length", [4, 6])
def test_positions_that_merely_agree_in_number_are_named(length):
    """By their shape; where batch and sequence are equally long, by gradients on what should be padding."""
    torch.manual_seed(0)
    model = _adapted(_SequenceFirst(), r=2, target_modules=["layer"]).train()
    optimizer = _optimizer(model)
    attach(model, optimizer, WATCH, labels="aligned")
    tokens = torch.randint(0, 20, (4, length))
    mask = torch.ones_like(tokens)
    mask[0, 2:] = 0
    model(input_ids=tokens, attention_mask=mask, labels=tokens.masked_fill(mask == 0, -100)).loss.backward()
    expected = "of its gradient lies where" if length == 4 else "saw positions of shape"
    with pytest.raises(RuntimeError, match=f"layer.*{expected}"):
        optimizer.step()


def test_masks_that_do_not_tell_padding_are_refused(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    attach(model.train(), _optimizer(model), WATCH)
    for mask, kind in (({"full_attention": None}, "as dict"), (torch.ones(2, 1, 9, 9), r"of shape \(2, 1")):
        with pytest.raises(ValueError, match=f"an attention_mask {kind}"):
            model(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"])


# Exports.


def test_an_adapter_of_another_name_is_exported_under_its_own_configuration(
    tiny_llama, token_batches, tmp_path
):
    backbone = tiny_llama(dropout=0.0).unload()
    model = _adapted(backbone, r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = model.double()
    model.add_adapter(
        "second", LoraConfig(r=6, target_modules=["v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    model.set_adapter("second")
    optimizer = _optimizer(model)
    handle = attach(model.double().train(), optimizer, ACTIVE, adapter="second")
    for batch in token_batches():
        _step(model, optimizer, batch)
    with pytest.raises(ConfigError, match="^adapter = 'default': this handle trains 'second'"):
        export_adapter(model, handle, tmp_path, adapter="default")
    assert export_adapter(model, handle, tmp_path).parameters == 2 * 6 * (32 + 16)
    expected = model.eval()(**token_batches()[0]).logits
    loaded = _loaded(tiny_llama(dropout=0.0).unload(), tmp_path)
    torch.testing.assert_close(loaded(**token_batches()[0]).logits, expected, rtol=1e-6, atol=1e-7)


def test_an_adapter_of_transformers_itself_loads_as_a_peft_adapter(tiny_llama, token_batches, tmp_path):
    model = tiny_llama(dropout=0.0).unload()
    with quiet_peft():
        model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    optimizer = _optimizer(model.double())
    handle = attach(model.train(), optimizer, ACTIVE)
    for batch in token_batches():
        _step(model, optimizer, batch)
    assert export_adapter(model, handle, tmp_path).effective_parameters < 2 * 4 * 64
    expected = model.eval()(**token_batches()[0]).logits
    loaded = _loaded(tiny_llama(dropout=0.0).unload(), tmp_path)
    torch.testing.assert_close(loaded(**token_batches()[0]).logits, expected, rtol=1e-6, atol=1e-7)


def test_layers_narrower_than_their_rank_are_exported_at_their_width(tiny_llama, token_batches, tmp_path):
    model = _adapted(tiny_llama().unload(), r=40, target_modules=["k_proj"], task_type="CAUSAL_LM").double()
    optimizer = _optimizer(model)
    handle = attach(model.train(), optimizer, WATCH)
    _step(model, optimizer, token_batches(count=1)[0])
    report = export_adapter(model, handle, tmp_path)
    assert set(report.ranks.values()) == {16}  # two key heads of eight
    assert report.effective_parameters == 2 * 16 * (32 + 16) < report.parameters
    expected = model.eval()(**token_batches()[0]).logits
    loaded = _loaded(tiny_llama().unload(), tmp_path)
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
    model = _adapted(copy.deepcopy(backbone), r=4, target_modules=["q"])
    factors = {}
    for layer, rank in zip(adapted_layers(model), (1, 3), strict=True):
        factors[layer.name] = (layer.down.weight.detach()[:rank], layer.up.weight.detach()[:, :rank])
        layer.down.weight.data[rank:] = 0
    save_lora(
        model, {layer.name: layer.scaling for layer in adapted_layers(model)}, factors, tmp_path, "default"
    )
    loaded = _loaded(backbone, tmp_path).float()
    x, labels = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.int64)
    expected = model.eval()(inputs_embeds=x, labels=labels).logits
    torch.testing.assert_close(loaded(inputs_embeds=x, labels=labels).logits, expected)
