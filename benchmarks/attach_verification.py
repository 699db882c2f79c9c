"""What verifying the first captured steps costs: the same steps of the same model with and without, in turn.

    python benchmarks/attach_verification.py [--model ../shared/backbone] [--repeats 10]

CPU seconds of one thread. Ends in one line of JSON; a run pays the difference in two steps, once.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from grit.adapters.backbones import load_backbone
from grit.adapters.placement import matching
from grit.backbone import resolve
from grit.config.method import GritConfig
from grit.config.sections import LLAMA_TARGETS
from grit.geometry.attach import attach
from grit.methods.lora import add_lora

BATCH, LENGTH, RANK = 4, 128, 16


class Contestant:
    """The same adapter on the same batch, as often as asked."""

    def __init__(self, model_path: str) -> None:
        backbone = load_backbone(model_path, quantized=False, dtype="float32", device="cpu")
        ranks = dict.fromkeys(matching(backbone, LLAMA_TARGETS), RANK)
        self._model: Any = add_lora(backbone, ranks=ranks, scaling=2.0, dropout=0.05, seed=0).train()
        generator = torch.Generator().manual_seed(1)
        vocabulary = backbone.config.vocab_size
        tokens = torch.randint(3, vocabulary, (BATCH, LENGTH), generator=generator)
        self._batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if "lora_B" in name:  # at zero there would be nothing to verify
                    parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))

    def step(self, *, verify: bool) -> float:
        """CPU milliseconds of one captured step."""
        optimizer = torch.optim.SGD([p for p in self._model.parameters() if p.requires_grad], lr=0.0)
        config = GritConfig(cov_update_freq=1, preconditioner="none", reprojection_freq=None)
        handle = attach(self._model, optimizer, config, verify=verify)
        began = time.process_time()
        self._model(**self._batch).loss.backward()
        optimizer.step()
        took = 1e3 * (time.process_time() - began)
        optimizer.zero_grad()
        handle.detach()
        return took


def main() -> None:
    """Measures, and prints a line of JSON."""
    parser = argparse.ArgumentParser(description="What verifying the first captured steps costs.")
    parser.add_argument("--model", help="../shared/backbone where it exists, else the embedded one")
    parser.add_argument("--repeats", type=int, default=10, help="steps of each kind")
    options = parser.parse_args()
    shared = Path(__file__).resolve().parents[2] / "shared" / "backbone"
    model = options.model or (str(shared) if shared.is_dir() else "embedded")
    torch.set_num_threads(1)
    contestant = Contestant(resolve(model))
    contestant.step(verify=True)
    times: dict[bool, list[float]] = {True: [], False: []}
    for repeat in range(options.repeats):
        for verify in (True, False) if repeat % 2 else (False, True):
            times[verify].append(contestant.step(verify=verify))
    verified, plain = median(times[True]), median(times[False])
    line = {
        "benchmark": "attach_verification",
        "model": Path(model).name,
        "shape": [BATCH, LENGTH, RANK],
        "ms": {"verified": verified, "captured": plain},
        "ratio": verified / plain,
        "share_of_100_steps": 2 * (verified - plain) / (100 * plain),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
