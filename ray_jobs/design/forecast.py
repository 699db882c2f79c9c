"""What a plan will take, before anything runs: seconds, memory, GPU-hours, money.

Predictions from shapes and from the preset, not promises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grit.config.registry import METHODS
from grit.config.run_config import RunConfig
from grit.config.sections import EVERY_LINEAR
from grit.config.sequence import EARLIER_TOKENS
from grit.errors import ConfigError

#: Memory of the GPU that the Llama presets are for, and of what Python and its libraries hold in a worker, in
#: bytes.
A100_BYTES, LIBRARY_BYTES = 80 * 10**9, 700 * 10**6
#: Dollars for an hour of one A100 80 GB: between what clouds ask for spot and for on-demand machines.
#: `--usd-per-gpu-hour` replaces it.
USD_PER_GPU_HOUR = 2.5
#: Bytes of activations that a layer keeps for the backward pass, per token and unit of width, in 16-bit
#: numbers with an attention that keeps no score matrix (Korthikanti et al., 2022, section 4: 34 s b h).
ACTIVATION_BYTES = 34
#: Linear layers of a decoder block: what `EVERY_LINEAR` adapts.
LINEAR_KINDS = 7
#: Bytes per logit: the model's own type, its float32 copy, and the gradient of that.
LOGIT_BYTES = 10


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What memory depends on: parameters in all, layers, width, vocabulary."""

    parameters: int
    layers: int
    width: int
    vocabulary: int


#: The models of the presets, by hub id (their configurations need the hub's permission to be read).
KNOWN = {
    "meta-llama/Llama-3.2-3B": ModelShape(
        parameters=3_213_000_000, layers=28, width=3072, vocabulary=128_256
    ),
    "meta-llama/Llama-3.1-8B": ModelShape(
        parameters=8_030_000_000, layers=32, width=4096, vocabulary=128_256
    ),
}


def shape_of(model: str, folder: str) -> ModelShape | None:
    """The shape of a model by hub id or from its folder; None where neither tells."""
    if model in KNOWN:
        return KNOWN[model]
    path = Path(folder)
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf8"))
        width = {"float32": 4, "bfloat16": 2, "float16": 2}[
            config.get("dtype") or config.get("torch_dtype") or "float32"
        ]
        parameters = sum(file.stat().st_size for file in path.glob("*.safetensors")) // width
        return ModelShape(
            parameters=parameters,
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            vocabulary=config["vocab_size"],
        )
    except (OSError, ValueError, KeyError):
        return None


def memory_bytes(config: RunConfig, shape: ModelShape, *, gpu: bool) -> int:
    """Peak memory of one training process of `config`, by its parts.

    Weights, adapter with AdamW's states, what a method holds of the weights' own size, activations, logits.

    Runs that take turns have weights and states each, and activations one at a time.
    """
    number = 2 if config.backbone.dtype == "bfloat16" else 4
    methods = (config.method, *config.audits.beside)
    quantized = [METHODS[method].quantized for method in methods]
    # NF4, double quantization: 4.13 bits, and embeddings in full
    stored = 0.55 * quantized.count(True) + number * quantized.count(False)
    targets = config.adapter.targets
    kinds = LINEAR_KINDS if targets == EVERY_LINEAR else len(targets)
    adapter = 2 * config.adapter.rank * shape.width * kinds * shape.layers
    adapted = kinds / LINEAR_KINDS * max(0, shape.parameters - shape.vocabulary * shape.width)
    tokens = config.optimization.micro_batch * config.optimization.max_length
    of_a_layer = ACTIVATION_BYTES * number / 2 * tokens * shape.width
    activations = of_a_layer * shape.layers
    if (
        config.execution.gradient_checkpointing
    ):  # every layer's input, and one layer while it is computed again
        activations = number * tokens * shape.width * shape.layers + of_a_layer
    logits = LOGIT_BYTES * tokens * shape.vocabulary
    return int(
        stored * shape.parameters
        + 16 * len(methods) * adapter
        + 4 * _sampled_tokens(config) * adapter / config.adapter.rank
        + sum(METHODS[method].weight_bytes for method in methods) * adapted
        + activations
        + logits
        + (0 if gpu else LIBRARY_BYTES)
    )


def _sampled_tokens(config: RunConfig) -> int:
    """Tokens whose inputs and gradients every adapted module keeps throughout a run, in float32."""
    source = config.grit.source_tokens if config.uses_grit and config.grit.knows_source else 0
    earlier = EARLIER_TOKENS * len(config.sequence.before) if config.sequence.earlier_penalty else 0
    return source + earlier


def check_memory(
    config: RunConfig,
    shape: ModelShape | None,
    *,
    gpu: bool,
    concurrent: int,
    machine_bytes: int | None,
    per_gpu: int = 1,
) -> str:
    """Refuses a plan that cannot fit; returns what to print.

    Args:
        config: of a trial.
        shape: of its backbone.
        gpu: whether it trains on one.
        concurrent: trials at once, which share a machine without GPUs.
        machine_bytes: of memory that is left there, where that is known.
        per_gpu: trials that share a GPU.

    Raises:
        ConfigError: with what a trial is predicted to need and what there is.
    """
    if shape is None:
        return "memory: not predicted (the model's configuration is not at hand)"
    needed = memory_bytes(config, shape, gpu=gpu)
    room = machine_bytes and machine_bytes // concurrent
    if gpu:
        room = A100_BYTES // per_gpu
    if room is not None and needed > room:
        if per_gpu > 1:
            raise ConfigError(
                "trials-per-gpu",
                per_gpu,
                f"a trial would need about {needed / 1e9:.0f} GB of {A100_BYTES / 1e9:.0f} GB: at most "
                f"{max(1, A100_BYTES // needed)}",
            )
        if config.audits.beside:
            raise ConfigError(
                "beside",
                config.audits.beside,
                f"would need about {needed / 1e9:.0f} GB at once and there are {room / 1e9:.0f} GB: let "
                "fewer "
                "methods take turns (--methods), or lower micro_batch",
            )
        if machine_bytes is not None and not gpu and needed <= machine_bytes:
            raise ConfigError(
                "max-concurrent",
                concurrent,
                f"a trial would need about {needed / 1e9:.1f} GB, and {machine_bytes / 1e9:.0f} GB are free: "
                f"at most {machine_bytes // needed}",
            )
        raise ConfigError(
            "micro_batch",
            config.optimization.micro_batch,
            f"would need about {needed / 1e9:.0f} GB a trial and there are {room / 1e9:.0f} GB: lower it "
            "(and raise accumulation), "
            "or max_length, or the rank, or set gradient_checkpointing=true",
        )
    there = "" if room is None else f" of {room / 1e9:.0f} GB"
    return f"memory: about {needed / 1e9:.1f} GB{there} a trial"


def machine_memory() -> int | None:
    """Bytes of memory that this machine has left, or None where it does not say."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    return next(
        (
            1024 * int(line.split()[1])
            for line in info.read_text().splitlines()
            if line.startswith("MemAvailable")
        ),
        None,
    )
