"""A causal model's forward pass without the work that its labels do not need; losses equal up to rounding.

Two savings. Logits are made only where a label is scored against them: 49,152 words are a fifth
of SmolLM2's multiply-adds. And rows that are padded on the right need no attention mask: a causal model never
looks right, and without a mask attention takes its causal kernel, which does half the work.

Neither is taken on trust. The first time a backbone is seen, both ways are compared on a padded pair of rows,
and a model that does not agree with itself (one that looks right, or makes its loss in another way) keeps the
full pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grit.data.encode import IGNORED_LABEL

#: What was found of each backbone: whether its logits may be chosen, whether its mask may go.
_TRIED: weakref.WeakKeyDictionary[nn.Module, tuple[bool, bool]] = weakref.WeakKeyDictionary()
#: How far the two ways' logits may differ, as a share of their standard deviation, and their losses, as a
#: share of themselves: what float32 rounds is less, and what half precision and TF32 do.
_EXACT, _COARSE = (1e-4, 1e-5), (0.05, 5e-3)
#: What a model raises that makes its logits or its loss, or uses its mask, in another way.
_DIFFERENT = (TypeError, ValueError, IndexError, RuntimeError)
#: Tokens of a row that shows something: its second half is padded, and half of the first is a prompt.
_FEWEST = 4


def scored_labels(labels: Tensor) -> Tensor:
    """The label that each position is scored against, (batch, length): the next token's."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


@contextmanager
def lean_pass(model: Any, batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Opens `model` for one forward pass on `batch`; gives what to call it with.

    Within it, the model's logits are (1, labels, vocabulary), in the order of the scored positions, row after
    row: `batch["labels"]` shifted, where they are not ignored. For a model that must make them all they are
    (batch, length, vocabulary), and the batch has no `shift_labels`.

    Args:
        model: a causal LM, with an adapter or without.
        batch: `input_ids` and `labels`, both (batch, length), and either `attention_mask`, padded on the
            right, or `position_ids`.
    """
    chosen_logits, maskless = _what_may_go(model, batch)
    targets = scored_labels(batch["labels"])
    scored = targets != IGNORED_LABEL
    with ExitStack() as undo:
        if maskless and "attention_mask" in batch:
            undo.callback(_decoder(model).register_forward_pre_hook(_without_mask, with_kwargs=True).remove)
        if not chosen_logits or not bool(scored.any()):
            yield dict(batch)
            return
        head = model.get_output_embeddings()
        undo.callback(head.register_forward_pre_hook(_only(scored), with_kwargs=True).remove)
        yield {**batch, "shift_labels": targets[scored][None]}


def _only(scored: Tensor) -> Callable[..., Any]:
    """What lets a head see the positions of `scored` (batch, length) alone."""

    def choose(_head: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return (inputs[0][scored][None], *inputs[1:]), named

    return choose


def _without_mask(
    _decoder: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return inputs, {**named, "attention_mask": None} if "attention_mask" in named else named


def _backbone(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _decoder(model: Any) -> Any:
    """The model without its head, by which transformers calls it."""
    return getattr(_backbone(model), "base_model", None)


def _what_may_go(model: Any, batch: Mapping[str, Tensor]) -> tuple[bool, bool]:
    """Whether logits may be chosen, and the mask left out; tried once per backbone."""
    backbone = _backbone(model)
    if backbone not in _TRIED:
        tokens = batch["input_ids"][0]
        if len(tokens) < _FEWEST:
            return False, False
        _TRIED[backbone] = _try(model, tokens)
    logits_may, mask_may = _TRIED[backbone]
    # An adapted head is watched at every token, labelled or not.
    return logits_may and not list(model.get_output_embeddings().children()), mask_may


@torch.no_grad()
def _try(model: Any, tokens: Tensor) -> tuple[bool, bool]:
    """Both ways on a whole row and half of it padded to its length."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        batch = _padded_pair(tokens)
        count = int((batch["labels"] != IGNORED_LABEL).sum())
        inputs = {**batch, "num_items_in_batch": count, "use_cache": False}
        full = model(**inputs)
        return _logits_agree(model, inputs, full), _masks_agree(model, inputs, full)
    finally:
        for module, before in training.items():
            module.training = before


def _padded_pair(tokens: Tensor) -> dict[str, Tensor]:
    half = len(tokens) // 2
    ids, mask = tokens.repeat(2, 1), torch.ones(2, len(tokens), dtype=torch.int64, device=tokens.device)
    ids[1, half:], mask[1, half:] = tokens[0], 0
    labels = ids.masked_fill(mask == 0, IGNORED_LABEL)
    labels[:, : half // 2] = IGNORED_LABEL  # a prompt
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _logits_agree(model: Any, inputs: dict[str, Any], full: Any) -> bool:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    targets = scored_labels(inputs["labels"])
    scored = targets != IGNORED_LABEL
    lean = _hooked(model, head, _only(scored), {**inputs, "shift_labels": targets[scored][None]})
    if lean is None or not isinstance(lean.logits, Tensor) or not isinstance(full.logits, Tensor):
        return False
    return _close(full.logits[scored][None], lean.logits) and _same_loss(full, lean)


def _masks_agree(model: Any, inputs: dict[str, Any], full: Any) -> bool:
    decoder = _decoder(model)
    if decoder is _backbone(model):
        return False
    real = inputs["attention_mask"] > 0
    lean = _hooked(model, decoder, _without_mask, inputs)
    return lean is not None and _close(full.logits[real], lean.logits[real])


def _hooked(model: Any, part: Any, hook: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    """The model's output with a hook before one of its parts; None where it has none, or cannot work so."""
    if not isinstance(part, nn.Module):
        return None
    registered = part.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        return model(**inputs)
    except torch.OutOfMemoryError:
        raise
    except _DIFFERENT:
        return None
    finally:
        registered.remove()


def _close(full: Tensor, lean: Tensor) -> bool:
    if full.shape != lean.shape:
        return False
    allowed = _tolerances(full)[0] * float(full.float().std())
    return float((full.float() - lean.float()).abs().max()) <= allowed


def _same_loss(full: Any, lean: Any) -> bool:
    expected, seen = float(full.loss), float(lean.loss)
    return abs(seen - expected) <= _tolerances(full.logits)[1] * abs(expected)


def _tolerances(logits: Tensor) -> tuple[float, float]:
    exact = logits.dtype in (torch.float32, torch.float64) and not logits.is_cuda
    return _EXACT if exact else _COARSE
