"""Passes without what labels do not need: the same losses and gradients, on every causal architecture."""

import pytest
import torch
from architectures import ARCHITECTURES
from attached import WATCH, assert_defined, moving, parameters, still
from torch import nn
from torch.nn.functional import cross_entropy

from grit.adapters.lean_pass import lean_pass, scored_labels
from grit.geometry.attach import attach

CAUSAL = [entry for entry in ARCHITECTURES if entry.layout == "causal" and entry.labels is None]


def _loss_and_gradients(model, batch, *, lean):
    model.zero_grad()
    count = int((batch["labels"][:, 1:] != -100).sum())
    torch.manual_seed(3)  # dropout's
    if lean:
        with lean_pass(model, batch) as inputs:
            loss = model(**inputs, num_items_in_batch=count, use_cache=False).loss
    else:
        loss = model(**batch, num_items_in_batch=count, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in parameters(model))]


@pytest.mark.parametrize("architecture", CAUSAL, ids=lambda entry: entry.name)
def test_losses_and_gradients_are_the_full_pass_s(architecture, token_batches):
    """Prompts without labels, padding on the right, dropout on the adapters' inputs."""
    model = architecture.make(dropout=0.1).train()
    for batch in token_batches(count=2):
        full = _loss_and_gradients(model, batch, lean=False)
        lean = _loss_and_gradients(model, batch, lean=True)
        for expected, seen in zip(full, lean, strict=True):
            torch.testing.assert_close(seen, expected, rtol=1e-6, atol=1e-9)


def test_logits_are_made_where_a_label_is_scored_and_no_mask_is_read(tiny_llama, token_batches):
    model, batch = tiny_llama().train(), token_batches()[0]
    scored = scored_labels(batch["labels"]) != -100
    rows, masks = [], []
    with lean_pass(model, batch) as inputs:  # the first one tries it out
        head, decoder = model.get_output_embeddings(), model.get_base_model().base_model
        hooks = [
            head.register_forward_hook(lambda _m, _i, output: rows.append(output.shape[:2])),
            decoder.register_forward_pre_hook(
                lambda _m, _i, named: masks.append(named["attention_mask"]), with_kwargs=True
            ),
        ]
        logits = model(**inputs).logits
    model(**batch)
    for hook in hooks:
        hook.remove()
    assert rows == [(1, int(scored.sum())), scored.shape]
    assert masks[0] is None and masks[1] is not None
    torch.testing.assert_close(inputs["shift_labels"][0], batch["labels"][batch["labels"] != -100])
    assert logits.shape[1] == 6


def test_a_model_without_a_label_makes_no_choice(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches()[0]
    with lean_pass(model, {**batch, "labels": torch.full_like(batch["labels"], -100)}) as inputs:
        assert "shift_labels" not in inputs


class LooksRight(nn.Module):
    """Every position reads the mean over all real ones; scores the next token in a loss of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base_model, self.head = Mean(), nn.Linear(8, 20)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids=None, attention_mask=None, labels=None, **_named):
        logits = self.head(self.base_model(input_ids, attention_mask=attention_mask))
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return type("Output", (), {"logits": logits, "loss": loss})


class Mean(nn.Module):
    """The part without a head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embedding(input_ids)
        weights = torch.ones(input_ids.shape) if attention_mask is None else attention_mask.float()
        return hidden + torch.einsum("bt,bth->bh", weights, hidden)[:, None] / weights.sum(-1)[:, None, None]


def test_a_model_that_needs_its_mask_or_all_its_logits_keeps_them():
    model = LooksRight()
    tokens = torch.randint(0, 20, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": tokens.masked_fill(mask == 0, -100)}
    expected = model(**batch)
    with lean_pass(model, batch) as inputs:
        seen = model(**inputs)
    assert set(inputs) == set(batch)
    assert torch.equal(seen.logits, expected.logits)
    assert torch.equal(seen.loss, expected.loss)


def test_the_factors_of_lean_passes_are_the_definition_s(tiny_llama, token_batches):
    """Sigma over every real token, prompts too, whether a logit was made there or not."""
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = still(model)
    handle = attach(model.train(), optimizer, WATCH)
    for batch in batches:
        with lean_pass(model, batch) as inputs:
            model(**inputs).loss.backward()
    optimizer.step()
    assert_defined(handle, model, batches, "causal")


def test_a_loss_that_is_no_mean_over_labels_is_named_though_logits_are_chosen(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches()[0]
    inner = model.get_base_model()
    mean = inner.loss_function
    inner.loss_function = lambda **named: 2.0 * mean(**named)
    optimizer = moving(model)
    attach(model.train(), optimizer, WATCH)
    with lean_pass(model, batch) as inputs:
        model(**inputs).loss.backward()
    with pytest.raises(RuntimeError, match="a label counts 2 times"):
        optimizer.step()
