import pytest
import torch

from grit.rank_space.damped_inverse import LADDER, damped_inverse, damping_of, left_right


def _factors(count=5, rank=6, seed=0):
    x = torch.randn(count, 40, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.mT @ x / 40


def test_damped_inverse_equals_the_dense_inverse():
    factors = _factors()
    damping = torch.tensor([1e-4, 1e-3, 1e-2, 0.1, 1.0], dtype=torch.float64)
    result = damped_inverse(factors, damping)
    for m in range(5):
        dense = torch.linalg.inv(factors[m] + damping[m] * torch.eye(6, dtype=torch.float64))
        torch.testing.assert_close(result.inverse[m], dense, rtol=1e-9, atol=1e-9)
    assert result.multiple.tolist() == [1.0] * 5


def test_the_ladder_climbs_only_where_it_must():
    factors = _factors(3)
    factors[1] -= 0.05 * torch.eye(6, dtype=torch.float64) + torch.linalg.eigvalsh(factors[1])[0] * torch.eye(
        6, dtype=torch.float64
    )
    result = damped_inverse(factors, torch.full((3,), 2e-3, dtype=torch.float64))
    assert result.multiple.tolist() == [
        1.0,
        30.0,
        1.0,
    ]  # 0.05 needs more than 10 x 0.002... and 30 x 0.002 is the first above
    assert all(rung in LADDER for rung in result.multiple.tolist())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e6])
def test_a_hopeless_factor_is_marked_and_spoils_no_other(value):
    factors = _factors(3)
    factors[2, 0, 0] = value
    result = damped_inverse(factors, torch.full((3,), 1e-3, dtype=torch.float64))
    assert result.multiple.tolist()[2] == 0
    assert torch.isfinite(result.inverse).all()
    torch.testing.assert_close(
        result.inverse[:2],
        damped_inverse(_factors(3)[:2], torch.full((2,), 1e-3, dtype=torch.float64)).inverse,
    )


def test_relative_damping_does_not_depend_on_scale():
    factors = _factors()
    for scale in (1e-6, 1.0, 1e4):
        scaled = (
            damped_inverse(scale * factors, damping_of(scale * factors, 0.01, "relative")).inverse * scale
        )
        torch.testing.assert_close(
            scaled, damped_inverse(factors, damping_of(factors, 0.01, "relative")).inverse
        )
    assert damping_of(factors, 0.01, "absolute").tolist() == [0.01] * 5


def test_the_damping_that_is_set_is_the_damping_that_is_used_beside_large_eigenvalues():
    """As `RankGroup.refresh` inverts: in float64.

    In float32 the null space of this factor would get anything but 1 / lambda.
    """
    direction = torch.nn.functional.normalize(
        torch.randn(1, 16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    factor = 1e4 * direction @ direction.mT
    result = damped_inverse(factor, torch.tensor([1e-4], dtype=torch.float64))
    values = torch.linalg.eigvalsh(result.inverse[0])
    assert result.multiple.tolist() == [1.0]
    torch.testing.assert_close(values[1:], torch.full((15,), 1e4, dtype=torch.float64), rtol=1e-3, atol=0)


def test_which_side_gets_which_factor():
    a, g = torch.zeros(1), torch.ones(1)
    assert left_right("paper", a, g) == (a, g)
    assert left_right("kfac", a, g) == (g, a)


def test_kfac_step_is_the_natural_gradient_where_its_assumptions_hold():
    """Independent z and u with exactly Kronecker-factored second moments.

    F = Sigma_z (x) Sigma_u, damped factor by factor.
    """
    rank, lam = 3, 0.1
    sigma_a, sigma_g = _factors(1, rank, 1)[0], _factors(1, rank, 2)[0]
    eye = torch.eye(rank, dtype=torch.float64)
    gradient = torch.randn(
        rank, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )  # of M in y = B M A x: u z^T
    fisher = torch.kron(sigma_g + lam * eye, sigma_a + lam * eye)  # of vec(u z^T), rows first
    exact = torch.linalg.solve(fisher, gradient.flatten()).view(rank, rank)
    inverse_a, inverse_g = (
        damped_inverse(s[None], torch.tensor([lam], dtype=torch.float64)).inverse[0]
        for s in (sigma_a, sigma_g)
    )
    torch.testing.assert_close(inverse_g @ gradient @ inverse_a, exact, rtol=1e-9, atol=1e-9)
