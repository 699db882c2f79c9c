"""Parameters of equal shape handled as one batch.

So that no step loops over modules where a batched product can do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class ShapeBatch(NamedTuple):
    """Parameters of equal shape, and the rows of the (M, r, r) stacks that belong to them."""

    rows: Tensor
    parameters: list[nn.Parameter]


def shape_batches(parameters: Sequence[nn.Parameter], device: torch.device) -> list[ShapeBatch]:
    """Splits parameters by shape, so that each part is one batched product."""
    by_shape: dict[torch.Size, list[int]] = {}
    for row, parameter in enumerate(parameters):
        by_shape.setdefault(parameter.shape, []).append(row)
    batches = []
    for rows in by_shape.values():
        batches.append(ShapeBatch(torch.tensor(rows, device=device), [parameters[row] for row in rows]))
    return batches


class Side:
    """All factors of one kind.

    The A's (r, d_in), on which r x r matrices act from the left, or the B's (d_out, r), from the right.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, from_left: bool, dtype: torch.dtype) -> None:
        self.from_left, self.dtype = from_left, dtype
        self.batches = shape_batches(parameters, parameters[0].device)
        self._turned: list[tuple[Tensor, Tensor]] = []

    def _act(self, matrices: Tensor, stacked: Tensor) -> Tensor:
        return matrices @ stacked if self.from_left else stacked @ matrices

    def transform_gradients(self, matrices: Tensor | None, penalties: Tensor | None) -> None:
        """In place.

        Gradients plus `penalties` (M, r, r) acting on the weights, then `matrices` (M, r, r) acting on the
        sum.

        None leaves that part out; parameters without a gradient are left alone.
        """
        for batch in self.batches:
            present = [p for p in batch.parameters if p.grad is not None]
            if not present:
                continue
            rows = batch.rows
            if len(present) < len(batch.parameters):
                rows = rows[[p.grad is not None for p in batch.parameters]]
            gradients = [p.grad for p in present if p.grad is not None]
            stacked = torch.stack(gradients).to(self.dtype)
            if penalties is not None:
                stacked += self._act(
                    penalties[rows], torch.stack([p.detach() for p in present]).to(self.dtype)
                )
            if matrices is not None:
                stacked = self._act(matrices[rows], stacked)
            torch._foreach_copy_(gradients, list(stacked.unbind()))

    def gramian(self, modules: int, rank: int) -> Tensor:
        """A A^T or B^T B of every module, (M, r, r)."""
        products = torch.zeros(modules, rank, rank, device=self.batches[0].rows.device, dtype=self.dtype)
        for batch in self.batches:
            stacked = torch.stack([p.detach() for p in batch.parameters]).to(self.dtype)
            products[batch.rows] = stacked @ stacked.mT if self.from_left else stacked.mT @ stacked
        return products

    def project(self, matrices: Tensor, mix: float) -> None:
        """(1 - mix) X + mix P X for every factor, in place."""
        for batch in self.batches:
            self._mix([p.data for p in batch.parameters], matrices[batch.rows], mix)

    def project_moments(self, matrices: Tensor, mix: float, optimizer: torch.optim.Optimizer) -> bool:
        """The same for the optimizer's first moments.

        Returns:
            False where the optimizer keeps a state in which no first moment is known.
        """
        all_projected = True
        for batch in self.batches:
            moments = [first_moment(optimizer, p) for p in batch.parameters]
            with_moments = [number for number, moment in enumerate(moments) if isinstance(moment, Tensor)]
            all_projected = all_projected and "unknown" not in moments
            if with_moments:
                self._mix(
                    [moment for moment in moments if isinstance(moment, Tensor)],
                    matrices[batch.rows[with_moments]],
                    mix,
                )
        return all_projected

    def turn(self, bases: Tensor) -> None:
        """Weights and gradients into the bases Q (M, r, r), in place: Q^T A, or B Q."""
        into = bases.mT if self.from_left else bases
        for batch in self.batches:
            before = torch.stack([p.detach() for p in batch.parameters])
            turned = self._act(into[batch.rows], before.to(self.dtype)).to(before.dtype)
            torch._foreach_copy_([p.data for p in batch.parameters], list(turned.unbind()))
            self._turned.append((before, turned))
        self.transform_gradients(into, None)

    def turn_back(self, bases: Tensor) -> None:
        """Undoes `turn`: what has changed since is turned back and added, so that no rounding adds up."""
        out_of = bases if self.from_left else bases.mT
        for batch, (before, turned) in zip(self.batches, self._turned, strict=True):
            change = (torch.stack([p.detach() for p in batch.parameters]) - turned).to(self.dtype)
            weights = (before.to(self.dtype) + self._act(out_of[batch.rows], change)).unbind()
            torch._foreach_copy_([p.data for p in batch.parameters], list(weights))
        self._turned = []

    def forget_turn(self) -> None:
        """What was turned has been written since: there is nothing to undo."""
        self._turned = []

    @property
    def is_turned(self) -> bool:
        """Whether `turn` is still to be undone."""
        return bool(self._turned)

    def _rows(self) -> Iterator[tuple[int, nn.Parameter]]:
        for batch in self.batches:
            yield from zip(batch.rows.tolist(), batch.parameters, strict=True)

    def turn_moments(self, matrices: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """First moments into another basis by `matrices` T (M, r, r), second ones by T's squared entries.

        A turned second moment is exact where the entries of a gradient are uncorrelated, and where the new
        basis is the old one with its directions renamed.
        """
        for row, parameter in self._rows():
            turn = matrices[row] if self.from_left else matrices[row].mT
            first, second = first_moment(optimizer, parameter), second_moment(optimizer, parameter)
            if isinstance(first, Tensor):
                first.copy_(self._act(turn, first.to(self.dtype)))
            if second is not None:
                second.copy_(self._act(turn.square(), second.to(self.dtype)))

    def _mix(self, tensors: list[Tensor], matrices: Tensor, mix: float) -> None:
        stacked = torch.stack(tensors).to(self.dtype)
        torch._foreach_copy_(tensors, list(torch.lerp(stacked, self._act(matrices, stacked), mix).unbind()))


#: Names of first moments: torch's optimizers, SGD with momentum, bitsandbytes (in 32 bits; its 8-bit states
#: cannot be projected in place).
_FIRST_MOMENTS = ("exp_avg", "momentum_buffer", "state1")


_SECOND_MOMENTS = ("exp_avg_sq", "state2")


def second_moment(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor | None:
    """The optimizer's elementwise second moment of this parameter; None where it keeps none."""
    state = optimizer.state.get(parameter, {})
    for name in _SECOND_MOMENTS:
        moment = state.get(name)
        if isinstance(moment, Tensor) and moment.is_floating_point() and moment.shape == parameter.shape:
            return moment
    return None


def first_moment(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter
) -> Tensor | Literal["unknown"] | None:
    """The optimizer's first moment of this parameter.

    None where it keeps none, "unknown" where it keeps something else.
    """
    state = optimizer.state.get(parameter, {})
    for name in _FIRST_MOMENTS:
        moment = state.get(name)
        if isinstance(moment, Tensor) and moment.is_floating_point() and moment.shape == parameter.shape:
            return moment
    holds = any(
        isinstance(value, Tensor) and value.numel() >= parameter.numel() > 1 for value in state.values()
    )
    return "unknown" if holds else None
