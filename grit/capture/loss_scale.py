"""What one label's loss counts in the scalar that is differentiated.

A model's loss is a mean over labels: over those of its own micro-batch, or, where a trainer says how many
there are in the whole step (`num_items_in_batch`) and the model heeds it, over those. Which of the two cannot
be read off the model's class. It is seen from the gradient at the logits, which for a label's cross-entropy
is its weight times (softmax - one-hot).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from grit.capture.label_positions import Layout
from grit.capture.observation import TINY, LayerCall, LogitsEvidence, Observation, is_coarse
from grit.data.encode import IGNORED_LABEL

#: What a model that its name calls one may be in truth: BartForCausalLM does not shift its labels.
_ALTERNATIVES: dict[Layout, Layout] = {"causal": "aligned", "aligned": "causal"}
#: Labelled positions looked at, evenly spaced: a weight needs no more, and a vocabulary is wide.
POSITIONS = 256
#: How far a weight may be off, by the rounding of what arrives at the logits.
_WEIGHT_TOLERANCE = 2e-3
_COARSE_TOLERANCE = 2e-2
#: The share of the gradient's energy that may come from elsewhere (the rounding of bf16 leaves 1e-5).
_UNEXPLAINED = 1e-3
#: |softmax - one-hot|^2 of a label below which its prediction is as good as certain, and shows nothing.
_CERTAIN = 1e-8


def evidence_at(layout: Layout, logits: Tensor, labels: Tensor, gradient: Tensor) -> LogitsEvidence | None:
    """What `gradient`, which arrived at `logits`, says of the loss.

    None where there is nothing to see: no label, shapes that do not fit the layout, or one output alone (a
    regression, whose loss is no cross-entropy).

    Args:
        layout: how labels line up with positions.
        logits: (batch, sequence, classes), or (batch, classes) for `sequence`.
        labels: as given to the model.
        gradient: of the scalar that was differentiated, shaped like `logits`.
    """
    if logits.shape[-1] == 1 or labels.is_floating_point():
        return None
    evidence = _evidence(logits, _targets(layout, labels), gradient)
    if evidence is None or layout not in _ALTERNATIVES or float(evidence.unexplained) <= _UNEXPLAINED:
        return evidence
    other = _ALTERNATIVES[layout]
    instead = _evidence(logits, _targets(other, labels), gradient)
    explains = instead is not None and float(instead.unexplained) <= _UNEXPLAINED
    return replace(evidence, better_layout=other if explains else None)


def _targets(layout: Layout, labels: Tensor) -> Tensor:
    """The label that each position's logits are scored against."""
    if layout != "causal":
        return labels
    targets = torch.full_like(labels, IGNORED_LABEL)
    targets[:, :-1] = labels[:, 1:]
    return targets


