"""SOAP in rank space, the trust region, the source's curvature: each against a slow twin or closed form."""

import math

import pytest
import torch
from attached import moving, parameters, take_step

from grit.adapters.peft_adapters import adapted_layers
from grit.capture.token_samples import token_samples
from grit.config.first_effect import idle_reason
from grit.config.method import GritConfig
from grit.config.overrides import with_overrides
from grit.data.encode import IGNORED_LABEL
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.geometry.events import Reprojection
from grit.rank_space.projectors import Spectrum
from grit.rank_space.source_curvature import weighed
from grit.stepping.source_pull import SourcePull

EVERY_STEP = {"cov_update_freq": 1, "kfac_update_freq": 1, "kfac_min_samples": 1, "T": None}


def _weights(model):
    return [p.detach().clone() for p in parameters(model)]


def _trained(model, optimizer, batches, config, **more):
    handle = attach(model, optimizer, config, **more)
    for batch in batches:
        take_step(model, optimizer, batch)
    return handle


@pytest.mark.parametrize("kind", ["plain", "projected", "gate"])
def test_a_rotation_changes_nothing_for_an_optimizer_that_has_no_axes(tiny_llama, token_batches, kind):
    """SGD with momentum is the same in every orthonormal basis, its projected momentum included."""
    more = {"plain": {}, "projected": {"T": 2, "tau": 0.8, "min_lora_rank": 1}}
    more["gate"] = {**more["projected"], "suppression": "gate"}
    ended = []
    for preconditioner in ("soap", "none"):
        model = tiny_llama(dropout=0.0)
        optimizer = moving(model, torch.optim.SGD, momentum=0.9, weight_decay=0.01)
        config = GritConfig(preconditioner=preconditioner, **{**EVERY_STEP, **more[kind]})
        handle = _trained(model, optimizer, token_batches(), config)
        assert handle.summary().preconditions == (preconditioner == "soap")
        handle.detach()
        momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in parameters(model)]
        ended.append([*_weights(model), *momenta])
    for one, other in zip(*ended, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def _adam_in_bases(gradients, bases, *, left, weight, rate, decay):
    """Adam step by step, in a basis that changes at every step; its moments are turned with it."""
    m = v = torch.zeros_like(weight)
    before = torch.eye(bases[0].shape[0], dtype=weight.dtype)
    for step, (gradient, basis) in enumerate(zip(gradients, bases, strict=True), start=1):
        turn = basis.T @ before
        turned = basis.T @ gradient if left else gradient @ basis
        m = turn @ m if left else m @ turn.T
        v = turn.square() @ v if left else v @ turn.square().T
        m, v = 0.9 * m + 0.1 * turned, 0.999 * v + 0.001 * turned.square()
        move = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        weight = weight * (1 - rate * decay) - rate * (basis @ move if left else move @ basis.T)
        before = basis
    return weight


def test_soap_is_adam_in_the_eigenbasis_of_the_space_a_gradient_lives_in(tiny_llama, token_batches):
    """A by the eigenvectors of Sigma_g, B by those of Sigma_a; moments follow the basis."""
    model = tiny_llama(dropout=0.0)
    optimizer = moving(model, weight_decay=0.1)
    handle = attach(model, optimizer, GritConfig(preconditioner="soap", **EVERY_STEP), verify=False)
    layers, first = handle.layers, _weights(model)
    seen = {layer.name: ([], []) for layer in layers}
    bases = {layer.name: ([], []) for layer in layers}
    for batch in token_batches():
        model(**batch).loss.backward()
        for layer in layers:
            for gradients, weight in zip(seen[layer.name], (layer.down.weight, layer.up.weight), strict=True):
                gradients.append(weight.grad.clone())
        optimizer.step()
        for layer in layers:
            factors = handle.factors()[layer.name]
            bases[layer.name][0].append(torch.linalg.eigh(factors.sigma_g).eigenvectors)
            bases[layer.name][1].append(torch.linalg.eigh(factors.sigma_a).eigenvectors)
        optimizer.zero_grad()
    before = dict(zip(parameters(model), first, strict=True))
    for layer in layers:
        for side, weight in enumerate((layer.down.weight, layer.up.weight)):
            expected = _adam_in_bases(
                seen[layer.name][side],
                bases[layer.name][side],
                left=side == 0,
                weight=before[weight],
                rate=1e-2,
                decay=0.1,
            )
            torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-9)


