"""The checks of the first steps: right where loops and numbers are awkward, and silent where all is well."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from architectures import ARCHITECTURES, batches
from oracles import factors_by_definition
from torch import nn

from grit.capture.label_positions import streams_of
from grit.capture.loss_scale import evidence_at
from grit.config.first_effect import idle_schedules
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.geometry.handle_summary import warn_of_changes

WATCH = GritConfig(cov_update_freq=1, preconditioner="none", T=None)
ACTIVE = GritConfig(
    cov_update_freq=1, kfac_update_freq=1, kfac_min_samples=1, T=2, min_lora_rank=1, tau=0.7, lambda_=1e-2
)


def _named(name):
    return next(entry for entry in ARCHITECTURES if entry.name == name)


def _parameters(model):
    return [p for p in model.parameters() if p.requires_grad]


def _sgd(model):
    return torch.optim.SGD(_parameters(model), lr=0.0)


def _assert_defined(handle, model, micro_batches, layout, **tolerance):
    streams = streams_of(model, layout, [layer.name for layer in handle.layers])
    handle.detach()
    model.zero_grad()
    expected_a, expected_g, tokens, labelled = factors_by_definition(
        model, handle.layers, micro_batches, layout, streams
    )
    for index, entry in enumerate(handle.factors().values()):
        assert (entry.seen_a, entry.seen_g) == (tokens[index], labelled)
        for own, exact in ((entry.sigma_a, expected_a[index]), (entry.sigma_g, expected_g[index])):
            options = {"rtol": 1e-3, "atol": 1e-4 * float(exact.abs().max()), **tolerance}
            torch.testing.assert_close(own.double(), exact, **options)


# Steps that were not taken.


@pytest.mark.parametrize("cleared", ["to none", "to zero"])
@pytest.mark.parametrize("moment", ["before the forward pass", "before the backward pass"])
def test_a_skipped_step_belongs_to_no_statistics_however_it_is_cleared(
    tiny_llama, token_batches, cleared, moment
):
    model, (first, second) = tiny_llama(dropout=0.0), token_batches()[:2]
    optimizer = _sgd(model)
    handle = attach(model.train(), optimizer, WATCH)
    model(**first).loss.backward()
    # The scaler found an overflow and skipped the step.
    if moment == "before the forward pass":
        optimizer.zero_grad(set_to_none=cleared == "to none")
        loss = model(**second).loss
    else:
        loss = model(**second).loss
        optimizer.zero_grad(set_to_none=cleared == "to none")
    loss.backward()
    optimizer.step()
    _assert_defined(handle, model, [second], "causal")


def test_a_backward_pass_that_failed_and_was_cleared_away_is_forgotten(tiny_llama, token_batches):
    model, (first, second) = tiny_llama(dropout=0.0), token_batches()[:2]
    optimizer = _sgd(model)
    handle = attach(model.train(), optimizer, WATCH)

    def out_of_memory(_gradient):
        raise MemoryError

    hook = handle.layers[5].base.register_forward_hook(
        lambda _m, _i, out: out.register_hook(out_of_memory) and None
    )
    with pytest.raises(MemoryError):
        model(**first).loss.backward()
    hook.remove()
    optimizer.zero_grad()
    model(**second).loss.backward()
    optimizer.step()
    _assert_defined(handle, model, [second], "causal")


def test_a_first_pass_that_is_not_finite_settles_nothing(tiny_llama):
    """`num_items_in_batch` of a step whose first try overflowed: the model heeds it all the same."""
    entry = _named("T5GemmaForConditionalGeneration")
    model, micro_batches = entry.make().train(), batches(entry)
    optimizer = _sgd(model)
    handle = attach(model, optimizer, WATCH)
    items = sum(int((batch["labels"] != -100).sum()) for batch in micro_batches)
    (model(**micro_batches[0], num_items_in_batch=items).loss * float("inf")).backward()
    optimizer.zero_grad()
    for batch in micro_batches:
        model(**batch, num_items_in_batch=items).loss.backward()
    optimizer.step()
    _assert_defined(handle, model, micro_batches, "seq2seq")


# What the loss is a mean over.


@pytest.mark.filterwarnings("ignore")
def test_the_loss_is_seen_behind_what_accelerate_converts(tiny_llama):
    """Its mixed precision returns float32 copies of the outputs; the loss was made of the originals."""
    from accelerate.utils.operations import convert_outputs_to_fp32

    entry = _named("T5GemmaForConditionalGeneration")
    factors = []
    for over_step in (False, True):
        model, micro_batches = entry.make().float().train(), batches(entry)
        optimizer = _sgd(model)
        handle = attach(model, optimizer, WATCH)
        # As `Accelerator.prepare` does it; its own state is one for the whole process.
        autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        model.forward = convert_outputs_to_fp32(autocast(model.forward))
        items = sum(int((batch["labels"] != -100).sum()) for batch in micro_batches)
        for batch in micro_batches:
            if over_step:
                model(**batch, num_items_in_batch=items).loss.backward()
            else:
                own = int((batch["labels"] != -100).sum())
                (model(**batch).loss * own / items).backward()
        optimizer.step()
        factors.append(handle.factors())
    for name, entry in factors[0].items():
        scale = float(entry.sigma_g.abs().max())
        torch.testing.assert_close(factors[1][name].sigma_g, entry.sigma_g, rtol=0.05, atol=0.02 * scale)


@pytest.mark.parametrize("name", ["T5GemmaForConditionalGeneration", "BartForConditionalGeneration"])
def test_what_a_model_does_with_items_is_kept_in_a_checkpoint(name):
    """The second training sees nothing of it: its passes have as many labels as the step."""
    entry = _named(name)
    ends = []
    for interrupted in (False, True):
        model, micro_batches = entry.make().train(), batches(entry)
        optimizer = _sgd(model)
        handle = attach(model, optimizer, WATCH, verify=not interrupted)
        items = sum(int((batch["labels"] != -100).sum()) for batch in micro_batches)
        for step in range(2):
            for batch in micro_batches:
                model(**batch, num_items_in_batch=items).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if interrupted and step == 0:
                held = copy.deepcopy(handle.state_dict())
                handle.detach()
                handle = attach(model, optimizer, WATCH)
                handle.load_state_dict(held)
        ends.append(handle.factors())
    for layer, factors in ends[0].items():
        assert torch.equal(factors.sigma_g, ends[1][layer].sigma_g)


def test_label_counts_that_hardly_differ_are_told_apart():
    """One label of a hundred falls into a second micro-batch: both readings are within a percent."""
    entry = _named("BertForTokenClassification")
    model = entry.make().train()
    optimizer = _sgd(model)
    tokens = torch.randint(3, 40, (12, 9), generator=torch.Generator().manual_seed(1))
    labels = torch.randint(1, 3, (12, 9), generator=torch.Generator().manual_seed(2))
    rest = labels[:1].masked_fill(torch.arange(9)[None] > 0, -100)
    micro_batches = [
        {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels},
        {"input_ids": tokens[:1], "attention_mask": torch.ones(1, 9, dtype=torch.int64), "labels": rest},
    ]
    handle = attach(model, optimizer, WATCH)
    for batch in micro_batches:
        model(**batch, num_items_in_batch=109).loss.backward()
    optimizer.step()
    _assert_defined(handle, model, micro_batches, "aligned")


def test_a_prediction_that_is_certain_says_nothing():
    logits = torch.zeros(1, 2, 5)
    logits[0, 0, 3] = 60.0
    labels = torch.tensor([[-100, 3]])
    assert evidence_at("causal", logits, labels, torch.zeros_like(logits)) is None


@pytest.mark.parametrize("seed", range(8))
def test_half_precision_logits_of_a_float32_adapter_raise_no_alarm(tiny_llama, seed):
    """PEFT keeps adapters in float32 on a bf16 backbone."""
    model = tiny_llama(dropout=0.0, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    optimizer = _sgd(model)
    handle = attach(model.train(), optimizer, WATCH)
    tokens = torch.randint(3, 50, (8, 48), generator=torch.Generator().manual_seed(seed))
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert handle.summary().to_verify == 0


def test_tuples_are_understood_as_well(tiny_llama, token_batches):
    model, micro_batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = _sgd(model)
    handle = attach(model.train(), optimizer, WATCH)
    for batch in micro_batches:
        (model(**batch, return_dict=False)[0] / len(micro_batches)).backward()
    optimizer.step()
    _assert_defined(handle, model, micro_batches, "causal")


def test_an_auxiliary_loss_is_warned_of():
    entry = _named("MixtralForCausalLM")
    model, batch = entry.make().train(), batches(entry)[0]
    attach(model, _sgd(model), WATCH)
    with pytest.warns(UserWarning, match="adds an auxiliary loss"):
        model(**batch, output_router_logits=True)


# Positions.


def test_padding_that_comes_late_is_looked_at_then(tiny_llama, token_batches):
    """A layer that reads (sequence, batch), as many of one as of the other; no padding in the first steps."""

    class SequenceFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.layer = nn.Embedding(20, 8), nn.Linear(8, 20)

        def forward(self, input_ids=None, attention_mask=None, labels=None):
            logits = self.layer(self.embedding(input_ids.T)).transpose(0, 1)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
            return SimpleNamespace(loss=loss, logits=logits)

    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False)
    model = get_peft_model(SequenceFirst(), lora).train()
    optimizer = _sgd(model)
    handle = attach(model, optimizer, WATCH, labels="aligned")
    tokens, mask = torch.randint(0, 20, (4, 4)), torch.ones(4, 4, dtype=torch.int64)
    for _ in range(3):
        model(input_ids=tokens, attention_mask=mask, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert handle.summary().to_verify == 0
    mask[0, 2:] = 0
    model(input_ids=tokens, attention_mask=mask, labels=tokens.masked_fill(mask == 0, -100)).loss.backward()
    with pytest.raises(RuntimeError, match="of its gradient lies where the attention mask says padding"):
        optimizer.step()


def test_a_part_of_cross_attention_of_unknown_name_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.cross_attention = nn.ModuleDict({"mystery": nn.Linear(4, 4), "key_proj": nn.Linear(4, 4)})

    names = ["cross_attention.key_proj", "cross_attention.mystery"]
    assert streams_of(Odd(), "seq2seq", names[:1]) == ["encoder"]
    with pytest.raises(ConfigError, match="mystery'?: is a part of cross-attention"):
        streams_of(Odd(), "seq2seq", names)


# Optimizers and loops.


def test_a_subclass_that_calls_its_parents_step_takes_one(tiny_llama, token_batches):
    class Mine(torch.optim.AdamW):
        def step(self, closure=None):
            return super().step(closure)

    ends = []
    for kind in (torch.optim.AdamW, Mine):
        model = tiny_llama(dropout=0.0)
        optimizer = kind(_parameters(model), lr=1e-2)
        handle = attach(model.train(), optimizer, ACTIVE)
        for batch in token_batches():
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append((handle.step, [p.detach() for p in model.parameters()]))
    assert ends[0][0] == ends[1][0] == 4
    assert all(map(torch.equal, ends[0][1], ends[1][1]))


def test_an_optimizer_that_wants_the_gradient_elsewhere_is_refused(tiny_llama, token_batches):
    """As sharpness-aware minimization: it moves, clears, and evaluates the closure once more."""

    class Sharp(torch.optim.SGD):
        def step(self, closure=None):
            for parameter in _parameters(model):
                parameter.grad = None
            closure()
            return super().step()

    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    optimizer = Sharp(_parameters(model), lr=0.1)
    attach(model.train(), optimizer, WATCH)

    def closure():
        loss = model(**batch).loss
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="evaluates its closure several times"):
        optimizer.step(closure)


def test_inference_between_backward_and_step_disturbs_nothing(tiny_llama, token_batches):
    model, (first, second) = tiny_llama(dropout=0.0), token_batches()[:2]
    optimizer = _sgd(model)
    handle = attach(model.train(), optimizer, WATCH)
    model(**first).loss.backward()
    with torch.inference_mode():
        model.eval()(**second)
    model.train()
    optimizer.step()
    _assert_defined(handle, model, [first], "causal")


def test_foreign_weights_are_still_foreign_after_an_evaluation(tiny_llama, token_batches):
    model = tiny_llama(dropout=0.0)
    optimizer = torch.optim.AdamW(_parameters(model), lr=1e-2)
    handle = attach(model.train(), optimizer, ACTIVE)
    for step, batch in enumerate(token_batches()[:3]):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 1:
            earlier = copy.deepcopy(model.state_dict())
    model.load_state_dict(earlier)
    with handle.as_counted():
        pass
    with pytest.raises(RuntimeError, match="weights were written"):
        handle.finish()


def test_layers_that_share_a_weight_are_refused(tiny_llama):
    model = tiny_llama()
    layers = attach(model, _sgd(model), WATCH)
    first, second = layers.layers[0], layers.layers[7]
    layers.detach()
    second.down.weight = first.down.weight
    with pytest.raises(ConfigError, match="shares its A with"):
        attach(model, _sgd(model), WATCH)


def test_a_warm_up_that_outlasts_training_is_named():
    config = GritConfig(kfac_update_freq=10, ng_warmup_steps=15, T=None)
    assert idle_schedules(config, 12) == ["kfac_update_freq = 10: preconditioning begins in step 16"]
    assert idle_schedules(config, 20) == []


def test_a_state_of_another_configuration_is_named():
    made_with = GritConfig(tau=0.8, T=None).to_dict()
    with pytest.warns(UserWarning, match=r"made with .*reprojection_freq = None \(now 5\)"):
        warn_of_changes(made_with, GritConfig(tau=0.8, T=5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_changes(made_with, GritConfig(tau=0.8, T=None))
    with pytest.raises(ConfigError, match="^steps = 0: "):
        GritConfig.for_steps(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_compiled_after_attaching_trains(tiny_llama, token_batches):
    """Compiled backward passes call hooks of what they do not need, with nothing."""
    model, micro_batches = tiny_llama(dropout=0.0, dtype=torch.float32), token_batches()[:2]
    optimizer = _sgd(model)
    handle = attach(model.train(), optimizer, WATCH)
    compiled = torch.compile(model, backend="aot_eager")
    for batch in micro_batches:
        (compiled(**batch).loss / 2).backward()
    optimizer.step()
    _assert_defined(handle, model, micro_batches, "causal")
