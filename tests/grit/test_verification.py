"""The checks of the first steps: right where loops are awkward, silent where all is well."""

import copy
import warnings

import pytest
import torch
from attached import ACTIVE, WATCH, adapted, assert_defined, moving, parameters, still
from tiny_models import SequenceFirst
from torch import nn

from grit.capture.label_positions import streams_of
from grit.config.first_effect import idle_schedules
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.geometry.handle_summary import warn_of_changes


@pytest.mark.parametrize("change", ["kept", "scaled", "lost"])
def test_gradients_that_the_capture_does_not_explain_are_named(tiny_llama, token_batches, change):
    """Kept from the last step, or turned for one layer; a factor common to all is a loop's clipping."""
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = moving(model)
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


@pytest.mark.parametrize("length", [4, 6])
def test_positions_that_merely_agree_in_number_are_named(length):
    """By their shape; where batch and sequence are equally long, by gradients on what should be padding."""
    torch.manual_seed(0)
    model = adapted(SequenceFirst(), r=2, target_modules=["layer"]).train()
    optimizer = moving(model)
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
    attach(model.train(), moving(model), WATCH)
    for mask, kind in (({"full_attention": None}, "as dict"), (torch.ones(2, 1, 9, 9), r"of shape \(2, 1")):
        with pytest.raises(ValueError, match=f"an attention_mask {kind}"):
            model(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"])


# Positions.


def test_padding_that_comes_late_is_looked_at_then(tiny_llama, token_batches):
    """A layer that reads (sequence, batch), as many of one as of the other; no padding in the first steps."""

    torch.manual_seed(0)
    model = adapted(SequenceFirst(), r=2, target_modules=["layer"]).train()
    optimizer = still(model)
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
        optimizer = kind(parameters(model), lr=1e-2)
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
            for parameter in parameters(model):
                parameter.grad = None
            closure()
            return super().step()

    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    optimizer = Sharp(parameters(model), lr=0.1)
    attach(model.train(), optimizer, WATCH)

    def closure():
        loss = model(**batch).loss
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="evaluates its closure several times"):
        optimizer.step(closure)


def test_inference_between_backward_and_step_disturbs_nothing(tiny_llama, token_batches):
    model, (first, second) = tiny_llama(dropout=0.0), token_batches()[:2]
    optimizer = still(model)
    handle = attach(model.train(), optimizer, WATCH)
    model(**first).loss.backward()
    with torch.inference_mode():
        model.eval()(**second)
    model.train()
    optimizer.step()
    assert_defined(handle, model, [first], "causal")


def test_foreign_weights_are_still_foreign_after_an_evaluation(tiny_llama, token_batches):
    model = tiny_llama(dropout=0.0)
    optimizer = torch.optim.AdamW(parameters(model), lr=1e-2)
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
    layers = attach(model, still(model), WATCH)
    first, second = layers.layers[0], layers.layers[7]
    layers.detach()
    second.down.weight = first.down.weight
    with pytest.raises(ConfigError, match="shares its A with"):
        attach(model, still(model), WATCH)


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
    optimizer = still(model)
    handle = attach(model.train(), optimizer, WATCH)
    compiled = torch.compile(model, backend="aot_eager")
    for batch in micro_batches:
        (compiled(**batch).loss / 2).backward()
    optimizer.step()
    assert_defined(handle, model, micro_batches, "causal")
