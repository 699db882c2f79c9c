"""In which type this machine trains a language model faster: measured once, and kept.

A GPU has units for bfloat16. A processor may have them, may have them in part, or may compute with it many
times more slowly than with float32: that is measured, on two layers of SmolLM2's size.
"""

from __future__ import annotations

import json
import platform
import time

from grit.config.sections import Dtype
from grit.io.cache import cache_folder
from grit.io.files import write_atomically

#: By how much bfloat16 must be faster: it rounds, and a tie is not worth that.
WORTHWHILE = 1.25
_SEQUENCES, _LENGTH, _ROUNDS = 4, 128, 4


def fast_dtype() -> Dtype:
    """`bfloat16` where it trains at least 1.25 times as fast as float32 on one core, else `float32`.

    Kept in the cache: two calls on one machine never differ, and a study can be resumed.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    kept = cache_folder() / f"dtype-{platform.node()}.json"
    try:
        seconds = json.loads(kept.read_text(encoding="utf8"))
    except (OSError, ValueError):
        seconds = {name: step_seconds(name) for name in ("float32", "bfloat16")}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(seconds))
    return "bfloat16" if seconds["float32"] > WORTHWHILE * seconds["bfloat16"] else "float32"


def step_seconds(dtype: Dtype) -> float:
    """The fastest of a few forward and backward passes through two decoder layers and a head, on one core."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shape = LlamaConfig(
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=2,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=8192,
        )
        model = LlamaForCausalLM(shape).to(getattr(torch, dtype))
        tokens = torch.arange(_SEQUENCES * _LENGTH).reshape(_SEQUENCES, _LENGTH) % shape.vocab_size
        best = float("inf")
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            model(input_ids=tokens, labels=tokens).loss.backward()
            best = min(best, time.perf_counter() - began)
        return best
    finally:
        torch.set_num_threads(threads)
