"""An adapter that is in the weights for a while: the same logits, and not a bit of a weight is changed."""

from dataclasses import replace

import pytest
import torch
from attached import ACTIVE, moving, parameters
from peft import IA3Config, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import Qwen2Config, Qwen2ForCausalLM

from grit.adapters.merged_while import merged_while
from grit.adapters.peft_adapters import quiet_peft
from grit.config.registry import METHODS
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


def test_a_gate_between_the_factors_shows(tiny_llama, token_batches):
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


@pytest.mark.parametrize("step", ["merging", "comparing"])
def test_what_fails_on_the_way_in_leaves_it_as_it_was(tiny_llama, monkeypatch, step):
    """Out of memory in the midst of merging, Ctrl-C while logits are compared."""
    model = tiny_llama(dtype=torch.float32).eval()
    before, calls = _weights(model), []

    def fail_at_third(*arguments, **named):
        calls.append(1)
        if len(calls) == (3 if step == "merging" else 2):
            raise MemoryError
        return original(*arguments, **named)

    layer = _layers(model)[2] if step == "merging" else model.get_base_model()
    name = "merge" if step == "merging" else "forward"
    original = getattr(layer, name)
    calls += [1, 1] if step == "merging" else []
    monkeypatch.setattr(layer, name, fail_at_third)
    with pytest.raises(MemoryError), merged_while(model, PROMPT):
        raise AssertionError("it was merged")
    _assert_untouched(model, before)


def test_without_a_prompt_nothing_is_merged(tiny_llama):
    with merged_while(tiny_llama(dtype=torch.float32).eval(), []) as merged:
        assert not merged


def test_a_model_without_an_adapter_has_nothing_to_merge(tiny_llama):
    model = tiny_llama(dtype=torch.float32).eval().unload()
    with merged_while(model, PROMPT) as merged:
        assert not merged


@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if not spec.quantized])
def test_after_it_every_method_is_trained_on_as_if_nothing_had_been(bench, short_run, method):
    """Parameters, buffers and the next step's gradients, of a backbone with biases as of one without."""
    config = short_run(method=method)
    model = bench.adapted(config)
    try:
        batch = bench.micro_batches(config, bench.packs(config)[:2])[0]
        model.eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        expected = model(**batch).logits
        with bench.merged(model, config):
            pass
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert torch.equal(model(**batch).logits, expected)
        assert not any(layer.merged for layer in _layers(model))
        model.train()(**batch).loss.backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in parameters(model))
    finally:
        model.zero_grad(set_to_none=True)
        bench.release(model)


def test_biases_are_put_back_too():
    """IA3 scales them, and divides them again."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    backbone = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=50)).eval()
    for name, parameter in backbone.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    with quiet_peft():
        ia3 = IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
        model = get_peft_model(backbone, ia3)
    for name, parameter in model.named_parameters():
        if "ia3_l" in name:
            parameter.data.uniform_(0.0, 2.0)
    before = _weights(model)
    with merged_while(model, PROMPT) as merged:
        assert merged
    _assert_untouched(model, before)
