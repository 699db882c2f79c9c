"""EWC over tasks in sequence, against the quadratic form written out and differentiated by autograd."""

import pytest
import torch
from attached import moving, take_step

from grit.adapters.peft_adapters import adapted_layers
from grit.capture.token_samples import token_samples
from grit.config.sections import Budget
from grit.config.sequence import EARLIER_TOKENS
from grit.errors import ConfigError
from grit.stepping.earlier_tasks import EarlierTasks

WEIGHT = 0.7
#: Whose A and B are not what is trained.
REFUSED = ("grit", "osf", "loca", "svfit", "lora_xs", "matryoshka", "dora", "adalora")


@pytest.fixture
def sequence(short_run):
    base = short_run(
        eval_examples=4, retention_documents=2, quality="answer_logprob", dropout=0.1, accumulation=2
    )
    base = base.changed(method="lora", budget=Budget(regime="step", amount=9), learning_rate=2e-3)
    return lambda **changes: base.changed(before=("reading", "context"), **changes)


def _moved(layers, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers:
            for weight in (layer.down.weight, layer.up.weight):
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))


def _zero_gradients(layers):
    for layer in layers:
        layer.down.weight.grad = torch.zeros_like(layer.down.weight)
        layer.up.weight.grad = torch.zeros_like(layer.up.weight)


def test_gradients_are_those_of_the_quadratic_form_of_the_change_since(tiny_llama, token_batches):
    """Two tasks: sum of 1/2 tr(dW^T C_g dW C_x), dW the update now less the one after each task."""
    model = tiny_llama(dropout=0.1).double().train()
    texts, layers = {0: token_batches(count=2), 1: token_batches("left")}, adapted_layers(model)
    earlier, remembered = EarlierTasks(model, WEIGHT, texts.__getitem__), []
    for stage in (0, 1):
        _moved(layers, stage)
        samples = token_samples(model, layers, texts[stage], EARLIER_TOKENS, adapter_acts=True)
        updates = [layer.scaling * (layer.up.weight @ layer.down.weight).detach() for layer in layers]
        remembered.append((updates, samples))
        earlier.learned(stage)
    assert model.training
    _zero_gradients(layers)
    _moved(layers, 2)
    earlier.add_gradients()
    for row, layer in enumerate(layers):
        down, up = (w.detach().clone().requires_grad_() for w in (layer.down.weight, layer.up.weight))
        for updates, samples in remembered:
            change, (x, g) = layer.scaling * up @ down - updates[row], samples[row]
            form = torch.trace(change.T @ (g.T @ g / len(g)) @ change @ (x.T @ x / len(x)))
            (WEIGHT / 2 * form).backward()
        torch.testing.assert_close(layer.down.weight.grad, down.grad, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(layer.up.weight.grad, up.grad, rtol=1e-8, atol=1e-12)


def test_right_after_a_task_nothing_of_it_is_lost(tiny_llama, token_batches):
    model = tiny_llama(dropout=0.0).double()
    layers = adapted_layers(model)
    _moved(layers, 0)
    earlier = EarlierTasks(model, WEIGHT, lambda stage: token_batches(count=2))
    earlier.learned(0)
    _zero_gradients(layers)
    earlier.add_gradients()
    for layer in layers:
        for weight in (layer.down.weight, layer.up.weight):
            torch.testing.assert_close(weight.grad, torch.zeros_like(weight), rtol=0, atol=1e-12)


def test_a_task_is_sampled_through_the_adapter_that_has_learned_it(tiny_llama, token_batches):
    model, batches = tiny_llama(dropout=0.0), token_batches(count=2)
    layers = adapted_layers(model)
    _moved(layers, 0)
    under = token_samples(model, layers, batches, 10_000)
    through = token_samples(model, layers, batches, 10_000, adapter_acts=True)
    assert not torch.equal(under[-1].inputs, through[-1].inputs)
    with torch.no_grad():
        for layer in layers:
            layer.up.weight.zero_()
    again = token_samples(model, layers, batches, 10_000, adapter_acts=True)
    torch.testing.assert_close(again[-1].inputs, under[-1].inputs)


def test_a_penalty_keeps_what_was_learned(tiny_llama, token_batches):
    """Two texts, one after the other: the same steps with and without it."""
    first, second = token_batches()[:2], token_batches()[2:]
    lost = {}
    for weight in (0.0, 1000.0):
        model = tiny_llama(dropout=0.0).train()
        earlier, optimizer = EarlierTasks(model, weight, lambda stage: first), moving(model)
        for step in range(40):
            take_step(model, optimizer, first[step % 2])
        earlier.learned(0)
        before = sum(model(**batch).loss.item() for batch in first)
        for step in range(40):
            model(**second[step % 2]).loss.backward()
            earlier.add_gradients()
            optimizer.step()
            optimizer.zero_grad()
        lost[weight] = sum(model(**batch).loss.item() for batch in first) - before
    assert lost[0.0] > 0
    assert lost[1000.0] < 0.5 * lost[0.0], lost


@pytest.mark.parametrize(
    "changes", [{"before": ()}, {"earlier_penalty": -1.0}, *({"method": name} for name in REFUSED)]
)
def test_what_cannot_be_held_is_refused(sequence, changes):
    with pytest.raises(ConfigError, match="earlier_penalty"):
        sequence().changed(**{"earlier_penalty": 1.0, **changes})


def test_a_run_that_has_ended_needs_the_earlier_tasks_data_no_more(tiny_llama, token_batches):
    """It is scored and exported again where their files have gone."""
    model = tiny_llama()
    earlier = EarlierTasks(model, WEIGHT, lambda stage: token_batches(count=2))
    earlier.learned(0)

    def gone(stage):
        raise AssertionError("nobody trains on")

    restored = EarlierTasks(model, WEIGHT, gone)
    restored.load_state_dict(earlier.state_dict())
    for one, two in zip(restored.state_dict()[0], earlier.state_dict()[0], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
