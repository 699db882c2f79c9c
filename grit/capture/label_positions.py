"""Which token positions count, and over how many labels a model's loss is a mean.

Read off the model's own inputs.

Four layouts of labels are known. `causal`: the logits of position t are scored against label t + 1.
`aligned`: against label t (token classification). `sequence`: one label per sequence; all of its real tokens
stand for it. `seq2seq`: an encoder-decoder, whose decoder is scored against label t and whose encoder's
real tokens stand for all the sequence's labels.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from grit.data.encode import IGNORED_LABEL
from grit.errors import ConfigError

Layout = Literal["causal", "aligned", "sequence", "seq2seq"]
#: Which sequence a layer reads: the decoder's (or the only one), or the encoder's.
Stream = Literal["main", "encoder"]

_TASK_LAYOUTS: dict[str, Layout] = {
    "CAUSAL_LM": "causal",
    "SEQ_2_SEQ_LM": "seq2seq",
    "SEQ_CLS": "sequence",
    "TOKEN_CLS": "aligned",
}
_CLASS_LAYOUTS: dict[str, Layout] = {
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForConditionalGeneration": "seq2seq",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "aligned",
}
#: Names of decoder modules that read the encoder's output: their keys and values are encoder positions.
_CROSS_ATTENTION = ("EncDecAttention", "encoder_attn", "crossattention", "cross_attention", "cross_attn")
#: `c_attn` of a cross-attention is GPT-2's fused key and value; its query is `q_attn`.
_KEY_OR_VALUE = ("k", "v", "k_proj", "v_proj", "key", "value", "key_proj", "value_proj", "c_attn", "kv_proj")
_QUERY_OR_OUTPUT = (
    "q",
    "o",
    "q_proj",
    "o_proj",
    "out_proj",
    "query",
    "query_proj",
    "q_attn",
    "c_proj",
    "dense",
)


@dataclass(frozen=True, kw_only=True)
class Positions:
    """What one forward pass's inputs say.

    Attributes:
        tokens: per stream, 1 for a real token and 0 for padding, flattened (N,).
        labels: per stream, 1 for a position that has a label itself, or stands for one, flattened (N,).
        label_count: labels that the model's mean loss is a mean over (a scalar tensor).
        sequences: sequences with at least one label (a scalar tensor).
        shapes: per stream, (batch, sequence).
        padding_scored: per stream, whether a label is scored at a position that is called padding, so that
            its gradient is no sign of anything (a scalar tensor).
    """

    tokens: dict[Stream, Tensor]
    labels: dict[Stream, Tensor]
    label_count: Tensor
    sequences: Tensor
    shapes: dict[Stream, tuple[int, int]]
    padding_scored: dict[Stream, Tensor]


def layout_of(model: nn.Module, task_type: str | None) -> Layout:
    """How `model` lines labels up with positions: by its PEFT task type, else by the name of its class.

    A class `...ForConditionalGeneration` is an encoder-decoder only where its configuration says so: most of
    them are causal language models that read images or sound as well.

    Raises:
        ConfigError: neither tells, or they contradict each other.
    """
    outermost = next((module for module in model.modules() if hasattr(module, "config")), model)
    two_streams = bool(getattr(getattr(outermost, "config", None), "is_encoder_decoder", False))
    if task_type in _TASK_LAYOUTS:
        layout = _TASK_LAYOUTS[str(task_type)]
        if layout in ("causal", "seq2seq") and two_streams != (layout == "seq2seq"):
            kind = "an encoder-decoder" if two_streams else "no encoder-decoder"
            raise ConfigError(
                "task_type", task_type, f"{_class_name(outermost)} is {kind} by its configuration"
            )
        return layout
    for module in model.modules():  # the outermost is first
        for ending, layout in _CLASS_LAYOUTS.items():
            if type(module).__name__.endswith(ending):
                if layout in ("causal", "seq2seq"):
                    return "seq2seq" if two_streams else "causal"
                return layout
    raise ConfigError(
        "labels",
        None,
        f"must be one of {', '.join(get_args(Layout))}: {type(model).__name__} does not tell (set "
        "task_type in "
        "its LoraConfig, or pass labels= to attach)",
    )


def _class_name(module: nn.Module) -> str:
    inner: Any = getattr(module, "get_base_model", lambda: module)()
    return type(inner).__name__


def streams_of(model: nn.Module, layout: Layout, names: Sequence[str]) -> list[Stream]:
    """Which sequence each of the layers called `names` reads; only an encoder-decoder has two.

    The encoder's layers are those inside the module that the model calls its encoder; a decoder may have a
    part of that name as well.

    Raises:
        ConfigError: a layer of cross-attention by whose name neither can be told.
    """
    if layout != "seq2seq":
        return ["main" for _ in names]
    encoder = _encoder(model)
    inside = set() if encoder is None else set(map(id, encoder.modules()))
    return [_stream(model, name, inside) for name in names]


def _encoder(model: nn.Module) -> nn.Module | None:
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    encoder = inner.get_encoder() if hasattr(inner, "get_encoder") else None
    return encoder if isinstance(encoder, nn.Module) and encoder is not inner else None


def _stream(model: nn.Module, name: str, inside_encoder: set[int]) -> Stream:
    parts = name.split(".")
    if id(model.get_submodule(name)) in inside_encoder or (not inside_encoder and "encoder" in parts):
        return "encoder"
    if not any(part in _CROSS_ATTENTION for part in parts):
        return "main"
    if parts[-1] in _KEY_OR_VALUE:
        return "encoder"
    if parts[-1] in _QUERY_OR_OUTPUT:
        return "main"
    raise ConfigError(
        "model",
        name,
        "is a part of cross-attention of which is not known whose positions it reads: leave it out",
    )


def named_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A forward call's arguments by name, positional ones included.

    Raises:
        TypeError: neither the model nor what it wraps says what its positional arguments are.
    """
    if not args:
        return kwargs
    candidate: Any = model
    while True:
        signature = inspect.signature(candidate.forward)
        if all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
            bound = signature.bind_partial(*args, **kwargs).arguments
            return {**bound, **bound.get("kwargs", {})}
        inner = candidate.get_base_model() if hasattr(candidate, "get_base_model") else None
        if inner is None or inner is candidate:
            raise TypeError(
                f"{type(model).__name__} does not name its positional arguments: pass input_ids, "
                "attention_mask and labels by name"
            )
        candidate = inner


