import math

import pytest
import torch

from grit.adapters.quantization import code_noise, noise_to_signal
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.cadence import CadenceController, indicators, verdict
from grit.rank_space.mitigations import (
    entropy_share,
    mixed_selection,
    pooled,
    spectral_snr,
    with_entropy_floor,
)
from grit.rank_space.regularizers import penalty_matrices, ramp


def _random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_white_noise_has_an_snr_near_one_and_signal_has_more():
    """Marchenko and Pastur's edge is where the top eigenvalue of noise lies, whatever n."""
    for samples in (200, 2000):
        noise = _random(50, samples, 16, seed=samples)
        values = torch.linalg.eigvalsh(noise.mT @ noise / samples).flip(-1)
        assert 0.8 < float(spectral_snr(values, torch.full((50,), samples)).mean()) < 1.1
        signal = noise.clone()
        signal[..., 0] *= 3
        values = torch.linalg.eigvalsh(signal.mT @ signal / samples).flip(-1)
        assert float(spectral_snr(values, torch.full((50,), samples)).min()) > 3
    assert spectral_snr(torch.ones(1, 4), torch.zeros(1)).tolist() == [0.0]


def test_an_exponential_mean_is_worth_the_tokens_it_remembers():
    """White noise in 200 steps of 64 tokens, of which a decay of 0.5 remembers three steps: still noise."""
    from grit.rank_space.moments import RunningMoment, second_moment_sum

    snr = {}
    for decay in (None, 0.5):
        moment = RunningMoment(20, 16, decay=decay, device=torch.device("cpu"), dtype=torch.float64)
        for step in range(200):
            moment.add(second_moment_sum(_random(20, 64, 16, seed=step), torch.ones(64)), torch.tensor(64.0))
        values = torch.linalg.eigvalsh(moment.mean()).flip(-1)
        snr[decay] = float(spectral_snr(values, moment.effective_samples()).mean())
    assert moment.effective_samples().tolist() == pytest.approx([64 * 3] * 20)
    assert 0.8 < snr[None] < 1.1
    assert 0.8 < snr[0.5] < 1.2


def test_entropy_floor_is_reached_exactly_and_costs_no_energy():
    values = torch.tensor(
        [[8.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64
    )
    floored = with_entropy_floor(values, 0.7)
    torch.testing.assert_close(floored.sum(-1), values.sum(-1))
    assert entropy_share(values)[0] < 0.7
    assert entropy_share(floored)[0] == pytest.approx(0.7, abs=1e-9)
    assert entropy_share(floored)[2] == pytest.approx(0.7, abs=1e-9)
    assert torch.equal(floored[1], values[1])
    assert (floored.diff(dim=-1) <= 1e-12).all()
    assert torch.equal(with_entropy_floor(values, 0.0), values)
    assert entropy_share(values)[1] == pytest.approx(1.0)
    assert entropy_share(values)[2] == 0


def test_mixing_leaves_directions_out_and_keeps_the_rank():
    ranks = torch.tensor([1, 3, 4])
    uniform = torch.tensor([[0.9, 0.0, 0.0, 0.0], [0.9, 0.1, 0.9, 0.0], [0.0, 0.9, 0.9, 0.9]])
    kept = mixed_selection(ranks, 4, 0.5, uniform)
    assert kept.sum(-1).tolist() == [1, 3, 4]
    assert kept.tolist() == [[True, False, False, False], [True, False, True, True], [True] * 4]
    share = (
        torch.stack(
            [
                mixed_selection(
                    torch.tensor([2]), 4, 0.25, torch.rand(1, 4, generator=torch.Generator().manual_seed(s))
                )[0]
                for s in range(2000)
            ]
        )
        .double()
        .mean(0)
    )
    assert share[0] == pytest.approx(
        0.75 + 0.0, abs=0.03
    )  # dropped with probability 1/4, and never needed to fill up: two are below
    assert share[2] > share[3] > 0


def test_pooling_adds_sums_and_weights_over_a_group():
    sums, weights = pooled(
        torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 1.0, 3.0]), torch.tensor([0, 1, 0])
    )
    assert sums.tolist() == [[5.0], [2.0], [5.0]]
    assert weights.tolist() == [4.0, 1.0, 4.0]


@pytest.mark.parametrize("lambda_k, lambda_r", [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7)])
def test_regularizer_gradients_equal_autograd(lambda_k, lambda_r):
    """Of the formula as it stands, projectors oblique or not."""
    a, b = _random(2, 4, 7, seed=1).requires_grad_(), _random(2, 5, 4, seed=2).requires_grad_()
    x, y = _random(2, 9, 4, seed=3), _random(2, 9, 4, seed=4)
    sigma_a, sigma_g, p_a, p_b = x.mT @ x, y.mT @ y, _random(2, 4, 4, seed=5), _random(2, 4, 4, seed=6)
    eye = torch.eye(4, dtype=torch.float64)
    value = lambda_k * (
        (a.mT @ sigma_a @ a).diagonal(dim1=-2, dim2=-1).sum()
        + (b @ sigma_g @ b.mT).diagonal(dim1=-2, dim2=-1).sum()
    )
    value = value + lambda_r * (((eye - p_a) @ a).square().sum() + (b @ (eye - p_b)).square().sum())
    grad_a, grad_b = torch.autograd.grad(value, (a, b))
    left, right = penalty_matrices(sigma_a, sigma_g, p_a, p_b, lambda_k, lambda_r)
    torch.testing.assert_close(left @ a, grad_a)
    torch.testing.assert_close(b @ right, grad_b)


