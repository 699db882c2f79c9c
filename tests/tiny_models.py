"""Tiny models with random weights.

Every architecture that GRIT attaches to, small enough for float64 oracles.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from grit.adapters.peft_adapters import quiet_peft


def _adapted(backbone, lora):
    with quiet_peft():
        return get_peft_model(backbone, lora)


def _randomize_up(model, seed=5, scale=0.1):
    """B starts at zero, and so would Sigma_g."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def tiny_llama():
    """A Llama of two layers with a LoRA adapter on all seven projections; float64 unless told otherwise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(*, dropout=0.1, rank=4, dtype=torch.float64, alpha=8.0):
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=50,
            initializer_range=0.1,
        )
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"
        )
        model = _adapted(LlamaForCausalLM(config), lora).to(dtype)
        return _randomize_up(model)

    return make


@pytest.fixture
def tiny_t5():
    """An encoder-decoder with an adapter on attention (self and cross) and feed-forward layers."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        vocab_size=50,
        decoder_start_token_id=0,
        pad_token_id=0,
        dropout_rate=0.1,
    )
    lora = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.1,
        target_modules=["q", "k", "v", "o", "wi", "wo"],
        task_type="SEQ_2_SEQ_LM",
    )
    return _randomize_up(_adapted(T5ForConditionalGeneration(config), lora).double())


@pytest.fixture
def tiny_classifier():
    """A sequence classifier: one label per sequence, read at the last real token."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=50,
        num_labels=3,
        pad_token_id=0,
    )
    lora = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS"
    )
    return _randomize_up(_adapted(LlamaForSequenceClassification(config), lora).double())


class OneLayer(nn.Module):
    """y = W x, and a loss that is linear in y.

    The mean over tokens of <y_t, g_t>, so that g is whatever the test wants it to be.
    """

    def __init__(self, d_in, d_out):
        super().__init__()
        self.layer = nn.Linear(d_in, d_out, bias=False)

    def forward(self, inputs_embeds=None, labels=None, gradients=None):
        scored = labels != -100
        loss = (self.layer(inputs_embeds) * gradients).sum(-1)[scored].sum() / scored.sum()
        return SimpleNamespace(loss=loss)


@pytest.fixture
def one_layer():
    """The model above with an adapter of rank 3, in float64."""
    torch.manual_seed(0)
    model = _adapted(OneLayer(6, 5), LoraConfig(r=3, lora_alpha=6, target_modules=["layer"]))
    return _randomize_up(model.double(), scale=1.0)


@pytest.fixture
def token_batches():
    """Four micro-batches of two sequences of unequal lengths, padded left or right.

    With labels on the ends only.
    """

    def make(side="right", count=4, vocab=50, length=9):
        generator = torch.Generator().manual_seed(7)
        batches = []
        for _ in range(count):
            tokens = torch.randint(3, vocab, (2, length), generator=generator)
            mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, -100)
            for row, real in enumerate(torch.randint(4, length + 1, (2,), generator=generator).tolist()):
                where = slice(0, real) if side == "right" else slice(length - real, length)
                mask[row, where] = 1
                tail = slice(real - 3, real) if side == "right" else slice(length - 3, length)
                labels[row, tail] = tokens[row, tail]
            batches.append({"input_ids": tokens * mask, "attention_mask": mask, "labels": labels})
        return batches

    return make


class SequenceFirst(nn.Module):
    """Reads (sequence, batch), as older attention does, and scores every position."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        logits = self.layer(self.embedding(input_ids.T)).transpose(0, 1)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return SimpleNamespace(loss=loss, logits=logits)