def positions(layout: Layout, inputs: dict[str, Any]) -> Positions | None:
    """What these inputs say; None without labels.

    Raises:
        ValueError: the labels' shape does not fit the layout.
    """
    labels = inputs.get("labels")
    if labels is None:
        return None
    if labels.dim() != (1 if layout == "sequence" else 2):
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit the layout {layout!r}")
    mask = _mask(inputs, labels if layout in ("causal", "aligned") else None)
    if layout == "sequence":
        labelled = labels != IGNORED_LABEL
        return _positions(mask, mask * labelled[:, None], labelled.sum(), labelled.sum())
    scored = (labels != IGNORED_LABEL).to(torch.int64)
    sequences = scored.any(-1).sum()
    if layout == "causal":
        scored = torch.cat([scored[:, 1:], torch.zeros_like(scored[:, :1])], dim=1)
    if layout in ("causal", "aligned"):
        if mask.shape != scored.shape:
            raise ValueError(
                f"an attention_mask of shape {tuple(mask.shape)} does not fit labels of shape "
                f"{tuple(labels.shape)}"
            )
        # A padded position before the first real token may be scored, and still does not count.
        return _positions(mask, scored * mask, scored.sum(), sequences, (scored * (1 - mask)).any())
    decoded = inputs.get("decoder_attention_mask")
    main = _positions(scored if decoded is None else decoded, scored, scored.sum(), sequences)
    return Positions(
        tokens={**main.tokens, "encoder": mask.flatten()},
        labels={**main.labels, "encoder": (mask * scored.any(-1)[:, None]).flatten()},
        label_count=main.label_count,
        sequences=sequences,
        shapes={**main.shapes, "encoder": (mask.shape[0], mask.shape[1])},
        # Without a mask of its own the decoder reads every position, and only those with a label count.
        padding_scored={"main": torch.tensor(decoded is None), "encoder": torch.tensor(False)},
    )


def unlabelled_positions(layout: Layout, inputs: dict[str, Any]) -> Positions | None:
    """Every real token of a forward pass without labels, whose loss somebody computes from its outputs.

    None where the inputs do not tell, and for an encoder-decoder, whose decoder's positions its labels give.
    """
    if layout == "seq2seq":
        return None
    try:
        mask = _mask(inputs, None)
    except ValueError:
        return None
    return _positions(mask, mask, torch.zeros((), device=mask.device), mask.any(-1).sum())


def _positions(
    tokens: Tensor, labels: Tensor, count: Tensor, sequences: Tensor, padding_scored: Tensor | None = None
) -> Positions:
    return Positions(
        tokens={"main": tokens.flatten()},
        labels={"main": labels.flatten()},
        label_count=count,
        sequences=sequences,
        shapes={"main": (tokens.shape[0], tokens.shape[1])},
        padding_scored={"main": torch.tensor(False) if padding_scored is None else padding_scored},
    )


def _mask(inputs: dict[str, Any], like: Tensor | None) -> Tensor:
    """The attention mask (batch, sequence) as integers.

    Where the model was given none: ones, but for what packing left over (`_packed_mask`).
    """
    mask = inputs.get("attention_mask")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            what = (
                f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"as {type(mask).__name__}"
            )
            raise ValueError(
                f"an attention_mask {what} does not tell which tokens are padding: give (batch, sequence)"
            )
        return mask.to(torch.int64)
    if like is not None:
        order = inputs.get("position_ids")
        return (
            _packed_mask(order)
            if isinstance(order, Tensor) and order.shape == like.shape
            else torch.ones_like(like)
        )
    for name in ("input_ids", "inputs_embeds"):
        given = inputs.get(name)
        if given is not None:
            return torch.ones(given.shape[:2], dtype=torch.int64, device=given.device)
    raise ValueError("neither attention_mask, input_ids nor inputs_embeds were given to the model")


def _packed_mask(order: Tensor) -> Tensor:
    """1 for the tokens of packed texts, from their positions (batch, sequence).

    Which start again at 0 with every text.

    A text of one token carries neither context nor label: it is padding (grit/data/packing.py fills rows with
    such).
    """
    ends = torch.cat([order[:, 1:] == 0, torch.ones_like(order[:, :1], dtype=torch.bool)], dim=1)
    return (~((order == 0) & ends)).to(torch.int64)
