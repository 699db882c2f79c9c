"""Each diagnostic of stability against what is known.

A Wishart's variance, a rotation by an angle, a spectrum's own spread.
"""

import math

import pytest
import torch
from killing import Killed, killed_at

from grit.audits.factor_stability import (
    MAX_SNAPSHOTS,
    StabilityMonitor,
    angle_distance,
    degrees,
    eigenvalue_cv,
    relative_variance,
)
from grit.training.hooks import Hooks
from grit.training.trainer import train


@pytest.mark.parametrize("samples", [4, 16, 64])
def test_the_variance_of_a_known_covariance(samples):
    """For n Gaussian samples E|C - Sigma|^2 = ((tr Sigma)^2 + tr Sigma^2) / n."""
    generator = torch.Generator().manual_seed(samples)
    scales = torch.tensor([2.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    draws = torch.randn(4000, 1, samples, 4, generator=generator, dtype=torch.float64) * scales.sqrt()
    factors = draws.mT @ draws / samples
    expected = (scales.sum() ** 2 + scales.square().sum()) / samples / scales.square().sum()
    assert relative_variance(factors)[0] == pytest.approx(float(expected), rel=0.06)
    assert relative_variance(factors[:1].expand(5, -1, -1, -1))[0] < 1e-20


@pytest.mark.parametrize("angle", [0.0, 0.1, 0.7, math.pi / 2])
def test_the_distance_of_a_known_rotation(angle):
    plane = torch.eye(4, dtype=torch.float64)[:, :2]
    turned = plane.clone()
    turned[:, 0] = torch.tensor([math.cos(angle), 0.0, math.sin(angle), 0.0])
    assert angle_distance(plane, turned) == pytest.approx(math.sin(angle) / math.sqrt(2), abs=1e-7)
    mixed = plane @ torch.tensor(
        [[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64
    )  # another basis of the same plane
    assert angle_distance(plane, mixed) == pytest.approx(0.0, abs=1e-7)


def test_the_spread_of_known_eigenvalues():
    values = torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64)[:, None, :]
    assert torch.equal(eigenvalue_cv(values), torch.tensor([[0.5, 0.0]], dtype=torch.float64))


def test_angles_between_updates():
    x = torch.tensor([1.0, 0.0])
    assert degrees(x, torch.tensor([1.0, 1.0])) == pytest.approx(45.0, abs=1e-4)
    assert degrees(x, -3 * x) == 180.0
    assert degrees(x, 5 * x) == 0.0
    assert math.isnan(degrees(x, torch.zeros(2)))


def test_a_factor_that_turns_steadily_is_seen_to_turn_with_the_lag():
    monitor = StabilityMonitor()
    for step in range(1, 21):
        angle = 0.05 * step
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        factor = torch.zeros(1, 8, 8)
        factor[0, :2, :2] = (
            turn @ torch.diag(torch.tensor([2.0, 0.0])) @ turn.T
        )  # one direction, turning; the rest at rest
        factor[0, range(2, 5), range(2, 5)] = torch.tensor([8.0, 7.0, 6.0])
        monitor.factors(step, {"0/a/used": factor})
    rows = monitor.rows({"0": ["m"]})
    lags = {row["lag"]: row["drift"] for row in rows if row["kind"] == "lag"}
    assert lags == {lag: pytest.approx(math.sin(0.05 * lag) / 2, abs=1e-3) for lag in range(1, 13)}
    module = next(row for row in rows if row["kind"] == "module")
    assert module["eigenvalue_cv"] == pytest.approx([0.0] * 4, abs=1e-6)
    assert module["drift"] == pytest.approx(math.sin(0.05) / 2, abs=1e-3)


def test_long_runs_are_thinned_evenly():
    monitor = StabilityMonitor()
    for step in range(1, 2 * MAX_SNAPSHOTS + 2):
        monitor.factors(step, {"0/a/used": torch.eye(4)[None]})
    steps = [row["step"] for row in monitor.rows({"0": ["m"]}) if row["kind"] == "spectrum"]
    assert (
        len(steps) <= MAX_SNAPSHOTS
        and {b - a for a, b in zip(steps, steps[1:], strict=False)} == {4}
        or {b - a for a, b in zip(steps, steps[1:], strict=False)} == {2}
    )


def test_watching_changes_nothing_and_survives_an_interruption(bench, reference, short_run, tmp_path):
    plain, watched = reference(short_run()), reference(short_run(stability=True))
    assert [r["loss"] for r in plain.telemetry] == [r["loss"] for r in watched.telemetry]
    assert plain.measured.quality == watched.measured.quality
    assert not plain.audits
    assert {row["kind"] for row in watched.audits["stability"]} == {"jitter", "module", "spectrum", "lag"}
    with pytest.raises(Killed):
        train(
            short_run(stability=True, checkpoint_steps=1),
            bench,
            checkpoints=tmp_path,
            hooks=Hooks(progress=killed_at(6)),
        )
    assert (
        train(short_run(stability=True, checkpoint_steps=1), bench, checkpoints=tmp_path).audits["stability"]
        == watched.audits["stability"]
    )


def test_the_batchs_own_factor_is_its_second_moment(reference, short_run):
    """`batch` is what one step saw; the running mean over steps is what is used.

    After one step they are the same.
    """
    rows = reference(short_run(stability=True)).audits["stability"]
    first = {
        row["estimate"]: row["eigenvalues"]
        for row in rows
        if row["kind"] == "spectrum" and row["step"] == 1 and row["side"] == "a"
    }
    last = {
        row["estimate"]: row["eigenvalues"]
        for row in rows
        if row["kind"] == "spectrum" and row["step"] == 10 and row["side"] == "a"
    }
    ratio = [a / b for a, b in zip(first["batch"], first["used"], strict=True)]
    assert max(ratio) - min(ratio) < 0.2  # up to each one's own mean trace
    assert last["batch"] != last["used"]


def test_statistics_of_the_first_micro_batch_alone(bench, short_run):
    """M4 off sees one micro-batch of a step; with it, how a batch is split does not matter."""
    from dataclasses import replace

    def used(**changes):
        config = short_run(dropout=0.0, stability=True, **changes)
        return {
            (r["module"], r["side"]): r["variance"]
            for r in train(config, bench).audits["stability"]
            if r["kind"] == "module" and r["estimate"] == "batch"
        }

    whole, split = used(micro_batch=8, accumulation=1), used(micro_batch=2, accumulation=4)
    assert whole == pytest.approx(split, rel=2e-2)
    blind = used(micro_batch=2, accumulation=4, grit=replace(short_run().grit, accumulated_statistics=False))
    assert sum(blind.values()) > 1.3 * sum(split.values())
