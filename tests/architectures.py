"""Tiny models of many architectures, with random weights: what GRIT is held against a dense definition on.

Each entry says how labels line up, which layers carry the adapter, and how the model is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from tiny_models import _randomize_up

from grit.adapters.peft_adapters import quiet_peft

VOCABULARY = 50
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "max_position_embeddings": 64,
    "scale_embedding": False,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
_LABELS = {**_SIZES, "num_labels": 3, "max_position_embeddings": 64}
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_LLAMA = [*_ATTENTION, "gate_proj", "up_proj", "down_proj"]
_BERT = ["query", "key", "value", "dense"]
_BART_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row of docs/reference/architectures.md."""

    name: str
    layout: str
    targets: list[str]
    backbone: Callable[[], Any]
    task: str | None
    note: str = ""
    #: What `attach` must be told, where the class misleads.
    labels: str | None = None

    def make(self, *, dropout: float = 0.0) -> Any:
        """The model with an adapter of rank 4 whose B is not zero, in float64."""
        torch.manual_seed(0)
        with warnings.catch_warnings(), quiet_peft():
            warnings.simplefilter("ignore")
            backbone = self.backbone()
            lora = LoraConfig(
                r=4, lora_alpha=8, lora_dropout=dropout, target_modules=self.targets, task_type=self.task
            )
            model = _randomize_up(get_peft_model(backbone, lora).double())
        for module in model.modules():
            for name, value in vars(module).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(module, name, 0.0)
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model


_TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "sequence": "SEQ_CLS", "aligned": "TOKEN_CLS"}


def _entry(
    layout: str,
    model: str,
    targets: list[str],
    *,
    config: str | None = None,
    note: str = "",
    labels: str | None = None,
    **settings: Any,
) -> Architecture:
    for ending in ("ForConditionalGeneration", "ForSequenceClassification", "ForTokenClassification"):
        base = model.removesuffix(ending)
        if base != model:
            break
    config = config or base.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + "Config"
    return Architecture(
        name=model,
        layout=layout,
        targets=targets,
        backbone=lambda: getattr(hf, model)(getattr(hf, config)(**settings)),
        task="CAUSAL_LM" if model.endswith("ForCausalLM") else _TASKS[layout],
        note=note,
        labels=labels,
    )


def _encoder_decoder() -> Any:
    encoder = hf.BertConfig(**_SIZES, max_position_embeddings=64)
    decoder = hf.BertConfig(**_SIZES, max_position_embeddings=64, is_decoder=True, add_cross_attention=True)
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    return hf.EncoderDecoderModel(config=config)


def _llava() -> Any:
    vision = hf.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = hf.LlavaConfig(
        vision_config=vision, text_config=hf.LlamaConfig(**_GROUPED), image_token_id=VOCABULARY - 1
    )
    return hf.LlavaForConditionalGeneration(config)


