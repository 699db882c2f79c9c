"""What the hooks capture equals the definition, whatever the loop and the model around them do."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from oracles import dense_factors

from grit.adapters.peft_adapters import adapted_layers
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.geometry.events import Reprojection
from grit.geometry.state import GeometryState

WATCH = GritConfig(cov_update_freq=1, preconditioner="none", reprojection_freq=None)


def _sgd(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)


def _compare(handle, expected, rtol):
    expected_a, expected_g, tokens, labelled = expected
    for index, (sigma_a, sigma_g, seen_a, seen_g) in enumerate(handle.factors().values()):
        assert (seen_a, seen_g) == (tokens, labelled)
        torch.testing.assert_close(
            sigma_a.double(), expected_a[index], rtol=rtol, atol=rtol * float(expected_a[index].abs().max())
        )
        torch.testing.assert_close(
            sigma_g.double(), expected_g[index], rtol=rtol, atol=rtol * float(expected_g[index].abs().max())
        )


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "not reentrant"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("loss", ["mean", "sum", "mean over the step"])
def test_factors_equal_the_dense_definition(tiny_llama, token_batches, checkpointing, side, loss):
    """Accumulation 4, padding, masked labels, dropout 0.1, in float64.

    The second backward pass of checkpointing must not count twice.
    """
    model, batches = tiny_llama(dropout=0.1), token_batches(side)
    layers = adapted_layers(model)
    model.train()
    torch.manual_seed(3)
    expected = dense_factors(model, layers, batches)
    model.zero_grad()
    if checkpointing is not None:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": checkpointing == "reentrant"}
        )
    optimizer = _sgd(model)
    handle = attach(model, optimizer, WATCH)
    torch.manual_seed(3)
    items = sum(int((b["labels"][:, 1:] != -100).sum()) for b in batches)
    for batch in batches:
        if loss == "mean":
            (model(**batch).loss / len(batches)).backward()
        else:
            model(**batch, num_items_in_batch=1 if loss == "sum" else items).loss.backward()
    optimizer.step()
    _compare(handle, expected, rtol=1e-5)  # the model itself computes norms and its loss in float32


def test_bf16_factors_are_float32_and_near_the_definition(tiny_llama, token_batches, monkeypatch):
    """Against the same z and u in float64.

    Products and sums that were rounded to bf16 would be off by a hundredth.
    """
    model, batches = tiny_llama(dropout=0.0, dtype=torch.bfloat16), token_batches()
    layers = adapted_layers(model)
    model.train()
    optimizer = _sgd(model)
    seen, observe = [], GeometryState.observe

    def watched(state, observation):
        seen.append(observation)
        observe(state, observation)

    monkeypatch.setattr(GeometryState, "observe", watched)
    handle = attach(model, optimizer, WATCH)
    for batch in batches:
        (1e-5 * model(**batch).loss / len(batches)).backward()
    optimizer.step()
    assert all(factor.dtype == torch.float32 for entry in handle.factors().values() for factor in entry[:2])
    for index, (layer, (sigma_a, sigma_g, count_a, count_g)) in enumerate(
        zip(layers, handle.factors().values(), strict=True)
    ):
        z = torch.cat(
            [o.calls[index][0].activation.flatten(0, -2)[o.positions.tokens["main"] > 0] for o in seen]
        ).double()
        arrived = [
            o.calls[index][0].gradient.flatten(0, -2)[o.positions.tokens["main"] > 0].double()
            / float(o.loss_weight)
            for o in seen
        ]
        u = torch.cat(arrived) / layer.scaling
        assert len(z) == count_a > count_g == sum(int(o.positions.label_count) for o in seen)
        for sigma, samples, count in ((sigma_a, z, count_a), (sigma_g, u, count_g)):
            assert samples.abs().max() > 0
            exact = samples.mT @ samples / count
            torch.testing.assert_close(sigma.double(), exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


def test_positional_inputs_are_understood(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    seen = []
    for call in (
        lambda: model(**batch),
        lambda: model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]),
    ):
        optimizer = _sgd(model)
        handle = attach(model.train(), optimizer, WATCH)
        call().loss.backward()
        optimizer.step()
        seen.append(handle.factors())
        handle.detach()
    for name, entry in seen[0].items():
        assert entry[2:] == seen[1][name][2:] == (int(batch["attention_mask"].sum()), 6)
        assert torch.equal(entry[0], seen[1][name][0])


def test_encoder_and_decoder_count_their_own_positions(tiny_t5):
    """Encoder layers and the keys and values of cross-attention see source tokens, all else target tokens.

    U from the summed loss.
    """
    generator = torch.Generator().manual_seed(1)
    source, target = (
        torch.randint(3, 50, (2, 7), generator=generator),
        torch.randint(3, 50, (2, 7), generator=generator),
    )
    mask, labels = torch.ones_like(source), target.clone()
    mask[1, 5:], labels[0, 4:] = 0, -100
    optimizer = _sgd(tiny_t5)
    handle = attach(tiny_t5.train(), optimizer, WATCH)
    layers = {layer.name: layer for layer in adapted_layers(tiny_t5)}
    z, arrived = {}, {}
    for name, layer in layers.items():

        def keep(module, inputs, output, name=name):
            z[name] = output.detach()
            output.register_hook(lambda gradient: arrived.__setitem__(name, gradient))

        layer.down.register_forward_hook(keep)
    (0.25 * tiny_t5(input_ids=source, attention_mask=mask, labels=labels).loss).backward()
    optimizer.step()
    encoder = [
        name
        for name in layers
        if ".encoder." in name or name.endswith(("EncDecAttention.k", "EncDecAttention.v"))
    ]
    assert 0 < len(encoder) < len(layers)
    count = int((labels != -100).sum())
    for name, (sigma_a, sigma_g, seen_a, seen_g) in handle.factors().items():
        where = mask.bool() if name in encoder else labels != -100
        assert (seen_a, seen_g) == (int(where.sum()), count)
        samples = z[name][where]
        torch.testing.assert_close(sigma_a, samples.mT @ samples / seen_a)
        u = arrived[name][where] * count / (0.25 * layers[name].scaling)
        torch.testing.assert_close(sigma_g, u.mT @ u / seen_g)


def test_a_sequence_classifier_sums_over_tokens_and_divides_by_labels(tiny_classifier):
    generator = torch.Generator().manual_seed(1)
    tokens, mask = torch.randint(3, 50, (3, 6), generator=generator), torch.ones(3, 6, dtype=torch.int64)
    mask[2, 4:] = 0
    optimizer = _sgd(tiny_classifier)
    handle = attach(tiny_classifier.train(), optimizer, WATCH)
    tiny_classifier(
        input_ids=tokens * mask, attention_mask=mask, labels=torch.tensor([0, 2, 1])
    ).loss.backward()
    optimizer.step()
    assert {entry[2:] for entry in handle.factors().values()} == {(16, 3)}


def test_prompts_carry_gradient_and_are_counted_unless_told_otherwise(tiny_llama, token_batches):
    """Of keys and values, since later positions read them: nothing else of the last layer.

    Per label, so that where labelled positions alone carry gradient both readings are one number.
    """
    traces = {}
    for reading in ("real", "labelled"):
        model = tiny_llama(dropout=0.0)
        optimizer = _sgd(model)
        handle = attach(model.train(), optimizer, replace(WATCH, gradient_tokens=reading))
        model(**token_batches(count=1)[0]).loss.backward()
        optimizer.step()
        traces[reading] = {name: float(entry[1].trace()) for name, entry in handle.factors().items()}
        assert {entry[3] for entry in handle.factors().values()} == {6}
    last = max(name.split("layers.")[1].split(".")[0] for name in traces["real"])
    for name, trace in traces["real"].items():
        reads_keys = name.endswith(("k_proj", "v_proj"))
        if f"layers.{last}." in name and not reads_keys:
            assert trace == pytest.approx(traces["labelled"][name], rel=1e-9)
        elif reads_keys:
            assert trace > 1.05 * traces["labelled"][name], name


def test_an_exponential_mean_passes_its_gate_by_what_it_remembers(tiny_llama, token_batches):
    """Of six labels a step a decay of 0.1 remembers hardly more than one step's, however many it has seen."""
    from grit.geometry.events import RefreshWaits

    waited = {}
    for decay in (None, 0.1):
        model = tiny_llama(dropout=0.0)
        optimizer = _sgd(model)
        config = GritConfig(
            cov_update_freq=1, kfac_update_freq=5, kfac_min_samples=20, ema_decay=decay, T=None
        )
        handle = attach(model.train(), optimizer, config)
        for _ in range(6):
            model(**token_batches(count=1)[0]).loss.backward()
            optimizer.step()
        waited[decay] = [event.step for event in handle.events if isinstance(event, RefreshWaits)]
    assert waited == {None: [], 0.1: [5]}


