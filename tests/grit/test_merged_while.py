"""An adapter that is in the weights for a while: the same logits, and not a bit of a weight is changed."""

from dataclasses import replace

import pytest
import torch
from attached import ACTIVE, moving
from peft.tuners.tuners_utils import BaseTunerLayer

from grit.adapters.merged_while import merged_while
from grit.geometry.attach import attach

PROMPT = [3, 4, 5, 6, 7]


def _logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([PROMPT])).logits


def _weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _layers(model):
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _assert_untouched(model, before):
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not any(layer.merged for layer in _layers(model))


def test_a_merged_model_says_the_same_and_is_left_as_it_was(tiny_llama):
    model = tiny_llama(dtype=torch.float32).eval()
    before, expected = _weights(model), _logits(model)
    layer = _layers(model)[0]
    with merged_while(model, PROMPT) as merged:
        assert merged
        assert layer.merged and not torch.equal(layer.get_base_layer().weight, before[_name(model, layer)])
        torch.testing.assert_close(_logits(model), expected, rtol=1e-4, atol=1e-4)
    _assert_untouched(model, before)
    assert torch.equal(_logits(model), expected)


def _name(model, layer):
    weight = layer.get_base_layer().weight
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


def test_what_fails_within_leaves_it_as_it_was_too(tiny_llama):
    model = tiny_llama(dtype=torch.float32).eval()
    before = _weights(model)
    with pytest.raises(KeyboardInterrupt), merged_while(model, PROMPT):
        raise KeyboardInterrupt
    _assert_untouched(model, before)


def test_a_gate_between_the_factors_keeps_the_adapter_beside_its_weight(tiny_llama, token_batches):
    """PEFT would add B A where the model computes B G A."""
    model, batches = tiny_llama(dtype=torch.float32, dropout=0.0).train(), token_batches()
    optimizer = moving(model)
    handle = attach(model, optimizer, replace(ACTIVE, suppression="gate"))
    for batch in batches:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert any(rank < 4 for rank in handle.ranks().values())
    model.eval()
    before, expected = _weights(model), _logits(model)
    with merged_while(model, PROMPT) as merged:
        assert not merged
        assert torch.equal(_logits(model), expected)
    _assert_untouched(model, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_than_float32_are_left_alone(tiny_llama, dtype):
    model = tiny_llama(dtype=dtype).eval()
    with merged_while(model, PROMPT) as merged:
        assert not merged


def test_a_model_without_an_adapter_has_nothing_to_merge(tiny_llama):
    model = tiny_llama(dtype=torch.float32).eval().unload()
    with merged_while(model, PROMPT) as merged:
        assert not merged
