"""K-FAC against the exact natural gradient, whose Fisher is built token by token and solved."""

import math

import torch
from oracles import exact_fisher

from grit.adapters.peft_adapters import adapted_layers
from grit.config.method import GritConfig
from grit.geometry.attach import attach

TINY_LAMBDA = 1e-12


def _orthonormal(count, width, seed):
    """`count` vectors of `width` whose second moment is exactly the identity."""
    q, _ = torch.linalg.qr(
        torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    return q * math.sqrt(count)


def _independent_tokens(d_in=6, d_out=5):
    """Every input with every output gradient, once: x and g are exactly independent, and each is white."""
    x, g = _orthonormal(8, d_in, 1), _orthonormal(7, d_out, 2)
    pairs = torch.cartesian_prod(torch.arange(8), torch.arange(7))
    return x[pairs[:, 0]][None], g[pairs[:, 1]][None]


def test_kfac_step_is_the_exact_natural_gradient_step(one_layer):
    """With x and g independent and white, the Fisher of A is E[u u^T] (x) I and that of B is I (x) E[z z^T].

    K-FAC is exact.

    The Fisher is built token by token from autograd, for A and B apart, and solved densely.
    """
    x, g = _independent_tokens()
    labels = torch.zeros(x.shape[:2], dtype=torch.int64)
    layer = adapted_layers(one_layer)[0]
    parameters = {"A": layer.down.weight, "B": layer.up.weight}
    # White noise has a zero mean gradient: give the loss a direction of its own, which is no part of the
    # Fisher.
    target = {
        name: torch.randn(p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        for name, p in parameters.items()
    }
    exact = {}
    for name, parameter in parameters.items():
        fisher = exact_fisher(one_layer, parameter, x, g, scale=1 / layer.scaling)
        damped = fisher + TINY_LAMBDA * torch.eye(len(fisher), dtype=torch.float64)
        exact[name] = torch.linalg.solve(damped, target[name].flatten()).view_as(parameter)
    optimizer = torch.optim.SGD([p for p in one_layer.parameters() if p.requires_grad], lr=1.0)
    attach(
        one_layer.train(),
        optimizer,
        GritConfig(
            preconditioner="kfac",
            lambda_=TINY_LAMBDA,
            cov_update_freq=1,
            kfac_update_freq=1,
            kfac_min_samples=1,
            T=None,
        ),
        labels="aligned",
        verify=False,  # its gradients are replaced below
    )
    one_layer(inputs_embeds=x, labels=labels, gradients=g).loss.backward()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad.copy_(target[name])
    optimizer.step()
    for name, parameter in parameters.items():
        step = before[name] - parameter.detach()
        torch.testing.assert_close(step, exact[name], rtol=1e-6, atol=1e-6 * float(exact[name].abs().max()))


def test_kfac_is_the_natural_gradient_through_a_gate(one_layer):
    """y = B G A x.

    The gradient of A lives in G^T u and that of B in G z, and so must the factors that are inverted.
    """
    x, g = _independent_tokens()
    labels = torch.zeros(x.shape[:2], dtype=torch.int64)
    layer = adapted_layers(one_layer)[0]
    damping = 1e-3
    config = GritConfig(
        preconditioner="kfac",
        lambda_=damping,
        cov_update_freq=1,
        kfac_update_freq=1,
        kfac_min_samples=1,
        T=None,
        suppression="gate",
        rank_adaptation=False,
        reprojection_k=2,
        min_lora_rank=1,
    )
    optimizer = torch.optim.SGD([p for p in one_layer.parameters() if p.requires_grad], lr=0.0)
    handle = attach(one_layer.train(), optimizer, config, labels="aligned", verify=False)
    one_layer(inputs_embeds=x, labels=labels, gradients=g).loss.backward()
    optimizer.step()
    handle.reproject(trigger="test")
    assert len(handle.gates()) == 1
    for name, parameter in (("A", layer.down.weight), ("B", layer.up.weight)):
        fisher = exact_fisher(one_layer, parameter, x, g, scale=1 / layer.scaling)
        target = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        exact = torch.linalg.solve(
            fisher + damping * torch.eye(len(fisher), dtype=torch.float64), target.flatten()
        ).view_as(parameter)
        optimizer.zero_grad()
        one_layer(inputs_embeds=x, labels=labels, gradients=g).loss.backward()
        parameter.grad.copy_(target)
        optimizer.step()
        torch.testing.assert_close(
            parameter.grad,
            exact,
            rtol=1e-6,
            atol=1e-6 * float(exact.abs().max()),
            msg=lambda text, name=name: name + text,
        )


def test_the_paper_pairing_is_not_the_natural_gradient(one_layer):
    """The other reading of the same step differs: the two are switches, not two names of one thing."""
    x, g = _independent_tokens()
    layer = adapted_layers(one_layer)[0]
    steps = []
    for preconditioner in ("paper", "kfac"):
        optimizer = torch.optim.SGD([p for p in one_layer.parameters() if p.requires_grad], lr=0.0)
        handle = attach(
            one_layer.train(),
            optimizer,
            GritConfig(
                preconditioner=preconditioner,
                cov_update_freq=1,
                kfac_update_freq=1,
                kfac_min_samples=1,
                T=None,
            ),
            labels="aligned",
            verify=False,  # its gradients are replaced below
        )
        one_layer(
            inputs_embeds=x, labels=torch.zeros(x.shape[:2], dtype=torch.int64), gradients=g
        ).loss.backward()
        layer.down.weight.grad.copy_(torch.ones_like(layer.down.weight))
        optimizer.step()
        steps.append(layer.down.weight.grad.clone())
        handle.detach()
    assert (steps[0] - steps[1]).norm() > 0.1 * steps[1].norm()
