"""Slow, plain references that the fast code is held against.

All in float64, one module and one token at a time.
"""

from __future__ import annotations

import itertools

import torch


def dense_factors(model, layers, micro_batches, loss_scale=1.0):
    """Sigma_a and Sigma_g of every layer by definition, and the tokens and labels they are means over.

    Sigma_g sums over every real token: prompts without labels carry gradient through later positions.

    z = A x is recomputed from the inputs of lora_A, and u from a gradient of the *summed* label loss that
    arrives at the layer's
    output: u = B^T g with g = d(sum of token losses)/dy, position by position.
    """
    inputs, outputs, hooks = {}, {}, []
    for index, layer in enumerate(layers):
        hooks.append(
            layer.down.register_forward_hook(lambda m, i, o, k=index: inputs.__setitem__(k, i[0].detach()))
        )
        hooks.append(
            layer.up.register_forward_hook(
                lambda m, i, o, k=index: (o.retain_grad(), outputs.__setitem__(k, o))[0] and None
            )
        )
    sums_a = [torch.zeros(layer.rank, layer.rank, dtype=torch.float64) for layer in layers]
    sums_g = [torch.zeros(layer.rank, layer.rank, dtype=torch.float64) for layer in layers]
    tokens = labelled = 0
    for batch in micro_batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).double(),
            batch["labels"][:, 1:].flatten(),
            ignore_index=-100,
            reduction="sum",
        )
        loss.backward()
        for row, position in itertools.product(*map(range, batch["input_ids"].shape)):
            if not batch["attention_mask"][row, position]:
                continue
            tokens += 1
            labelled += bool(
                position + 1 < batch["input_ids"].shape[1] and batch["labels"][row, position + 1] != -100
            )
            for k, layer in enumerate(layers):
                z = layer.down.weight.detach().double() @ inputs[k][row, position].double()
                sums_a[k] += torch.outer(z, z)
                # y = W x + s B z, so d loss / d (B z) is s g: divide by s to get g.
                u = layer.up.weight.detach().double().T @ (
                    outputs[k].grad[row, position].double() / layer.scaling
                )
                sums_g[k] += torch.outer(u, u)
    for hook in hooks:
        hook.remove()
    return [s / tokens for s in sums_a], [s / labelled for s in sums_g], tokens, labelled


def factors_by_definition(model, layers, micro_batches, layout, streams):
    """Sigma_a and Sigma_g of every layer of any architecture, with the samples that they are means over.

    x is what goes into lora_A and g what arrives at the output of lora_B, call by call, from one backward
    pass through the *summed* cross-entropy of the labels, which is computed here from the logits.
    """
    calls = [[] for _ in layers]
    hooks = []
    for index, layer in enumerate(layers):
        hooks.append(layer.down.register_forward_hook(_keeps_input(calls[index])))
        hooks.append(layer.up.register_forward_hook(_keeps_output_gradient(calls[index])))
    sums_a = [torch.zeros(layer.rank, layer.rank, dtype=torch.float64) for layer in layers]
    sums_g = [torch.zeros(layer.rank, layer.rank, dtype=torch.float64) for layer in layers]
    counts_a, labelled = [0] * len(layers), 0
    for batch in micro_batches:
        for entries in calls:
            entries.clear()
        logits, labels = model(**batch).logits, batch["labels"]
        if layout == "causal":
            logits, labels = logits[:, :-1], labels[:, 1:]
        torch.nn.functional.cross_entropy(
            logits.flatten(0, -2).double(), labels.flatten(), ignore_index=-100, reduction="sum"
        ).backward()
        labelled += int((labels != -100).sum())
        real = {"main": batch["attention_mask"], "encoder": batch["attention_mask"]}
        if layout == "seq2seq":
            real["main"] = (batch["labels"] != -100).to(torch.int64)
        for index, (layer, entries) in enumerate(zip(layers, calls, strict=True)):
            where = real[streams[index]].flatten() > 0
            for x, output in entries:
                z = (x.double() @ layer.down.weight.detach().double().T).flatten(0, -2)[where]
                g = output.grad.double().flatten(0, -2)[where] / layer.scaling
                u = g @ layer.up.weight.detach().double()
                sums_a[index] += z.T @ z
                sums_g[index] += u.T @ u
                counts_a[index] += int(where.sum())
    for hook in hooks:
        hook.remove()
    return (
        [total / count for total, count in zip(sums_a, counts_a, strict=True)],
        [total / labelled for total in sums_g],
        counts_a,
        labelled,
    )


def assert_factors(handle, expected, *, rtol, atol):
    """What a handle has gathered is what `factors_by_definition` says; `atol` times the largest entry."""
    expected_a, expected_g, tokens, labelled = expected
    for index, (name, entry) in enumerate(handle.factors().items()):
        assert (entry.seen_a, entry.seen_g) == (tokens[index], labelled), name
        for own, exact in ((entry.sigma_a, expected_a[index]), (entry.sigma_g, expected_g[index])):
            torch.testing.assert_close(own.double(), exact, rtol=rtol, atol=atol * float(exact.abs().max()))


def _keeps_input(entries):
    return lambda _module, inputs, _output: entries.append([inputs[0].detach(), None])


def _keeps_output_gradient(entries):
    def hook(_module, _inputs, output):
        output.retain_grad()
        entries[-1][1] = output

    return hook


def dominates(a, b):
    """Whether cost vector a dominates b, by definition."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def slow_front(costs):
    """Indices of non-dominated rows, pair by pair."""
    return [i for i, a in enumerate(costs) if not any(dominates(b, a) for j, b in enumerate(costs) if j != i)]


def grid_hypervolume(costs, reference):
    """Dominated volume by counting the cells of the grid that the points' own coordinates span."""
    axes = [
        sorted({*(row[d] for row in costs if row[d] < reference[d]), reference[d]})
        for d in range(len(reference))
    ]
    volume = 0.0
    for cell in itertools.product(*(range(len(axis) - 1) for axis in axes)):
        low = [axes[d][i] for d, i in enumerate(cell)]
        if any(all(row[d] <= low[d] for d in range(len(reference))) for row in costs):
            size = 1.0
            for d, i in enumerate(cell):
                size *= axes[d][i + 1] - axes[d][i]
            volume += size
    return volume


def exact_fisher(model, parameter, x, g, scale):
    """Fisher of one adapter factor, token by token from autograd.

    Mean of vec(d) vec(d)^T with d = gradient of one token's loss.

    `scale` undoes the adapter's scaling, which the factors leave out.
    """
    total = 0
    for token in range(x.shape[1]):
        loss = model(
            inputs_embeds=x[:, token : token + 1],
            labels=torch.zeros(1, 1, dtype=torch.int64),
            gradients=g[:, token : token + 1],
        ).loss
        gradient = torch.autograd.grad(loss, parameter)[0].flatten() * scale
        total = total + torch.outer(gradient, gradient)
    return total / x.shape[1]
