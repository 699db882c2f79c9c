"""What a label counts: seen from the loss and from the gradient at the logits."""

import copy

import pytest
import torch
from architectures import ARCHITECTURES, batches
from attached import WATCH, architecture, assert_defined, moving, still

from grit.capture.loss_scale import evidence_at
from grit.geometry.attach import attach


def _smoothed(model, batch):
    output = model(**batch)
    return output.loss + 10 * output.logits.square().mean()


def test_a_loss_that_is_more_than_the_labels_is_named(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    optimizer = moving(model)
    attach(model.train(), optimizer, WATCH)
    _smoothed(model, batch).backward()
    with pytest.raises(
        RuntimeError, match=r"the loss is not the mean .* of the gradient at logits come from"
    ):
        optimizer.step()
    unchecked = tiny_llama(dropout=0.0)
    optimizer = moving(unchecked)
    attach(unchecked.train(), optimizer, WATCH, verify=False)
    _smoothed(unchecked, batch).backward()
    optimizer.step()


def test_unshifted_labels_are_named_with_the_layout_that_explains_them():
    entry = next(entry for entry in ARCHITECTURES if entry.name == "BartForCausalLM")
    model = entry.make().train()
    optimizer = moving(model)
    attach(model, optimizer, WATCH)
    tokens = torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(1))
    model(input_ids=tokens, labels=tokens).loss.backward()
    with pytest.raises(RuntimeError, match="line up with positions as 'aligned', not as 'causal'"):
        optimizer.step()


# What the loss is a mean over.


@pytest.mark.filterwarnings("ignore")
def test_the_loss_is_seen_behind_what_accelerate_converts(tiny_llama):
    """Its mixed precision returns float32 copies of the outputs; the loss was made of the originals."""
    from accelerate.utils.operations import convert_outputs_to_fp32

    entry = architecture("T5GemmaForConditionalGeneration")
    factors = []
    for over_step in (False, True):
        model, micro_batches = entry.make().float().train(), batches(entry)
        optimizer = still(model)
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
    entry = architecture(name)
    ends = []
    for interrupted in (False, True):
        model, micro_batches = entry.make().train(), batches(entry)
        optimizer = still(model)
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
    entry = architecture("BertForTokenClassification")
    model = entry.make().train()
    optimizer = still(model)
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
    assert_defined(handle, model, micro_batches, "aligned")


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
    optimizer = still(model)
    handle = attach(model.train(), optimizer, WATCH)
    tokens = torch.randint(3, 50, (8, 48), generator=torch.Generator().manual_seed(seed))
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert handle.summary().to_verify == 0


def test_tuples_are_understood_as_well(tiny_llama, token_batches):
    model, micro_batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = still(model)
    handle = attach(model.train(), optimizer, WATCH)
    for batch in micro_batches:
        (model(**batch, return_dict=False)[0] / len(micro_batches)).backward()
    optimizer.step()
    assert_defined(handle, model, micro_batches, "causal")


def test_an_auxiliary_loss_is_warned_of():
    entry = architecture("MixtralForCausalLM")
    model, batch = entry.make().train(), batches(entry)[0]
    attach(model, still(model), WATCH)
    with pytest.warns(UserWarning, match="adds an auxiliary loss"):
        model(**batch, output_router_logits=True)
