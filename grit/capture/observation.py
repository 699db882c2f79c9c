"""What is seen of one forward pass and of the backward passes through it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from grit.capture.label_positions import Layout, Positions

#: Added below a quotient that may be zero over zero.
TINY = 1e-30


def is_coarse(tensor: Tensor) -> bool:
    """Whether what computed it rounds to half precision or to TF32."""
    tf32 = tensor.is_cuda and tensor.dtype == torch.float32 and _tf32_allowed()
    return tf32 or tensor.dtype in (torch.float16, torch.bfloat16)


def _tf32_allowed() -> bool:
    """Torch refuses to be asked in the old way once it was told in the new one."""
    precision: str = torch.backends.cuda.matmul.fp32_precision
    return precision == "tf32"


@dataclass(kw_only=True)
class LayerCall:
    """One call of one adapted layer.

    Attributes:
        activation: z = A x in the model's layout (batch, sequence, r).
        gradient: what arrived at z, scaling * B^T g, added over backward passes; None before the first.
    """

    activation: Tensor
    gradient: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LogitsEvidence:
    """What the gradient at the logits says of the loss, whatever the model's loss claims to be.

    Attributes:
        weight: what one label's cross-entropy counts in the scalar that was differentiated (a scalar tensor).
        unexplained: share of the gradient's energy at the positions looked at that no such cross-entropy
            explains, and of all of it at positions without a label (a scalar tensor).
        coarse: whether the logits were in half precision.
        better_layout: another layout of labels that would explain it.
    """

    weight: Tensor
    unexplained: Tensor
    coarse: bool = False
    better_layout: Layout | None = None


@dataclass(kw_only=True)
class Observation:
    """One forward pass.

    Attributes:
        calls: per layer, its calls through which a gradient came; more than one where layers share weights.
        positions: what the pass's inputs said; None without labels.
        unlabelled: every real token, where the inputs had no labels.
        labels: as they were given to the model. shifted: the labels that its logits are scored against one by
            one, where they were given (`shift_labels`). items: `num_items_in_batch`, where it was given.
        loss_gradient: what arrived at the model's own loss, added over backward passes.
        parts: what the mean of a loss outside the model is over, in all passes that it was made of together;
            None for the model's own loss.
        label_weights: what arrived at log-probabilities that the model returned instead of a loss, negated:
            what each label's loss counts (labels); added over backward passes.
        logits_seen: whether a gradient arrived at the logits, where somebody looked.
        evidence: what it said; None where it says nothing.
        loss_weight: what one label's loss counts in the scalar that was differentiated; set when the pass is
            handed on.
        handed_on: whether the statistics have it already.
    """

    calls: dict[int, list[LayerCall]] = field(default_factory=dict)
    positions: Positions | None = None
    unlabelled: Positions | None = None
    labels: Tensor | None = None
    shifted: Tensor | None = None
    items: Tensor | int | None = None
    loss_gradient: Tensor | None = None
    parts: Tensor | None = None
    label_weights: Tensor | None = None
    logits_seen: bool = False
    evidence: LogitsEvidence | None = None
    loss_weight: Tensor | None = None
    handed_on: bool = False

    @property
    def outside(self) -> bool:
        """Whether the loss is computed outside the model, and somebody said what it is a mean over."""
        return self.parts is not None

    def add_gradient(self, index: int, call: LayerCall, gradient: Tensor) -> None:
        """Notes what arrived at one call of layer `index`.

        Raises:
            RuntimeError: the pass was counted already.
        """
        if self.handed_on:
            raise RuntimeError(
                "a second backward pass went through a forward pass whose statistics were already folded in: "
                "finish all backward passes of a forward pass before the next one begins"
            )
        if call.gradient is None:
            self.calls.setdefault(index, []).append(call)
            call.gradient = gradient
        else:
            call.gradient = call.gradient + gradient

    def add_loss_gradient(self, gradient: Tensor) -> None:
        """Notes what arrived at the model's loss."""
        arrived = gradient.detach()
        self.loss_gradient = arrived if self.loss_gradient is None else self.loss_gradient + arrived

    def add_label_weights(self, weights: Tensor) -> None:
        """Notes what arrived at the labels' log-probabilities."""
        self.label_weights = weights if self.label_weights is None else self.label_weights + weights

    def add_evidence(self, evidence: LogitsEvidence | None) -> None:
        """Notes what the gradient at the logits said; several backward passes add up."""
        if evidence is None or self.evidence is None:
            self.evidence = evidence
            return
        self.evidence = LogitsEvidence(
            weight=self.evidence.weight + evidence.weight,
            unexplained=self.evidence.unexplained.maximum(evidence.unexplained),
            coarse=self.evidence.coarse or evidence.coarse,
            better_layout=evidence.better_layout,
        )