def test_the_ramp_is_linear():
    assert [ramp(step, 4) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert ramp(0, 0) == 1.0


def test_indicators_by_hand_and_their_verdicts():
    calm = indicators([1.0, 1.1, 0.9, 1.0], [2.0, 2.0, 1.95, 1.95], [0.2, 0.3, 0.1, 0.2])
    assert (calm.change, calm.cosine) == (pytest.approx(-0.025), pytest.approx(0.2))
    assert calm.spread == pytest.approx(math.sqrt(0.005))
    assert verdict(calm) == "stable"
    assert verdict(indicators([1.0, 1.0, 1.0, 9.0], [2.0] * 4, [0.1] * 4)) == "unstable"
    assert verdict(indicators([1.0] * 4, [2.0, 2.0, 3.0, 3.0], [0.1] * 4)) == "unstable"
    assert verdict(indicators([1.0] * 4, [2.0] * 4, [-0.9] * 4)) == "unstable"
    assert verdict(indicators([1.0] * 4, [2.0, 2.0, 1.0, 1.0], [0.1] * 4)) == "neutral"
    assert verdict(indicators([1.0, math.nan, 1.0, 1.0], [2.0] * 4, [0.1] * 4)) == "unstable"


def test_the_controller_stretches_while_stable_and_snaps_back():
    parameter = torch.nn.Parameter(torch.zeros(3))
    controller = CadenceController(4, 4, [parameter])

    def window(norm):
        found = None
        for step in range(4):
            parameter.grad = torch.ones(3)
            found = controller.update(norm if step == 3 else 1.0, torch.tensor(2.0), lambda tensor: None)
        return found[0], controller.stretch

    assert [window(1.0) for _ in range(3)] == [("stable", 2), ("stable", 4), ("stable", 4)]
    assert window(50.0) == ("unstable", 1)
    saved = controller.state_dict()
    other = CadenceController(4, 4, [parameter])
    other.load_state_dict(saved)
    assert window(1.0) == ("stable", 2)
    assert other.stretch == 1


def test_quantization_noise_is_what_rounding_does():
    """Expected from the codes alone, against the real error of quantizing known weights.

    Within a fifth (weights are not uniform in a cell).
    """
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = torch.randn(256, 128, generator=torch.Generator().manual_seed(0))
    layer = bitsandbytes.nn.Linear4bit(128, 256, bias=False, quant_type="nf4", compress_statistics=True)
    layer.weight = bitsandbytes.nn.Params4bit(
        weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer.to("cpu")
    if layer.weight.quant_state is None:
        layer.weight = layer.weight._quantize("cpu")
    stored = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    real = float((stored.float() - weight).square().sum() / stored.float().square().sum())
    assert noise_to_signal(layer) == pytest.approx(real, rel=0.2)
    assert noise_to_signal(torch.nn.Linear(4, 4)) == 0.0
    assert code_noise(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([1 / 12, 1 / 12])


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"reprojection_trigger": "adaptive", "T": None}, "reprojection_trigger"),
        ({"lambda_r": 1e-4, "T": None}, "lambda_r"),
        ({"subspace_mixing": 0.1, "T": None}, "subspace_mixing"),
        ({"cadence": "adaptive", "preconditioner": "none"}, "cadence"),
        ({"basis": "balanced", "two_sided": False}, "two_sided"),
        ({"rank_policy": "growth", "rank_adaptation": False}, "rank_policy"),
        ({"rank_policy": "growth", "rank_hysteresis": 0.001}, "rank_hysteresis"),
        ({"tau": 0.99, "rank_hysteresis": 0.01}, "rank_hysteresis"),
        ({"suppression": "gate", "reprojection_mix": 0.5}, "reprojection_mix"),
    ],
)
def test_combinations_that_mean_nothing_are_refused_by_name(changes, name):
    with pytest.raises(ConfigError, match=f"^{name} = "):
        GritConfig(**changes)


def test_the_knobs_have_aliases():
    config = GritConfig(tau=0.9, T=None, lambda_=0.1)
    assert (config.rank_adaptation_threshold, config.reprojection_freq, config.kfac_damping) == (
        0.9,
        None,
        0.1,
    )
    assert (config.tau, config.T, config.lambda_) == (0.9, None, 0.1)
    assert GritConfig(**{"lambda": 0.1, "tau": 0.9, "T": None}) == config
    with pytest.raises(ConfigError, match="^rank_adaptation_threshold = .* once"):
        GritConfig(tau=0.9, rank_adaptation_threshold=0.9)


def test_after_the_papers_preconditioner_the_curvature_regularizer_is_decay():
    """(Sigma + lambda)^-1 2 c Sigma A is 2 c A where Sigma is well above lambda, and nothing well below."""
    values = torch.tensor([1e3, 1.0, 1e-6], dtype=torch.float64)
    vectors = torch.linalg.qr(_random(3, 3, seed=7))[0]
    sigma = vectors @ torch.diag(values) @ vectors.mT
    weights = _random(3, 5, seed=8)
    left, _ = penalty_matrices(sigma[None], sigma[None], None, None, 0.1, 0.0)
    applied = torch.linalg.solve(sigma + 1e-3 * torch.eye(3, dtype=torch.float64), left[0] @ weights)
    expected = torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64) * 0.2 * (vectors.mT @ weights)
    torch.testing.assert_close(vectors.mT @ applied, expected, rtol=2e-3, atol=2e-3)
