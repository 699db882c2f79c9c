"""The two factors of every module of one rank.

Folded in pass by pass, summed over workers once per step, and gated by their samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.label_positions import Positions, Stream
from grit.capture.observation import LayerCall, Observation
from grit.config.method import GritConfig
from grit.rank_space.mitigations import pooled, spectral_snr
from grit.rank_space.moments import RunningMoment, per_token_gradient, second_moment_sum
from grit.rank_space.projectors import spectrum

#: Observations are stacked in parts of at most this many bytes, so that memory does not grow with the number
#: of modules.
PART_BYTES = 32 << 20


class Statistics:
    """Sigma_a and Sigma_g of M modules of rank r. `indices` are their positions among all adapted layers.

    Attributes:
        batch: sequences in the last step that was folded in, over all micro-batches and workers; 0 before.
        keep_estimate: leave the last step's own two factors (M, r, r), before they are folded into the means,
            in `estimate`.
    """

    def __init__(
        self,
        layers: Sequence[AdaptedLayer],
        indices: Sequence[int],
        streams: Sequence[Stream],
        *,
        config: GritConfig,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._config, self._names, self._indices = config, [layer.name for layer in layers], tuple(indices)
        self._modules, self._rank, self._dtype = len(layers), layers[0].rank, dtype
        self.moment_a = RunningMoment(
            self._modules, self._rank, decay=config.ema_decay, device=device, dtype=dtype
        )
        self.moment_g = RunningMoment(
            self._modules, self._rank, decay=config.ema_decay, device=device, dtype=dtype
        )
        self.batch = 0.0
        self.keep_estimate = False
        self.estimate: tuple[Tensor, Tensor] | None = None
        self._scaling = torch.tensor([layer.scaling for layer in layers], device=device, dtype=dtype)
        self._rows: dict[Stream, list[int]] = {}
        for row, stream in enumerate(streams):
            self._rows.setdefault(stream, []).append(row)
        self._pools = _pools(self._names, device) if config.share_statistics == "projection" else None
        # One buffer, used again at every capture: sums of both sides, their counts, and the number of
        # sequences.
        size = self._modules * self._rank**2
        self._buffer = torch.zeros(2 * size + 2 * self._modules + 1, device=device, dtype=dtype)
        self._sums = self._buffer[: 2 * size].view(2, self._modules, self._rank, self._rank)
        self._counts = self._buffer[2 * size : -1].view(2, self._modules)

    def observe(self, seen: Observation) -> None:
        """Adds one backward pass to the step's sums."""
        assert seen.positions is not None and seen.loss_weight is not None  # verified by Capture
        for stream, rows in self._rows.items():
            tokens = seen.positions.tokens[stream]
            part = max(1, PART_BYTES // (tokens.numel() * self._rank * self._buffer.element_size()))
            most = max(len(seen.calls[self._indices[row]]) for row in rows)
            for number in range(most):
                calling = [row for row in rows if len(seen.calls[self._indices[row]]) > number]
                for start in range(0, len(calling), part):
                    self._observe_rows(seen, calling[start : start + part], stream, number)
        self._buffer[-1] += seen.positions.sequences

    def _observe_rows(self, seen: Observation, rows: list[int], stream: Stream, number: int) -> None:
        """Adds call `number` of each of these rows' layers.

        A layer that is called several times in one pass shares its weights between uses: every use of a token
        is a sample of z, and all of them together make the gradient of a label's loss (K-FAC for linear
        weight-sharing layers, "expand", Eschenhagen et al. 2023).
        """
        assert seen.positions is not None and seen.loss_weight is not None
        tokens, labels = seen.positions.tokens[stream], seen.positions.labels[stream]
        # A token without a label has a gradient too: later positions read its keys and values. The sum is
        # still one of label losses, so labels are what it is divided by, and damping keeps its scale.
        every_token = self._config.gradient_tokens == "real"
        calls = [seen.calls[self._indices[row]][number] for row in rows]
        for row, call in zip(rows, calls, strict=True):
            _check_positions(self._names[row], call, seen.positions, stream)
        z = torch.stack([call.activation.flatten(0, -2) for call in calls])
        self._sums[0, rows] += second_moment_sum(z, tokens).to(self._dtype)
        arrived = torch.stack([call.gradient.flatten(0, -2) for call in calls if call.gradient is not None])
        u = per_token_gradient(arrived, self._scaling[rows], seen.loss_weight)
        self._sums[1, rows] += second_moment_sum(u, tokens if every_token else labels).to(self._dtype)
        self._counts[0, rows] += tokens.sum()
        if number == 0:
            self._counts[1, rows] += seen.positions.label_count if every_token else labels.sum()

    def commit(self, reduce_sum: Callable[[Tensor], None]) -> int:
        """Folds the step's sums, added over all workers, into the means.

        Returns how many factors were not finite and left out.
        """
        reduce_sum(self._buffer)
        if self.keep_estimate:
            means = self._sums / self._counts.clamp(min=1)[..., None, None]
            self.estimate = (means[0], means[1])
        lost = 0
        for side, moment in enumerate((self.moment_a, self.moment_g)):
            sums, counts = self._sums[side], self._counts[side]
            if self._pools is None:
                lost += int((~moment.add(sums, counts)).sum())
                continue
            finite = torch.isfinite(sums).all(-1).all(-1)
            lost += int((~finite).sum())
            # One bad module must not spoil its pool, nor may a pool pass a gate by counting a token once for
            # every module that saw it.
            measured = finite & (sums != 0).any(-1).any(-1)
            own = torch.where(measured, counts, 0.0)
            clean = torch.where(measured[:, None, None], sums, 0.0)
            moment.add(*pooled(clean, own, self._pools), samples=own)
        self.batch = float(self._buffer[-1])
        self._buffer.zero_()
        return lost

    def discard(self) -> None:
        """Forgets the passes of a step that was never taken (a gradient scaler skipped it)."""
        self._buffer.zero_()

    def gate(self, moment: RunningMoment) -> Tensor:
        """Which modules (M,) may use this side.

        Enough samples and, where asked for, a spectrum that stands out of the noise.
        """
        enough = moment.effective_samples() >= max(1, self._config.kfac_min_samples)
        if self._config.spectral_snr_min > 0:
            enough = enough & (
                spectral_snr(spectrum(moment.mean()).values, moment.effective_samples())
                >= self._config.spectral_snr_min
            )
        return enough

    def state_dict(self) -> dict[str, Any]:
        """The exact state between steps, for a checkpoint."""
        return {
            "moment_a": self.moment_a.state_dict(),
            "moment_g": self.moment_g.state_dict(),
            "batch": self.batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.moment_a.load_state_dict(state["moment_a"])
        self.moment_g.load_state_dict(state["moment_g"])
        self.batch = state["batch"]
        self._buffer.zero_()


def _check_positions(name: str, call: LayerCall, positions: Positions, stream: Stream) -> None:
    """Whether a layer's positions are those of the model's inputs, in their order as far as a shape tells."""
    batch, length = positions.shapes[stream]
    shape = tuple(call.activation.shape[:-1])
    flat = shape in ((batch * length,), (1, batch * length))
    if flat or (shape[0] == batch and call.activation[..., 0].numel() == batch * length):
        return
    raise RuntimeError(
        f"layer {name} saw positions of shape {shape}, but the model's inputs tell of {batch} sequences of "
        f"{length}: which of its positions count is not known, so GRIT cannot adapt it"
    )


def _pools(names: Sequence[str], device: torch.device) -> Tensor:
    """For each module the number of its pool: modules with the same last name (q_proj, ...) share one."""
    numbers: dict[str, int] = {}
    return torch.tensor(
        [numbers.setdefault(name.rpartition(".")[2], len(numbers)) for name in names], device=device
    )