def test_a_step_that_failed_does_not_leave_weights_in_the_eigenbasis(tiny_llama, token_batches):
    model = tiny_llama(dropout=0.0)
    optimizer = moving(model, torch.optim.SGD)
    batches = token_batches()
    handle = _trained(model, optimizer, batches[:2], GritConfig(preconditioner="soap", **EVERY_STEP))
    whole = _weights(model)
    model(**batches[2]).loss.backward()
    handle._before_step(optimizer, (), {})
    assert not torch.equal(_weights(model)[0], whole[0])
    handle.detach()
    for weight, before in zip(_weights(model), whole, strict=True):
        assert torch.equal(weight, before)


def test_a_step_stays_within_its_trust_region_and_keeps_its_direction(tiny_llama, token_batches):
    """rate^2 / 2 <F^-1 g, g> is the bound where it binds; a loose bound changes nothing."""
    moves, asked = {}, []
    for kappa in (None, 1e3, 1e-6):
        model = tiny_llama(dropout=0.0)
        before = _weights(model)
        optimizer = moving(model, torch.optim.SGD)
        config = GritConfig(preconditioner="kfac", trust_region=kappa, **EVERY_STEP)
        handle = attach(model, optimizer, config)
        model(**token_batches()[0]).loss.backward()
        raw = [p.grad.clone() for p in parameters(model)]
        optimizer.step()
        moves[kappa] = [after - old for after, old in zip(_weights(model), before, strict=True)]
        inner = sum(float((p.grad * g).sum()) for p, g in zip(parameters(model), raw, strict=True))
        asked.append(1e-2**2 / 2 * inner * handle._trust.scale)
    for free, loose in zip(moves[None], moves[1e3], strict=True):
        assert torch.equal(free, loose)
    assert asked[0] > 1e-6
    assert asked[2] == pytest.approx(1e-6, rel=1e-9)
    scale = math.sqrt(1e-6 / asked[0])
    for free, bound in zip(moves[None], moves[1e-6], strict=True):
        torch.testing.assert_close(bound, scale * free, rtol=1e-9, atol=1e-15)


def test_the_trust_region_holds_the_whole_gradient_and_waits_for_its_metric(tiny_llama, token_batches):
    """Penalties are part of what is bounded; before the first inverse there is nothing to bound by."""
    ended = {}
    for kappa in (None, 1e-9):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = moving(model, torch.optim.SGD)
        config = GritConfig(
            preconditioner="kfac",
            trust_region=kappa,
            source_penalty=300.0,
            lambda_k=1.0,
            **{**EVERY_STEP, "kfac_update_freq": 3},
        )
        handle = attach(model, optimizer, config, source=batches)
        scales, weights = [], [_weights(model)]
        for batch in batches[:3]:
            take_step(model, optimizer, batch)
            scales.append(handle._trust.scale)
            weights.append(_weights(model))
        ended[kappa] = weights
        assert scales[:2] == [1.0, 1.0] and (scales[2] < 1e-2) == (kappa is not None)
    for step in (1, 2):
        assert all(map(torch.equal, ended[None][step], ended[1e-9][step]))
    moved = [float((b - a).abs().max()) for a, b in zip(*ended[1e-9][2:], strict=True)]
    assert max(moved) < 1e-3


@pytest.mark.parametrize("preconditioner", ["soap", "kfac"])
def test_a_step_that_raised_is_not_taken_for_one_under_way(tiny_llama, token_batches, preconditioner):
    """The optimizer fails once, and the loop goes on: function, steps and later weights are as without it."""

    class Fragile(torch.optim.AdamW):
        fails = False

        @torch.no_grad()
        def step(self, closure=None):
            if self.fails:
                raise MemoryError
            return super().step(closure)

    ended = []
    for failing in (False, True):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = moving(model, Fragile)
        handle = attach(model, optimizer, GritConfig(preconditioner=preconditioner, **EVERY_STEP))
        for batch in batches[:2]:
            take_step(model, optimizer, batch)
        if failing:
            before, optimizer.fails = float(model(**batches[2]).loss.detach()), True
            model(**batches[2]).loss.backward()
            with pytest.raises(MemoryError):
                optimizer.step()
            optimizer.fails = False
            optimizer.zero_grad()
            assert float(model(**batches[2]).loss.detach()) == pytest.approx(before, rel=1e-12)
        for batch in batches[2:]:
            take_step(model, optimizer, batch)
        assert handle.step == 4
        ended.append(float(model(**batches[0]).loss.detach()))
    assert ended[0] == pytest.approx(ended[1], rel=0.05)  # statistics have seen the failed step's batch, too