def test_a_pool_survives_one_bad_module_and_gates_by_its_own_samples(tiny_llama, token_batches):
    model = tiny_llama(dropout=0.0)
    layers = adapted_layers(model)
    bad = next(index for index, layer in enumerate(layers) if layer.name.endswith("q_proj"))
    optimizer = _sgd(model)
    handle = attach(model.train(), optimizer, replace(WATCH, share_statistics="projection"))
    batch = token_batches(count=1)[0]

    def spoil(module, inputs, output):
        output.register_hook(lambda gradient: gradient * float("nan"))

    spoiled = layers[bad].up.register_forward_hook(spoil)
    model(**batch).loss.backward()
    spoiled.remove()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.nan_to_num_()
    optimizer.step()
    tokens = int(batch["attention_mask"].sum())
    queries = {name: entry for name, entry in handle.factors().items() if name.endswith("q_proj")}
    assert len(queries) == 2
    for name, entry in queries.items():
        assert entry[1].isfinite().all() and float(entry[1].trace()) > 0
        assert entry[2] == tokens  # not once for every layer of the pool
        assert entry[3] == (0 if name == layers[bad].name else 6)


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_classifier", "tiny_llama"])
def test_every_architecture_learns_with_all_of_grit(request, name):
    made = request.getfixturevalue(name)
    model = made(dropout=0.1) if name == "tiny_llama" else made
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 50, (4, 8), generator=generator)
    labels = torch.tensor([0, 1, 2, 0]) if name == "tiny_classifier" else tokens
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    handle = attach(
        model.train(),
        optimizer,
        GritConfig(
            cov_update_freq=1,
            kfac_update_freq=2,
            T=5,
            kfac_min_samples=8,
            min_lora_rank=1,
            tau=0.9,
            damping_scale="relative",
            lambda_=0.1,
            max_grad_norm=1.0,
        ),
    )
    losses = []
    for _ in range(30):
        loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) / 5 < 0.99 * losses[0]
    assert sum(isinstance(event, Reprojection) for event in handle.events) == 6
    assert (
        handle.effective_parameters() < sum(p.numel() for p in model.parameters() if p.requires_grad)
        or name == "tiny_classifier"
    )


