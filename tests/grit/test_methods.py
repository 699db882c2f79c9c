"""What GRIT is compared with.

Every method trains, is counted, leaves the shared backbone as it was, and goes on from a checkpoint bit for
bit.
"""

import pytest
import torch
from killing import Killed, killed_at

from grit.adapters.peft_adapters import adapted_layers
from grit.config.method import GritConfig
from grit.config.overrides import with_overrides
from grit.config.registry import METHODS
from grit.config.sections import Budget
from grit.errors import ConfigError
from grit.methods.makers import MAKERS
from grit.methods.optimizers import build_optimizer
from grit.methods.peft_tuners import Tuner
from grit.training.hooks import Hooks
from grit.training.run import Run
from grit.training.trainer import adapted, take_steps, train
from grit.training.workbench import Workbench

MADE_OF_SWITCHES = [name for name in METHODS if METHODS[name].switches]
OTHERS = [name for name in METHODS if not METHODS[name].geometry and not METHODS[name].quantized]

#: Whose state beside the weights is worth an interruption: an optimizer or an adapter of their own.
RESUMED = (
    *("shampoo", "lora_ga", "lora_soap", "lora_rite", "riemannian", "lora_muon"),
    *("osf", "oft", "delora", "shira", "mica"),
    *("lora_pro", "lora_xs", "lora_sb", "svfit", "loldu", "s2ft", "lift", "loca", "matryoshka"),
)


@pytest.fixture
def method_run(short_run):
    base = short_run(
        eval_examples=4,
        retention_documents=2,
        quality="answer_logprob",
        budget=Budget(regime="step", amount=6),
        dropout=0.0,
    )
    return lambda method, **changes: base.changed(method=method, **changes)


@pytest.mark.parametrize("method", [*OTHERS, *MADE_OF_SWITCHES])
def test_a_method_trains_and_leaves_the_backbone_as_it_was(bench, method_run, method):
    config = method_run(method)
    backbone = bench.backbone(config)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    tokens = torch.arange(12)[None]
    logits = backbone.eval()(tokens).logits
    result = train(config, bench)
    assert result.status == "completed"
    assert result.measured.steps == 6
    assert 0 < result.measured.effective_parameters <= result.measured.adapter_parameters
    assert result.measured.backbone_parameters == sum(p.numel() for p in backbone.parameters())
    assert result.measured.modules
    assert bool(result.geometry) is METHODS[method].factors
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(backbone.eval()(tokens).logits, logits)
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    "method", ["adalora", "lora_fa", *(pytest.param(name, marks=pytest.mark.slow) for name in RESUMED)]
)
def test_interrupted_equals_uninterrupted(bench, method_run, tmp_path, method):
    config = method_run(method, budget=Budget(regime="step", amount=14), checkpoint_steps=1)
    whole = train(config, bench)
    for kill in (4, 12):
        with pytest.raises(Killed):
            train(config, bench, checkpoints=tmp_path, hooks=Hooks(progress=killed_at(kill)))
    resumed = train(config, bench, checkpoints=tmp_path)
    assert resumed.measured.resumed_from_step == 11
    assert [r["loss"] for r in resumed.telemetry] == [r["loss"] for r in whole.telemetry]
    assert resumed.measured.quality == whole.measured.quality
    assert resumed.measured.forgetting == whole.measured.forgetting


@pytest.mark.parametrize("method", MADE_OF_SWITCHES)
def test_a_method_has_the_switches_that_it_is_made_of(method_run, method):
    """Whatever the preset has there; and nobody may set them otherwise."""
    config = method_run(method)
    for name, value in METHODS[method].switches.items():
        assert config.setting(name) == value != method_run("grit").setting(name)
        assert with_overrides(config, {name: value}) == config
    name, value = next(iter(METHODS[method].switches.items()))
    with pytest.raises(ConfigError, match=f"{name} = .*: is {value} in method {method}"):
        with_overrides(config, {name: method_run("grit").setting(name)})


def test_an_adapter_that_cannot_be_made_takes_nobody_with_it(method_run, monkeypatch):
    """The backbone that it may have begun to change is not given to the next run."""
    workbench, config = Workbench(), method_run("oft")

    def half(wanted, backbone):
        backbone.get_parameter(f"{wanted.targets[0]}.weight").data.zero_()
        raise RuntimeError("half way")

    expected = train(method_run("lora"), workbench).measured.quality
    with monkeypatch.context() as broken:
        broken.setitem(MAKERS, "oft", Tuner(half))
        with pytest.raises(RuntimeError, match="half way"):
            train(config, workbench)
    assert train(method_run("lora"), workbench).measured.quality == expected