def test_a_state_is_loaded_over_a_step_that_failed(tiny_llama, token_batches):
    """What was turned has been written since: nothing of it comes back."""
    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = moving(model)
    handle = _trained(model, optimizer, batches[:2], GritConfig(preconditioner="soap", **EVERY_STEP))
    kept, state = _weights(model), handle.state_dict()
    model(**batches[2]).loss.backward()
    handle._before_step(optimizer, (), {})
    with torch.no_grad():
        for weight, before in zip(parameters(model), kept, strict=True):
            weight.copy_(before)
    handle.load_state_dict(state)
    handle.detach()
    for weight, before in zip(_weights(model), kept, strict=True):
        assert torch.equal(weight, before)


def _source_oracle(model, layer, batches):
    """X_src and G_src by definition, token by token, from the untuned model."""
    down, up = layer.down.weight.detach(), layer.up.weight.detach()
    inputs = torch.zeros(layer.rank, layer.rank, dtype=torch.float64)
    gradients, tokens, labels = torch.zeros_like(inputs), 0, 0
    for batch in batches:
        kept = {}

        def moved(_module, arguments, output, kept=kept):
            kept["x"] = arguments[0].detach()
            kept["e"] = torch.zeros_like(output, requires_grad=True)
            return output + kept["e"]

        with model.disable_adapter():
            hook = layer.base.register_forward_hook(moved)
            loss = model(**batch, num_items_in_batch=1).loss
            hook.remove()
        (arrived,) = torch.autograd.grad(loss, kept["e"])
        for row, position in batch["attention_mask"].nonzero().tolist():
            z, u = down @ kept["x"][row, position], up.T @ arrived[row, position]
            inputs += torch.outer(z, z)
            gradients += torch.outer(u, u)
            tokens += 1
        labels += int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
    return inputs / tokens, gradients / labels


def _pull(model, batches, tokens=10_000):
    layers = adapted_layers(model)
    return SourcePull(layers, token_samples(model, layers, batches, tokens), torch.float64)


def test_the_source_s_factors_are_their_definition_for_the_adapter_as_it_is(tiny_llama, token_batches):
    """Padding, prompts without labels; after the adapter has moved, too; nothing is left behind."""
    model, batches = tiny_llama().train(), token_batches("left")
    layers = adapted_layers(model)
    one_rank = _pull(model, batches)
    assert model.training and all(p.grad is None for p in model.parameters())
    for _ in range(2):
        factors = one_rank.factors()
        model.eval()
        for row, layer in enumerate(layers):
            inputs, gradients = _source_oracle(model, layer, batches)
            torch.testing.assert_close(factors.inputs[row], inputs, rtol=1e-4, atol=1e-8)
            torch.testing.assert_close(factors.gradients[row], gradients, rtol=1e-4, atol=1e-8)
        for p in parameters(model):
            p.data.mul_(1.5).add_(0.01)


