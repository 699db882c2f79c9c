"""The method as a whole against exact references on tiny problems, in float64."""

import pytest
import torch

from grit.adapters.peft_adapters import adapted_layers
from grit.config.method import GritConfig
from grit.geometry.attach import attach
from grit.geometry.events import MomentumNotProjected, Reprojection, ReprojectionSkipped


def _train(model, batches, config, steps=6, lr=1e-2):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    handle = attach(model.train(), optimizer, config) if config is not None else None
    torch.manual_seed(11)
    for step in range(steps):
        model(**batches[step % len(batches)]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return handle, [p.detach().clone() for p in model.parameters() if p.requires_grad]


ACTIVE = {
    "cov_update_freq": 1,
    "kfac_update_freq": 1,
    "kfac_min_samples": 1,
    "T": 2,
    "min_lora_rank": 1,
    "tau": 0.8,
}


def test_none_is_lora_bit_for_bit(tiny_llama, token_batches):
    plain = _train(tiny_llama(), token_batches(), None)[1]
    none = _train(tiny_llama(), token_batches(), GritConfig(preconditioner="none", T=None))[1]
    assert all(torch.equal(a, b) for a, b in zip(plain, none, strict=True))


@pytest.mark.parametrize("lambda_", [1e-4, 3e-3, 0.5])
@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_the_lambda_that_is_set_is_the_lambda_of_every_step(
    tiny_llama, token_batches, monkeypatch, lambda_, scale
):
    """Losses vary, steps pass: nothing may overwrite the damping (the authors' code does after ten steps)."""
    from grit.geometry import inverse_state as curvature

    used, plain = [], curvature.damped_inverse

    def watch(factors, damping):
        mean = factors.diagonal(dim1=-2, dim2=-1).mean(-1)
        used.append(damping / mean if scale == "relative" else damping)
        return plain(factors, damping)

    monkeypatch.setattr(curvature, "damped_inverse", watch)
    _train(
        tiny_llama(),
        token_batches(),
        GritConfig(**{**ACTIVE, "lambda": lambda_}, damping_scale=scale),
        steps=14,
    )
    assert len(used) == 2 * 14
    for damping in used:
        torch.testing.assert_close(damping, torch.full_like(damping, lambda_), rtol=1e-12, atol=0)


def test_batch_aware_damping_grows_as_batches_shrink(tiny_llama, token_batches):
    """lambda * reference / B below the reference (two micro-batches of two sequences).

    Lambda itself above.
    """
    damping = 1e-2

    def gradient(**changes):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        handle = attach(model.train(), optimizer, GritConfig(**{**ACTIVE, **changes}))
        for batch in batches[:2]:
            model(**batch).loss.backward()
        optimizer.step()
        return handle.layers[0].up.weight.grad

    as_set, fourfold = gradient(kfac_damping=damping), gradient(kfac_damping=4 * damping)
    for reference in (2, 4):
        assert torch.equal(gradient(kfac_damping=damping, damping_reference_batch=reference), as_set)
    assert torch.equal(gradient(kfac_damping=damping, damping_reference_batch=16), fourfold)
    assert not torch.equal(as_set, fourfold)


def test_the_order_of_modules_does_not_matter(tiny_llama, token_batches, monkeypatch):
    """The same modules handed over in reverse: the same training, module by module.

    Mixing draws by name, so it may be on.
    """
    from grit.geometry import attach as module

    config = GritConfig(
        **ACTIVE, subspace_mixing=0.3, lambda_k=1e-3, share_statistics="projection", damping_scale="relative"
    )
    forward, weights = _train(tiny_llama(), token_batches(), config)
    found = adapted_layers
    monkeypatch.setattr(module, "adapted_layers", lambda model, adapter: found(model, adapter)[::-1])
    backward, reversed_weights = _train(tiny_llama(), token_batches(), config)
    assert list(forward.ranks()) == list(backward.ranks())[::-1]
    assert forward.ranks() == backward.ranks()
    for a, b in zip(weights, reversed_weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_two_sided_falls_back_before_its_gate_and_switches_at_it(tiny_llama, token_batches):
    """24 labels a step against 55 tokens.

    With a gate of 60, A's side is open after two steps and B's after three.
    """
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    config = GritConfig(
        cov_update_freq=1, preconditioner="none", T=1, kfac_min_samples=60, tau=0.7, min_lora_rank=1
    )
    handle = attach(model.train(), optimizer, config)
    for _ in range(4):
        for batch in batches:
            model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    skipped, *projected = [e for e in handle.events if isinstance(e, Reprojection | ReprojectionSkipped)]
    assert isinstance(skipped, ReprojectionSkipped)
    assert [event.two_sided for event in projected] == [False, True, True]


def _update(layer):
    return layer.up.weight.detach() @ layer.down.weight.detach()


@pytest.mark.parametrize("changes", [{}, {"two_sided": False}, {"basis": "balanced"}])
def test_a_projection_keeps_its_rank_and_adds_no_energy(tiny_llama, token_batches, changes):
    """After a reprojection each update has the rank that is counted, the recorded mass is what is left.

    And doing it again changes nothing.
    """
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    config = GritConfig(
        cov_update_freq=1,
        preconditioner="none",
        T=None,
        kfac_min_samples=1,
        tau=0.7,
        min_lora_rank=1,
        **changes,
    )
    handle = attach(model.train(), optimizer, config)
    for batch in batches:
        model(**batch).loss.backward()
    optimizer.step()
    before = {layer.name: _update(layer) for layer in handle.layers}
    norms = {
        layer.name: (layer.down.weight.norm().item(), layer.up.weight.norm().item())
        for layer in handle.layers
    }
    handle.reproject(trigger="test")
    masses = []
    for layer in handle.layers:
        after = _update(layer)
        assert torch.linalg.matrix_rank(after, rtol=1e-10) == handle.ranks()[layer.name] < 4
        masses.append(float(after.square().sum() / before[layer.name].square().sum()))
        if (
            changes.get("basis") != "balanced"
        ):  # orthogonal projectors: neither factor can grow. The oblique one promises it of no factor.
            assert layer.down.weight.norm().item() < norms[layer.name][0]
            assert layer.up.weight.norm().item() < norms[layer.name][1]
    event = handle.events[0]
    assert event.retained_mass == pytest.approx(sum(masses) / len(masses))
    assert event.retained_mass_min == pytest.approx(min(masses))
    settled = {layer.name: _update(layer) for layer in handle.layers}
    handle.reproject(trigger="again", adapt_rank=False)
    for layer in handle.layers:
        torch.testing.assert_close(_update(layer), settled[layer.name], rtol=1e-8, atol=1e-12)


def test_a_suppressed_direction_comes_back_through_a_gate(tiny_llama, token_batches):
    """Re-entry: a direction is suppressed, the data then speak for it, and the gate lets it in again.

    Overwritten weights cannot.
    """
    ranks = {}
    for suppression in ("gate", "project"):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=0.0
        )  # the weights stay: only suppression acts
        handle = attach(
            model.train(),
            optimizer,
            GritConfig(
                cov_update_freq=1,
                preconditioner="none",
                T=None,
                kfac_min_samples=1,
                tau=0.9,
                min_lora_rank=1,
                ema_decay=0.01,
                suppression=suppression,
            ),
        )
        seen = []
        for scale in ("narrow", "wide"):
            for batch in batches:  # one token repeated spans one direction; all tokens span all
                tokens = torch.full_like(batch["input_ids"], 5) if scale == "narrow" else batch["input_ids"]
                model(
                    input_ids=tokens, attention_mask=batch["attention_mask"], labels=batch["labels"]
                ).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            handle.reproject(trigger="test")
            seen.append(handle.ranks()["base_model.model.model.layers.0.self_attn.q_proj"])
        ranks[suppression] = seen
    assert ranks["gate"][0] == ranks["project"][0] == 1
    assert ranks["gate"][1] > 1
    assert ranks["project"][1] == 1


def test_a_gate_computes_what_projecting_would(tiny_llama, token_batches):
    logits = []
    for suppression in ("gate", "project"):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        handle = attach(
            model.train(),
            optimizer,
            GritConfig(
                cov_update_freq=1, T=1, kfac_min_samples=1, tau=0.7, min_lora_rank=1, suppression=suppression
            ),
        )
        for batch in batches:
            model(**batch).loss.backward()
        optimizer.step()
        assert min(handle.ranks().values()) < 4
        logits.append(model.eval()(**batches[0]).logits)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("where", ["gradient", "factor"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_non_finite_values_never_reach_the_weights(tiny_llama, token_batches, where, value, clip):
    """With and without clipping: the poisoned step is dropped, or the poisoned factor left out.

    Both are recorded, and training goes on.
    """
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    handle = attach(model.train(), optimizer, GritConfig(**ACTIVE, max_grad_norm=clip))
    layer = handle.layers[3]
    for step in range(4):
        poison = None
        if (
            step == 2 and where == "factor"
        ):  # in the forward pass of one position: activations and all that follows them
            poison = layer.base.register_forward_hook(
                lambda m, i, o: o.index_fill(1, torch.tensor([1]), value)
            )
        model(**batches[step]).loss.backward()
        if poison is not None:
            poison.remove()
        if step == 2 and where == "gradient":
            layer.up.weight.grad[0, 0] = value
        before = layer.down.weight.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        if step == 2:
            kinds = {event.kind for event in handle.events if event.step == 3}
            assert "nonfinite_gradient" in kinds
            assert ("nonfinite_factor" in kinds) == (where == "factor")
            assert torch.equal(before, layer.down.weight)
        assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(torch.isfinite(factor).all() for entry in handle.factors().values() for factor in entry[:2])
    assert handle.guard.skipped == 1
    assert handle.guard.consecutive == 0


def test_timings_and_ranks_are_told(tiny_llama, token_batches):
    handle, _ = _train(tiny_llama(), token_batches(), GritConfig(**ACTIVE), steps=4)
    told = handle.timings()
    assert told["steps"] == 4
    assert all(told[name] > 0 for name in ("fisher", "reprojection", "rank"))
    assert handle.effective_parameters() == sum(
        k * layer.width for k, layer in zip(handle.ranks().values(), handle.layers, strict=True)
    )


def test_a_saved_state_is_not_changed_by_going_on(tiny_llama, token_batches):
    """Restored twice, the same state is the same state: gates that were closed are closed again."""
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    handle = attach(
        model.train(),
        optimizer,
        GritConfig(cov_update_freq=1, kfac_update_freq=1, kfac_min_samples=10, T=None),
    )
    saved, norms = handle.state_dict(), []
    for steps in (3, 1):
        handle.load_state_dict(saved)
        for step in range(steps):
            optimizer.zero_grad()
            model(**batches[step]).loss.backward()
            optimizer.step()
            norms.append(float(handle.layers[0].up.weight.grad.norm()))
    assert norms[0] == norms[3] != norms[2]
    told = handle.timings()
    handle.load_state_dict(handle.state_dict())
    assert handle.timings() == told
    assert told["fisher"] > 0


def test_a_module_whose_gate_closes_again_keeps_its_projector(tiny_llama, token_batches):
    """Rank and projector stay together: else the parameters that are counted are not those that are used."""
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    handle = attach(
        model.train(),
        optimizer,
        GritConfig(
            cov_update_freq=1,
            preconditioner="none",
            T=1,
            kfac_min_samples=1,
            tau=0.7,
            min_lora_rank=1,
            suppression="gate",
        ),
    )
    model(**batches[0]).loss.backward()
    optimizer.step()
    gates, ranks = handle.gates(), handle.ranks()
    assert len(gates) == 14
    assert max(ranks.values()) < 4
    closed = handle.state_dict()
    closed["groups"][0]["statistics"]["moment_a"]["samples"][3:] = 0
    handle.load_state_dict(closed)
    handle.reproject(trigger="test")
    assert handle.ranks() == ranks
    names = list(gates)
    assert all(torch.equal(handle.gates()[name], gates[name]) for name in names[3:])


@pytest.mark.parametrize("name, projected", [("AdamW", True), ("SGD", True), ("Adagrad", False)])
def test_an_optimizer_whose_momentum_is_not_known_is_told_of(tiny_llama, token_batches, name, projected):
    model, batches = tiny_llama(dropout=0.0), token_batches()
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, **options
    )
    handle = attach(
        model.train(),
        optimizer,
        GritConfig(
            cov_update_freq=1, preconditioner="none", T=1, kfac_min_samples=1, tau=0.7, min_lora_rank=1
        ),
    )
    for batch in batches[:2]:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    told = [event for event in handle.events if isinstance(event, MomentumNotProjected)]
    assert len(told) == (0 if projected else 1)
    key = {"AdamW": "exp_avg", "SGD": "momentum_buffer"}.get(name)
    if key is not None:
        for layer in handle.layers:
            assert (
                torch.linalg.matrix_rank(optimizer.state[layer.down.weight][key], rtol=1e-9)
                <= handle.ranks()[layer.name]
            )