def test_riemannian_steps_are_scaled_by_the_other_factors_gramian(bench, method_run):
    """Zhang and Pilanci, 2024, (3): (B^T B + reg)^-1 grad A, and grad B (A A^T + reg)^-1."""
    config = method_run("riemannian")
    with adapted(config, bench) as model:
        optimizer = build_optimizer(config, model)
        layer = adapted_layers(model)[0]
        down, up = layer.down.weight, layer.up.weight
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            up.copy_(torch.randn(up.shape, generator=generator))
        gradients = [torch.randn(p.shape, generator=generator) for p in (down, up)]
        eye, a, b = torch.eye(layer.rank), down.detach().clone(), up.detach().clone()
        down.grad, up.grad = (gradient.clone() for gradient in gradients)
        optimizer.step()
        of_a = torch.linalg.solve(b.T @ b + 1e-2 * eye, gradients[0])
        of_b = torch.linalg.solve(a @ a.T + 1e-2 * eye, gradients[1].T).T
        torch.testing.assert_close(down.grad, of_a, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(up.grad, of_b, rtol=1e-3, atol=1e-4)


def test_lora_ga_goes_on_from_the_weights_that_it_began_with(bench, method_run, tmp_path, monkeypatch):
    """Another process may find other first factors, of which the base weights have lost the product."""
    config = method_run("lora_ga", budget=Budget(regime="step", amount=8), checkpoint_steps=1)
    whole = train(config, bench)
    with pytest.raises(Killed):
        train(config, bench, checkpoints=tmp_path, hooks=Hooks(progress=killed_at(5)))
    maker = MAKERS["lora_ga"]
    as_it_is = maker.make

    def elsewhere(backbone, wanted):
        model = as_it_is(backbone, wanted)
        with torch.no_grad():
            for name, (down, up) in model.initial_factors.items():
                layer = model.get_submodule(name)
                layer.get_base_layer().weight += 2 * layer.scaling["default"] * up @ down
                model.initial_factors[name] = (down, -up)
        return model

    monkeypatch.setattr(maker, "make", elsewhere)
    resumed = train(config, bench, checkpoints=tmp_path)
    assert resumed.measured.resumed_from_step == 4
    losses = [[row["loss"] for row in result.telemetry] for result in (resumed, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_knowledge_is_kept_where_general_text_says(bench, method_run):
    """CorDA's two modes look at different texts, and adapt other directions of the same weights."""
    factors = {}
    for method in ("corda", "corda_kpm"):
        with adapted(method_run(method), bench) as model:
            factors[method] = next(p.detach().clone() for n, p in model.named_parameters() if "lora_A" in n)
    of_task, of_rest = (torch.linalg.qr(f.T).Q for f in factors.values())
    assert torch.linalg.matrix_norm(of_task.T @ of_rest, ord=2) < 0.99


def test_only_what_a_method_trains_is_counted(bench, method_run):
    trained = {method: train(method_run(method), bench) for method in ("lora", "lora_fa", "ia3", "adalora")}
    whole = trained["lora"].measured.adapter_parameters
    assert trained["lora_fa"].measured.adapter_parameters < whole
    assert trained["ia3"].measured.adapter_parameters < whole // 10
    ada = trained["adalora"]
    assert (
        ada.measured.effective_parameters < ada.measured.adapter_parameters
    )  # it begins with more ranks than it keeps


def test_each_optimizer_keeps_its_own_rates(bench, method_run):
    with adapted(method_run("lora_plus"), bench) as model:
        rates = {
            group["lr"]
            for group in build_optimizer(method_run("lora_plus"), model).param_groups
            if group["params"]
        }
    assert rates == {2e-3, 2e-3 * 16}


def test_a_dropped_gradient_skips_the_step_of_any_optimizer(bench, method_run):
    for method in ("lora_fa", "adalora", "shampoo"):
        config, backward_passes = method_run(method), []

        def poisoned(gradient, passes=backward_passes):
            passes.append(1)
            return gradient.fill_(float("nan")) if len(passes) == 3 else gradient

        with adapted(config, bench) as model:
            run = Run(config, bench, model, checkpoints=None)
            run.state.parameters[0].register_hook(poisoned)
            run.measure_base()
            assert take_steps(run, Hooks()) == ("completed", None)
            assert run.state.guard.skipped == 1
            assert all(torch.isfinite(parameter).all() for parameter in run.state.parameters)
            del run, model


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"method": "adalora", "budget": Budget(regime="time", amount=1.0)},
            "needs to know its number of steps",
        ),
        ({"method": "adalora", "budget": Budget(regime="step", amount=2)}, "must be at least 3"),
        ({"method": "orthogonal", "rank": 7}, "must be even"),
        ({"method": "vera", "layer_ranks": (4, 8)}, "one rank for all layers"),
        ({"method": "lora", "stability": True}, "needs the statistics"),
        ({"method": "lora", "ladder": (2,)}, "needs the statistics"),
        ({"method": "dora", "exported": True}, "no plain LoRA"),
        ({"method": "dora", "truncations": (2,)}, "no plain LoRA"),
        ({"truncations": (9,)}, "at most the rank"),
        ({"beside": ("grit",)}, "not the run's own"),
        ({"beside": ("lora",), "budget": Budget(regime="time", amount=1.0)}, "share their seconds"),
        ({"beside": ("x",)}, "list of methods"),
    ],
)
def test_what_cannot_be_is_refused(short_run, changes, said):
    with pytest.raises(ConfigError, match=said):
        short_run(**changes)


def test_watched_lora_is_lora(bench, short_run):
    """Without preconditioning and reprojection GRIT trains as LoRA does, bit for bit.

    What the audits take for a LoRA whose curvature is watched.
    """
    grit = GritConfig(preconditioner="none", reprojection_freq=None, cov_update_freq=1)
    watched = train(short_run(grit=grit, stability=True, truncations=(2,)), bench)
    plain = train(short_run(method="lora"), bench)
    assert [r["loss"] for r in watched.telemetry] == [r["loss"] for r in plain.telemetry]
    assert watched.measured.forgetting == plain.measured.forgetting