@pytest.mark.parametrize("gated", [False, True])
def test_the_penalty_s_gradients_are_those_of_the_dense_quadratic_form(tiny_llama, token_batches, gated):
    """s^2 / 2 tr(dW^T C_g dW C_x) with dW = B G A, written out in full and differentiated by autograd."""
    model, batches = tiny_llama(dropout=0.0), token_batches(count=2)
    layers = adapted_layers(model)
    samples = token_samples(model, layers, batches, 10_000)
    pull = SourcePull(layers, samples, torch.float64)
    generator = torch.Generator().manual_seed(3)
    gates = torch.randn(len(layers), 4, 4, dtype=torch.float64, generator=generator) if gated else None
    for p in parameters(model):
        p.grad = torch.zeros_like(p)
    pull.add_gradients(0.7, gates)
    total = 0.0
    for row, (layer, entry) in enumerate(zip(layers, samples, strict=True)):
        down, up = (w.detach().clone().requires_grad_() for w in (layer.down.weight, layer.up.weight))
        update = up @ down if gates is None else up @ gates[row] @ down
        x, g = entry.inputs, entry.gradients
        form = torch.trace(update.T @ (g.T @ g / len(g)) @ update @ (x.T @ x / len(x)))
        penalty = 0.7 * layer.scaling**2 / 2 * form
        penalty.backward()
        torch.testing.assert_close(layer.down.weight.grad, down.grad, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(layer.up.weight.grad, up.grad, rtol=1e-8, atol=1e-12)
        total += float(penalty.detach())
    if not gated:
        assert 0.7 * float(pull.penalties().sum()) == pytest.approx(total, rel=1e-8)


def test_the_penalty_holds_the_adapter_where_general_text_is_flat(tiny_llama, token_batches):
    """The same steps with and without: predicted forgetting ends lower, and the function differs."""
    ended = {}
    for weight in (0.0, 300.0):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        pull = _pull(model, batches)
        optimizer = moving(model)
        config = GritConfig(preconditioner="none", source_penalty=weight, **EVERY_STEP)
        _trained(model, optimizer, batches * 3, config, source=batches)
        ended[weight] = float(pull.penalties().sum())
    assert ended[300.0] < 0.7 * ended[0.0]


def test_directions_are_kept_by_what_they_hold_of_the_task_beyond_the_source():
    vectors = torch.eye(4, dtype=torch.float64)[None]
    task = Spectrum(torch.tensor([[4.0, 3.0, 2.0, 1.0]], dtype=torch.float64), vectors)
    source = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    left = weighed(task, source, 0.5)
    torch.testing.assert_close(left.values, torch.tensor([[0.3, 0.2, 0.1, 0.0]], dtype=torch.float64))
    assert left.vectors[0].argmax(0).tolist() == [1, 2, 3, 0]
    same = weighed(task, source, 0.0)
    torch.testing.assert_close(same.values, task.values / 10)
    assert torch.equal(same.vectors, vectors)
    for empty in (weighed(task, 0 * source, 0.5), weighed(task, -source, 0.5)):
        assert torch.equal(empty.values, task.values) and torch.equal(empty.vectors, vectors)


@pytest.mark.parametrize("basis", ["fisher", "balanced"])
@pytest.mark.parametrize("suppression", ["project", "gate"])
def test_a_reprojection_leaves_out_what_the_source_holds(tiny_llama, token_batches, basis, suppression):
    """Less of what the source holds is kept than without, at equal rank."""
    kept, batches = {}, token_batches()
    for weight in (0.0, 0.99):
        model = tiny_llama(dropout=0.0)
        source = token_batches("left")
        layers, optimizer = adapted_layers(model), moving(model)
        samples = token_samples(model, layers, source, 10_000)
        pull = SourcePull(layers, samples, torch.float64)
        whole = pull.penalties()
        config = GritConfig(
            **{**EVERY_STEP, "T": 1},
            preconditioner="none",
            rank_adaptation=False,
            reprojection_k=2,
            source_weight=weight,
            basis=basis,
            suppression=suppression,
        )
        handle = attach(model, optimizer, config, source=source)
        model(**batches[0]).loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        optimizer.step()
        assert any(isinstance(event, Reprojection) for event in handle.events)
        handle.detach()
        kept[weight] = float((pull.penalties() / whole).mean())
    assert kept[0.99] < 0.9 * kept[0.0]


@pytest.mark.parametrize("seed", range(3))
def test_weighed_balanced_directions_do_not_depend_on_the_factorization(tiny_llama, token_batches, seed):
    """(M A, B M^-1) is the same adapter, and keeps the same function after a weighed reprojection."""
    updates = []
    for turned in (False, True):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        generator = torch.Generator().manual_seed(seed)
        for layer in adapted_layers(model) if turned else ():
            turn = torch.randn(4, 4, generator=generator, dtype=torch.float64)
            turn = turn + 2 * torch.eye(4, dtype=torch.float64)
            layer.down.weight.data.copy_(turn @ layer.down.weight.data)
            layer.up.weight.data.copy_(layer.up.weight.data @ torch.linalg.inv(turn))
        config = GritConfig(
            **{**EVERY_STEP, "T": 1}, preconditioner="none", basis="balanced", source_weight=0.7, tau=0.6
        )
        optimizer = torch.optim.SGD(parameters(model), lr=0.0)
        handle = attach(model, optimizer, config, source=batches)
        take_step(model, optimizer, batches[0])
        assert min(handle.ranks().values()) < 4 or config.min_lora_rank == 4
        updates.append([layer.up.weight @ layer.down.weight for layer in handle.layers])
    for one, other in zip(*updates, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_the_source_s_passes_leave_gradients_and_modes_alone(tiny_llama, token_batches):
    model = tiny_llama()
    model.train()
    norms = [module for name, module in model.named_modules() if name.endswith("layernorm")]
    norms[0].eval()
    for norm in norms:
        norm.weight.requires_grad_(True)
    attach(model, moving(model), GritConfig(source_penalty=1.0), source=iter(token_batches()))
    assert all(p.grad is None for p in model.parameters())
    assert norms[0].weight.requires_grad and not norms[0].training and norms[1].training
    wrong = [{**token_batches()[0], "input_ids": torch.full((2, 9), 10_000)}]
    other = tiny_llama().train()
    with pytest.raises(IndexError):
        attach(other, moving(other), GritConfig(source_penalty=1.0), source=wrong)
    assert other.training and all(p.requires_grad == ("lora_" in n) for n, p in other.named_parameters())


def test_what_they_need_is_refused_by_name(tiny_llama, tiny_t5, token_batches, bench, short_run):
    with pytest.raises(ConfigError, match="source_penalty = 1.0: needs general text"):
        model = tiny_llama()
        attach(model, moving(model), GritConfig(source_penalty=1.0))
    with pytest.raises(ConfigError, match="source_weight = 0.5: needs a causal language model"):
        model = tiny_t5
        attach(model, moving(model), GritConfig(source_weight=0.5), source=token_batches())
    with pytest.raises(ConfigError, match="must be text with labels"):
        model = tiny_llama()
        bare = [{**batch, "labels": torch.full_like(batch["labels"], -100)} for batch in token_batches()]
        attach(model, moving(model), GritConfig(source_weight=0.5), source=bare)
    with pytest.raises(ConfigError, match="source = 'a batch without labels': must have attention_mask and"):
        model = tiny_llama()
        bare = [{key: value for key, value in token_batches()[0].items() if key != "labels"}]
        attach(model, moving(model), GritConfig(source_weight=0.5), source=bare)
    for kind, options in ((torch.optim.Adagrad, {}), (torch.optim.AdamW, {"amsgrad": True})):
        with pytest.raises(ConfigError, match="preconditioner = 'soap': needs an optimizer whose moments"):
            model = tiny_llama()
            attach(model, moving(model, kind, **options), GritConfig(preconditioner="soap"))
    with pytest.raises(ConfigError, match="method = 'lora': cannot take the place of grit_soap"):
        short_run(method="grit_soap").changed(method="lora")
    with pytest.raises(ConfigError, match="T = 4: is None in method lora_ewc"):
        with_overrides(short_run(method="lora_ewc"), {"T": 4})
    assert "source_tokens acts only beside" in idle_reason(short_run(), {"source_tokens": 64})
    assert idle_reason(short_run(), {"source_tokens": 64, "source_penalty": 1.0}) is None
    with pytest.raises(ConfigError, match="source_weight = 0.5: must be 0 with T = none"):
        GritConfig(source_weight=0.5, T=None)
    with pytest.raises(ConfigError, match=r"retention-file = None: has 1000 documents"):
        bench.source_batches(short_run(retention_documents=1000))
    with pytest.raises(ConfigError, match="optimizer = 'sgd': LoRA-FA has one of its own"):
        short_run(method="lora_fa", optimizer="sgd")


def test_general_text_in_training_is_not_what_forgetting_is_measured_on(bench, short_run):
    config = short_run(retention_documents=5)
    measured, source = bench.text_batches(config, bench.documents(config)), bench.source_batches(config)
    read = {tuple(row) for batch in measured for row in batch["input_ids"].tolist()}
    assert source
    assert not any(tuple(row) in read for batch in source for row in batch["input_ids"].tolist())