def test_factors_do_not_depend_on_how_a_step_is_split(tiny_llama, token_batches):
    """Each backward pass is folded in when the next begins: four passes of two sequences are one of eight."""
    whole = {
        key: torch.cat([b[key] for b in token_batches()]) for key in ("input_ids", "attention_mask", "labels")
    }
    found = []
    for batches in (token_batches(), [whole]):
        model = tiny_llama(dropout=0.0)
        optimizer = _sgd(model)
        handle = attach(model.train(), optimizer, WATCH)
        for batch in batches:
            model(**batch, num_items_in_batch=24).loss.backward()
        optimizer.step()
        found.append(handle.factors())
    for name, entry in found[0].items():
        for side in (0, 1):
            torch.testing.assert_close(entry[side], found[1][name][side], rtol=1e-10, atol=1e-12)
        assert entry[2:] == found[1][name][2:]


def test_observations_are_stacked_in_parts_of_bounded_size(tiny_llama, token_batches, monkeypatch):
    from grit.geometry import factor_state as statistics

    sizes, found = [], []
    whole = statistics.second_moment_sum

    def watch(samples, weight):
        sizes.append(samples.shape[0])
        return whole(samples, weight)

    monkeypatch.setattr(statistics, "second_moment_sum", watch)
    for limit in (1 << 30, 3 * 18 * 4 * 8):
        monkeypatch.setattr(statistics, "PART_BYTES", limit)
        sizes.clear()
        model = tiny_llama(dropout=0.0)
        optimizer = _sgd(model)
        handle = attach(model.train(), optimizer, WATCH)
        model(**token_batches(count=1)[0]).loss.backward()
        optimizer.step()
        found.append((max(sizes), handle.factors()))
    assert [size for size, _ in found] == [14, 3]
    for name, entry in found[0][1].items():
        torch.testing.assert_close(entry[1], found[1][1][name][1], rtol=1e-12, atol=1e-14)


def test_a_loss_computed_outside_the_model_is_refused(tiny_llama, token_batches):
    model, batch = tiny_llama(), token_batches(count=1)[0]
    optimizer = _sgd(model)
    attach(model.train(), optimizer, WATCH)
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.sum().backward()
    with pytest.raises(RuntimeError, match="pass `labels`"):
        optimizer.step()


def test_what_cannot_be_attached_to_is_refused_by_name(tiny_llama, one_layer):
    model = tiny_llama()
    optimizer = _sgd(model)
    with pytest.raises(ConfigError, match="no LoRA adapter named 'other'"):
        attach(model, optimizer, WATCH, adapter="other")
    with pytest.raises(ConfigError, match="^optimizer = 'SGD': does not train the adapter of .*q_proj"):
        attach(model, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), WATCH)
    with pytest.raises(ConfigError, match="^labels = .* causal, aligned, sequence, seq2seq"):
        attach(one_layer, _sgd(one_layer), WATCH)
    with pytest.raises(ConfigError, match="^quantization_damping = .* 4-bit"):
        attach(model, optimizer, GritConfig(quantization_damping=1.0))


@pytest.mark.parametrize("variant", [{"use_dora": True}])
def test_variants_of_lora_are_refused_by_name(tiny_llama, variant):
    from peft import LoraConfig, get_peft_model

    from grit.adapters.peft_adapters import quiet_peft

    with quiet_peft():
        model = get_peft_model(
            tiny_llama().unload(),
            LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **variant),
        )
    with pytest.raises(ConfigError, match="q_proj.*another variant"):
        attach(model, _sgd(model), WATCH)


def test_detach_leaves_no_trace(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    handle = attach(
        model.train(),
        optimizer,
        GritConfig(suppression="gate", T=1, cov_update_freq=1, kfac_min_samples=1, min_lora_rank=1, tau=0.5),
    )
    for _ in range(2):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert handle.gates()
    logits = model.eval()(**batch).logits
    handle.detach()
    torch.testing.assert_close(model(**batch).logits, logits)
    steps, told = handle.step, len(handle.events)
    model.train()(**batch).loss.backward()
    optimizer.step()
    assert (handle.step, len(handle.events)) == (steps, told)  # nothing follows the optimizer any more
    left = weakref.ref(handle)
    del handle
    gc.collect()
    assert left() is None  # and no hook of the model holds it