def _evidence(logits: Tensor, targets: Tensor, gradient: Tensor) -> LogitsEvidence | None:
    if logits.shape[:-1] != targets.shape:
        return None
    scored = (targets != IGNORED_LABEL).flatten()
    rows = scored.nonzero().flatten()
    if not len(rows):
        return None
    picked = rows[:: max(1, len(rows) // POSITIONS)]
    classes = targets.flatten()[picked].to(logits.device)
    arrived = gradient.flatten(0, -2)
    own = torch.promote_types(gradient.dtype, torch.float32)
    direction = torch.softmax(logits.flatten(0, -2)[picked].to(own), dim=-1)
    direction[torch.arange(len(picked), device=direction.device), classes] -= 1
    seen = arrived[picked].to(own)
    size = direction.square().sum()
    if float(size) < len(picked) * _CERTAIN:
        return None
    weight = (seen * direction).sum() / size
    left_over = (seen - weight * direction).square().sum() / seen.square().sum().clamp(min=TINY)
    energies = torch.linalg.vector_norm(arrived, dim=-1, dtype=own).square()
    elsewhere = energies[~scored].sum() / energies.sum().clamp(min=TINY)
    coarse = is_coarse(logits) or is_coarse(gradient)
    return LogitsEvidence(weight=weight, unexplained=left_over.maximum(elsewhere), coarse=coarse)


class LossScale:
    """The convention of one model's loss, learned where it shows.

    Args:
        layout: how the model's labels line up with positions.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._over_step: bool | None = None

    def wants_evidence(self, seen: Observation) -> bool:
        """Whether a pass would settle whether the model heeds `num_items_in_batch`."""
        if seen.items is None or self._over_step is not None or seen.positions is None:
            return False
        return int(seen.items) != int(seen.positions.label_count)

    def weight(self, seen: Observation, *, verify: bool) -> Tensor:
        """What one label's loss counted in that pass, whose loss has had a backward pass.

        Raises:
            RuntimeError: the labels of one pass count differently, or nothing was seen of a scale that is to
                be verified.
        """
        assert seen.positions is not None
        if seen.loss_gradient is None:
            return _common(seen.label_weights)
        count = seen.positions.label_count if seen.parts is None else seen.parts
        own = seen.loss_gradient / count.clamp(min=1)
        if seen.items is None:
            return own
        step = seen.loss_gradient / seen.items
        over_step = self._over_step
        if over_step is None:
            over_step = self._seen_over_step(own, step, seen.evidence)
        if over_step is None:
            if verify and not seen.logits_seen and self._layout != "causal" and float(own) != float(step):
                raise RuntimeError(
                    "num_items_in_batch was given, and whether the model divides its loss by it cannot be "
                    "seen: its logits take no part in the loss. Attach with verify=False to take it that it "
                    "does not"
                )
            # As the library has it: its causal language models divide by the step's labels, others do not.
            over_step = self._layout == "causal"
        return step if over_step else own

    def _seen_over_step(self, own: Tensor, step: Tensor, evidence: LogitsEvidence | None) -> bool | None:
        """Which of both the evidence is nearer to, None where nothing tells; settled where they lie apart."""
        if evidence is None or not math.isfinite(float(evidence.weight)):
            return None
        if not float(evidence.unexplained) <= _UNEXPLAINED:
            return None
        measured = float(evidence.weight)
        nearer = abs(measured - float(step)) < abs(measured - float(own))
        if abs(float(own) - float(step)) > _COARSE_TOLERANCE * abs(float(own)):
            self._over_step = nearer
        return nearer

    def state_dict(self) -> bool | None:
        """What was learned, for a checkpoint."""
        return self._over_step

    def load_state_dict(self, state: bool | None) -> None:
        """Restores `state_dict()`."""
        self._over_step = state

    def check(self, seen: Observation) -> None:
        """Holds the weight that was concluded against the one that was seen.

        Raises:
            RuntimeError: the model's loss is something else than a mean over the labels that count.
        """
        if seen.outside or seen.evidence is None or seen.loss_weight is None:
            return
        concluded, measured = float(seen.loss_weight), float(seen.evidence.weight)
        unexplained = float(seen.evidence.unexplained)
        if not all(map(math.isfinite, (concluded, measured, unexplained))):
            return  # the step will not be taken: the guard drops it
        # Half precision shows in the layers, where logits are float32, or in the logits, where adapters are.
        coarse = seen.evidence.coarse or any(map(_ran_coarse, seen.calls.values()))
        tolerance = _COARSE_TOLERANCE if coarse else _WEIGHT_TOLERANCE
        if abs(measured - concluded) <= tolerance * abs(concluded) and unexplained <= _UNEXPLAINED:
            return
        if seen.evidence.better_layout is not None:
            raise RuntimeError(
                f"labels line up with positions as {seen.evidence.better_layout!r}, not as {self._layout!r}: "
                f"pass labels={seen.evidence.better_layout!r} to attach"
            )
        times = f"{measured / concluded:.4g}" if concluded else "infinitely many"
        raise RuntimeError(
            f"the loss is not the mean of label losses that the layout {self._layout!r} means: a label "
            f"counts {times} times what it would in that mean, {unexplained:.1%} of the gradient at logits "
            "come from elsewhere (label smoothing, another loss added, other labels?). Sigma_g would be off "
            "by that factor squared: pass the right `labels=` to attach, let the model compute its own loss, "
            "or attach with verify=False"
        )


def _ran_coarse(calls: list[LayerCall]) -> bool:
    return any(is_coarse(call.activation) for call in calls)


def _common(weights: Tensor | None) -> Tensor:
    """The one value that all of them have."""
    assert weights is not None
    if not len(weights):
        return weights.new_ones(())  # nothing arrived anywhere: any scale will do
    mean = weights.mean()
    if float((weights - mean).abs().max()) > _COARSE_TOLERANCE * abs(float(mean)):
        raise RuntimeError(
            "the labels of one pass do not count alike (a preference loss, weighted tokens): say what the "
            "loss is a mean over (handle.outside_loss, or GritCallback.watch for a trainer)"
        )
    return mean