def _t5gemma() -> Any:
    sizes = {**_GROUPED, "query_pre_attn_scalar": 8, "sliding_window": 16}
    half = hf.T5GemmaModuleConfig(**sizes)
    other = hf.T5GemmaModuleConfig(**sizes, is_decoder=True)
    return hf.T5GemmaForConditionalGeneration(
        hf.T5GemmaConfig(encoder=half, decoder=other, vocab_size=VOCABULARY, pad_token_id=0)
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    _entry("causal", "LlamaForCausalLM", _LLAMA, **_GROUPED),
    _entry("causal", "MistralForCausalLM", _LLAMA, **_GROUPED),
    _entry("causal", "Qwen2ForCausalLM", _LLAMA, **_GROUPED),
    _entry("causal", "Qwen3ForCausalLM", _LLAMA, **_GROUPED),
    _entry("causal", "GemmaForCausalLM", _LLAMA, **_GROUPED),
    _entry("causal", "Gemma2ForCausalLM", _LLAMA, **_GROUPED, query_pre_attn_scalar=8, sliding_window=16),
    _entry(
        "causal",
        "Gemma3ForCausalLM",
        _LLAMA,
        config="Gemma3TextConfig",
        **_GROUPED,
        query_pre_attn_scalar=8,
        sliding_window=16,
    ),
    _entry("causal", "PhiForCausalLM", ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"], **_SIZES),
    _entry("causal", "Phi3ForCausalLM", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], **_SIZES),
    _entry("causal", "Olmo2ForCausalLM", _LLAMA, **_SIZES),
    _entry("causal", "GraniteForCausalLM", _LLAMA, **_SIZES),
    _entry("causal", "StableLmForCausalLM", _LLAMA, **_SIZES, num_key_value_heads=4),
    _entry("causal", "CohereForCausalLM", _LLAMA, **_SIZES),
    _entry("causal", "SmolLM3ForCausalLM", _LLAMA, **_SIZES),
    _entry(
        "causal",
        "GPT2LMHeadModel",
        ["c_attn", "c_proj", "c_fc"],
        n_embd=32,
        n_layer=2,
        n_head=4,
        vocab_size=VOCABULARY,
        note="`Conv1D` layers",
    ),
    _entry(
        "causal",
        "GPTNeoXForCausalLM",
        ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
        **_SIZES,
    ),
    _entry(
        "causal",
        "OPTForCausalLM",
        _BART_LAYERS,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        word_embed_proj_dim=32,
        pad_token_id=0,
    ),
    _entry(
        "causal",
        "BloomForCausalLM",
        ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
        hidden_size=32,
        n_layer=2,
        n_head=4,
        vocab_size=VOCABULARY,
    ),
    _entry(
        "causal",
        "FalconForCausalLM",
        ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        alibi=False,
    ),
    _entry("causal", "Starcoder2ForCausalLM", [*_ATTENTION, "c_fc", "c_proj"], **_SIZES),
    _entry(
        "causal",
        "MixtralForCausalLM",
        _ATTENTION,
        **_GROUPED,
        num_local_experts=4,
        experts_implementation="eager",
        note="attention only: experts are refused",
    ),
    _entry(
        "aligned",
        "BartForCausalLM",
        [*(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")), "fc1", "fc2"],
        config="BartConfig",
        **_BART,
        labels="aligned",
        note='does not shift its labels: `labels="aligned"`; ignores `num_items_in_batch`',
    ),
    _entry(
        "causal",
        "BertLMHeadModel",
        _BERT,
        config="BertConfig",
        **_SIZES,
        is_decoder=True,
        max_position_embeddings=64,
    ),
    Architecture(
        name="LlavaForConditionalGeneration",
        layout="causal",
        targets=[
            f"language_model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in _ATTENTION
        ],
        backbone=_llava,
        task=None,
        note="its language model; the vision tower is refused",
    ),
    _entry(
        "seq2seq",
        "T5ForConditionalGeneration",
        ["q", "k", "v", "o", "wi", "wo"],
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        vocab_size=VOCABULARY,
        decoder_start_token_id=0,
        pad_token_id=0,
    ),
    _entry("seq2seq", "BartForConditionalGeneration", _BART_LAYERS, **_BART),
    _entry("seq2seq", "M2M100ForConditionalGeneration", _BART_LAYERS, **_BART),
    _entry("seq2seq", "PegasusForConditionalGeneration", _BART_LAYERS, **_BART),
    _entry(
        "seq2seq",
        "NllbMoeForConditionalGeneration",
        ["q_proj", "k_proj", "v_proj", "out_proj"],
        **_BART,
        num_experts=4,
        encoder_sparse_step=2,
        decoder_sparse_step=2,
        note="attention only: experts are refused",
    ),
    Architecture(
        name="T5GemmaForConditionalGeneration",
        layout="seq2seq",
        targets=_LLAMA,
        backbone=_t5gemma,
        task="SEQ_2_SEQ_LM",
        note="divides by `num_items_in_batch`",
    ),
    Architecture(
        name="EncoderDecoderModel",
        layout="seq2seq",
        targets=[*_BERT[:3], "output.dense"],
        backbone=_encoder_decoder,
        task="SEQ_2_SEQ_LM",
        note="BERT to BERT",
    ),
    _entry("sequence", "LlamaForSequenceClassification", _LLAMA, **_GROUPED, num_labels=3),
    _entry("sequence", "BertForSequenceClassification", [*_BERT[:3], "output.dense"], **_LABELS),
    _entry("sequence", "RobertaForSequenceClassification", ["query", "key", "value"], **_LABELS),
    _entry(
        "sequence",
        "DistilBertForSequenceClassification",
        ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
        dim=32,
        hidden_dim=48,
        n_layers=2,
        n_heads=4,
        vocab_size=VOCABULARY,
        num_labels=3,
        pad_token_id=0,
    ),
    _entry(
        "sequence",
        "AlbertForSequenceClassification",
        ["query", "key", "value", "ffn", "ffn_output"],
        **{**_LABELS, "num_hidden_layers": 3},
        embedding_size=16,
        note="one layer called three times",
    ),
    _entry("sequence", "ElectraForSequenceClassification", _BERT[:3], **_LABELS, embedding_size=16),
    _entry("aligned", "BertForTokenClassification", _BERT, **_LABELS),
    _entry("aligned", "LlamaForTokenClassification", _LLAMA, **_GROUPED, num_labels=3),
)


def batches(architecture: Architecture, *, count: int = 2) -> list[dict[str, Any]]:
    """Micro-batches of three sequences of unequal lengths, padded right, with labels on a part of them."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for number in range(count):
        lengths = [9, 5 + number, 7]
        tokens = torch.randint(3, VOCABULARY - 2, (3, 9), generator=generator)
        mask = (torch.arange(9)[None] < torch.tensor(lengths)[:, None]).to(torch.int64)
        tokens = tokens * mask
        labels: Any
        if architecture.layout == "sequence":
            labels = torch.randint(0, 3, (3,), generator=generator)
        elif architecture.layout == "aligned":
            labels = torch.randint(1, 3, (3, 9), generator=generator).masked_fill(mask == 0, -100)
            labels[:, :2] = -100
        elif architecture.layout == "seq2seq":
            labels = torch.randint(3, VOCABULARY - 2, (3, 6), generator=generator)
            labels[0, 4:], labels[2, 3 + number :] = -100, -100
        else:
            labels = tokens.masked_fill(mask == 0, -100)
            labels[:, :3] = -100
        made.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})
    return made
