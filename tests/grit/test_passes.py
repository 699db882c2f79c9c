"""Passes that are not one forward and one backward: shared, repeated, skipped and failed ones."""

import pytest
import torch
from architectures import batches
from attached import WATCH, architecture, assert_defined, moving, still

from grit.geometry.attach import attach

# Passes that are not one forward and one backward.


def _factors(tiny_llama, batches, backward, **options):
    model = tiny_llama(dropout=0.0)
    if options.get("checkpointing"):
        model.enable_input_require_grads()
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
    optimizer = moving(model, torch.optim.SGD, momentum=0.0)
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
    attach(model.train(), moving(model), WATCH)
    loss = model(**batches[0]).loss
    loss.backward(retain_graph=True)
    model(**batches[1]).loss.backward()
    with pytest.raises(RuntimeError, match="second backward pass went through a forward pass"):
        loss.backward()


def test_a_first_layer_without_a_gradient_does_not_discard_the_step(tiny_llama, token_batches):
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = moving(model)
    handle = attach(model.train(), optimizer, WATCH, verify=False)
    for batch in batches:
        model(**batch).loss.backward()
        handle.layers[0].down.weight.grad = handle.layers[0].up.weight.grad = None
    optimizer.step()
    assert {entry.seen_a for entry in handle.factors().values()} == {
        sum(int(batch["attention_mask"].sum()) for batch in batches)
    }


# Steps that were not taken.


@pytest.mark.parametrize("cleared", ["to none", "to zero"])
@pytest.mark.parametrize("moment", ["before the forward pass", "before the backward pass"])
def test_a_skipped_step_belongs_to_no_statistics_however_it_is_cleared(
    tiny_llama, token_batches, cleared, moment
):
    model, (first, second) = tiny_llama(dropout=0.0), token_batches()[:2]
    optimizer = still(model)
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
    assert_defined(handle, model, [second], "causal")


def test_a_backward_pass_that_failed_and_was_cleared_away_is_forgotten(tiny_llama, token_batches):
    model, (first, second) = tiny_llama(dropout=0.0), token_batches()[:2]
    optimizer = still(model)
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
    assert_defined(handle, model, [second], "causal")


def test_a_first_pass_that_is_not_finite_settles_nothing(tiny_llama):
    """`num_items_in_batch` of a step whose first try overflowed: the model heeds it all the same."""
    entry = architecture("T5GemmaForConditionalGeneration")
    model, micro_batches = entry.make().train(), batches(entry)
    optimizer = still(model)
    handle = attach(model, optimizer, WATCH)
    items = sum(int((batch["labels"] != -100).sum()) for batch in micro_batches)
    (model(**micro_batches[0], num_items_in_batch=items).loss * float("inf")).backward()
    optimizer.zero_grad()
    for batch in micro_batches:
        model(**batch, num_items_in_batch=items).loss.backward()
    optimizer.step()
    assert_defined(handle, model, micro_batches, "seq2seq")
