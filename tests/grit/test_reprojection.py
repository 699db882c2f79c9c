import pytest
import torch

from grit.rank_space.projectors import balanced_basis, leading, projector, spectrum, update_energy
from grit.rank_space.rank import coverage, coverage_rank, growth_rank, with_hysteresis


def _random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _gram(count, rank, seed=0):
    x = _random(count, 3 * rank, rank, seed=seed)
    return x.mT @ x / (3 * rank)


def test_projectors_are_orthogonal_and_have_the_rank_asked_for():
    p = projector(spectrum(_gram(4, 6)).vectors, leading(torch.tensor([1, 3, 5, 6]), 6))
    torch.testing.assert_close(p @ p, p)
    torch.testing.assert_close(p.mT, p)
    assert torch.linalg.matrix_rank(p).tolist() == [1, 3, 5, 6]
    torch.testing.assert_close(p[3], torch.eye(6, dtype=torch.float64))


def test_spectrum_is_descending_and_rebuilds_the_factor():
    factor = _gram(2, 5)
    values, vectors = spectrum(factor)
    assert (values.diff(dim=-1) <= 0).all()
    torch.testing.assert_close((vectors * values[:, None, :]) @ vectors.mT, factor)


def test_projection_never_adds_energy_and_the_gram_formula_is_the_norm():
    a, b = _random(1, 6, 20, seed=1), _random(1, 15, 6, seed=2)
    p = projector(spectrum(_gram(1, 6)).vectors, leading(torch.tensor([3]), 6))
    before, after = update_energy(a @ a.mT, b.mT @ b), update_energy(p @ (a @ a.mT) @ p.mT, b.mT @ b)
    torch.testing.assert_close(before, (b @ a).square().sum((-1, -2)))
    torch.testing.assert_close(after, (b @ p @ a).square().sum((-1, -2)))
    one_sided = (b @ p @ p @ a).square().sum()
    assert one_sided <= before.item() * torch.linalg.matrix_norm(p, 2).item() ** 2 + 1e-9


def _invertible(rank, seed):
    """Random, with singular values from 0.1 to 10."""
    left, right = (
        torch.linalg.qr(_random(rank, rank, seed=seed))[0],
        torch.linalg.qr(_random(rank, rank, seed=seed + 1000))[0],
    )
    return left @ torch.diag(torch.logspace(-1, 1, rank, dtype=torch.float64)) @ right


def _transformed(a, b, x, g, m):
    """Factors and Gramians of (M A, B M^-1), for inputs x (N, d_in) and output gradients g (N, d_out)."""
    a, b = m @ a, b @ torch.linalg.inv(m)
    z, u = x @ a.mT, g @ b
    return a, b, (z.mT @ z / len(x))[None], (u.mT @ u / len(g))[None]


@pytest.mark.parametrize("seed", range(5))
def test_balanced_ranks_and_function_do_not_depend_on_the_factorization(seed):
    a, b, x, g = (
        _random(5, 12, seed=seed),
        _random(9, 5, seed=seed + 50),
        _random(30, 12, seed=seed + 100),
        _random(30, 9, seed=seed + 150),
    )
    results = []
    for m in (torch.eye(5, dtype=torch.float64), _invertible(5, seed + 200), _invertible(5, seed + 250)):
        ma, mb, sigma_a, sigma_g = _transformed(a, b, x, g, m)
        basis = balanced_basis(sigma_a, sigma_g)
        ranks = coverage_rank(basis.values, 0.8, 1)
        p = basis.projector(leading(ranks, 5))[0]
        torch.testing.assert_close(p @ p, p, rtol=1e-6, atol=1e-7)
        results.append((basis.values, ranks, mb @ p @ ma))
    for values, ranks, function in results[1:]:
        torch.testing.assert_close(values, results[0][0], rtol=1e-8, atol=1e-8)
        assert ranks.tolist() == results[0][1].tolist()
        torch.testing.assert_close(function, results[0][2], rtol=1e-8, atol=1e-8)


def test_the_fisher_basis_does_depend_on_the_factorization():
    a, b, x, g = _random(5, 12), _random(9, 5, seed=50), _random(30, 12, seed=100), _random(30, 9, seed=150)
    functions = []
    for m in (
        torch.eye(5, dtype=torch.float64),
        torch.diag(torch.tensor([10.0, 1, 1, 1, 0.1], dtype=torch.float64)),
    ):
        ma, mb, sigma_a, _ = _transformed(a, b, x, g, m)
        p = projector(spectrum(sigma_a).vectors, leading(torch.tensor([2]), 5))[0]
        functions.append(mb @ p @ ma)
    assert (functions[0] - functions[1]).norm() > 0.1 * functions[0].norm()


def test_full_rank_balanced_projection_changes_nothing():
    basis = balanced_basis(_gram(3, 4), _gram(3, 4, seed=9))
    torch.testing.assert_close(
        basis.projector(leading(torch.tensor([4, 4, 4]), 4)),
        torch.eye(4, dtype=torch.float64).repeat(3, 1, 1),
    )


def test_balanced_basis_takes_a_singular_activation_factor():
    x = _random(1, 40, 2, seed=4) @ _random(2, 5, seed=5)
    p = balanced_basis(x.mT @ x / 40, _gram(1, 5)).projector(leading(torch.tensor([5]), 5))[0]
    torch.testing.assert_close(p @ p, p, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(x[0] @ p.mT, x[0], rtol=1e-6, atol=1e-7)


def test_coverage_rank_by_hand():
    values = torch.tensor([[5.0, 3.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert coverage(values)[0].tolist() == pytest.approx([0.5, 0.8, 0.9, 1.0])
    assert coverage_rank(values, 0.5, 1).tolist() == [
        1,
        1,
        4,
    ]  # without energy nothing is known, and all directions stay
    assert coverage_rank(values, 0.85, 1).tolist() == [3, 1, 4]
    assert coverage_rank(values, 0.85, 2).tolist() == [3, 2, 4]
    assert coverage_rank(values, 1.0, 1)[0] == 4


def test_larger_tau_never_keeps_less():
    values = spectrum(_gram(20, 8)).values
    ranks = [coverage_rank(values, tau, 1) for tau in (0.5, 0.8, 0.9, 0.99, 1.0)]
    assert all((low <= high).all() for low, high in zip(ranks, ranks[1:], strict=False))


def test_hysteresis_keeps_the_rank_inside_its_band():
    values = torch.tensor([[50.0, 30.0, 15.0, 5.0]])
    assert with_hysteresis(values, 0.9, 0.0, 1, torch.tensor([2])).tolist() == [3]
    assert with_hysteresis(values, 0.9, 0.12, 1, torch.tensor([2])).tolist() == [2]
    assert with_hysteresis(values, 0.9, 0.05, 1, torch.tensor([1])).tolist() == [3]
    assert with_hysteresis(values, 0.9, 0.05, 1, torch.tensor([4])).tolist() == [3]


def test_growth_never_shrinks():
    values = torch.tensor([[50.0, 30.0, 15.0, 5.0], [99.0, 0.5, 0.3, 0.2]])
    assert growth_rank(values, 0.1, torch.tensor([1, 2])).tolist() == [3, 2]
