"""What GRIT costs beside LoRA.

Both trained step by step in turn, in one process, so that a noisy machine disturbs both alike.

    python benchmarks/grit_overhead.py [--model ../shared/backbone] [--steps 200]      # CPU: one thread, CPU
    seconds python benchmarks/grit_overhead.py --device cuda                                   # GPU: a random
    Llama of 1 B shape, CUDA events

Ends in one line of JSON. Ratios are GRIT / LoRA; reprojection steps are also shown apart. Peak memory is
taken from one fresh process each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from grit.adapters.backbones import load_backbone
from grit.adapters.peft_methods import add_lora
from grit.adapters.placement import matching
from grit.backbone import resolve
from grit.config.method import GritConfig
from grit.config.sections import LLAMA_TARGETS
from grit.geometry.attach import attach
from grit.training.summary import percentile

#: Batch, sequence length and rank of each kind of machine.
SHAPES = {"cpu": (4, 128, 16), "cuda": (8, 1024, 32)}
T = 50
WARMUP = 5


def build(device, model_path, rank, seed=0):
    if device == "cuda":
        torch.manual_seed(seed)
        config = LlamaConfig(
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=32768,
        )
        with torch.device("cuda"):
            backbone = LlamaForCausalLM(config).to(torch.bfloat16).requires_grad_(False)
    else:
        backbone = load_backbone(model_path, quantized=False, dtype="float32", device=device)
    return add_lora(
        backbone,
        ranks=dict.fromkeys(matching(backbone, LLAMA_TARGETS), rank),
        scaling=2.0,
        dropout=0.05,
        seed=seed,
    )


class Contestant:
    """One model in training, with the time of each of its steps."""

    def __init__(self, name, device, model_path):
        batch, length, rank = SHAPES[device]
        self.name, self.device = name, device
        self.model = build(device, model_path, rank)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)
        self.handle = None
        if name == "grit":
            config = GritConfig(
                T=T, inversion_device="model" if device == "cuda" else "cpu", max_grad_norm=1.0
            )
            self.handle = attach(self.model, self.optimizer, config)
        generator = torch.Generator().manual_seed(1)
        vocabulary = self.model.config.vocab_size
        self.batches = [
            torch.randint(3, vocabulary, (batch, length), generator=generator).to(device) for _ in range(8)
        ]
        self.mask = torch.ones(batch, length, dtype=torch.int64, device=device)
        self.model.train()
        self.taken, self.times = 0, []

    def step(self):
        """Trains one step, and times it."""
        tokens = self.batches[self.taken % len(self.batches)]
        if self.device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        else:
            began = time.process_time()
        self.model(input_ids=tokens, attention_mask=self.mask, labels=tokens).loss.backward()
        if self.handle is None:  # GRIT clips after preconditioning
            torch.nn.utils.clip_grad_norm_(
                [p for p in self.model.parameters() if p.requires_grad], 1.0, foreach=True
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.taken += 1
        if self.device == "cuda":
            end.record()
            end.synchronize()
            self.times.append(begin.elapsed_time(end))
        else:
            self.times.append(1e3 * (time.process_time() - began))


def statistics(times):
    return {"mean": sum(times) / len(times), "p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}


def alone(name, device, model_path, steps):
    """Peak memory in bytes of one contestant in this process."""
    contestant = Contestant(name, device, model_path)
    for _ in range(steps):
        contestant.step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not getrusage: its peak is inherited from the parent at fork, and this process would report its
    # parent's.
    return next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        default=None,
        help="CPU: the backbone; ../shared/backbone where it exists, else the embedded one",
    )
    parser.add_argument("--device", choices=sorted(SHAPES), default="cpu")
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help=f"timed steps each; a multiple of T = {T} weighs reprojections as training does",
    )
    parser.add_argument("--alone", choices=("lora", "grit"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    shared = Path(__file__).resolve().parents[2] / "shared" / "backbone"
    model = options.model or (str(shared) if shared.is_dir() else resolve("embedded"))
    torch.set_num_threads(1 if options.device == "cpu" else torch.get_num_threads())
    if options.alone:
        print(alone(options.alone, options.device, model, T + 1))
        return
    contestants = {name: Contestant(name, options.device, model) for name in ("lora", "grit")}
    for index in tqdm(range(WARMUP + options.steps), desc="steps", disable=not sys.stderr.isatty()):
        for name in ("lora", "grit") if index % 2 else ("grit", "lora"):
            contestants[name].step()
    times = {name: contestant.times[WARMUP:] for name, contestant in contestants.items()}
    at_reprojection = [
        time
        for index, time in enumerate(contestants["grit"].times)
        if index >= WARMUP and (index + 1) % T == 0
    ]
    peak = {
        name: int(
            subprocess.run(
                [sys.executable, __file__, "--device", options.device, "--model", model, "--alone", name],
                check=True,
                stdout=subprocess.PIPE,
            ).stdout
        )
        for name in times
    }
    found = {name: statistics(values) for name, values in times.items()}
    handle = contestants["grit"].handle
    seconds = handle.timings()
    for name, values in found.items():
        print(
            f"{name}: "
            + ", ".join(f"{key} {value:.2f} ms" for key, value in values.items())
            + f", peak memory {peak[name] / 2**20:.0f} MiB"
        )
    print(
        f"grit, reprojection steps: mean {sum(at_reprojection) / len(at_reprojection):.2f} ms (n = "
        f"{len(at_reprojection)})"
    )
    print(
        json.dumps(
            {
                "benchmark": "grit_overhead",
                "device": options.device,
                "model": Path(model).name,
                "shape": SHAPES[options.device],
                "T": T,
                "steps": options.steps,
                "ms": found,
                "mean_ratio": found["grit"]["mean"] / found["lora"]["mean"],
                "p50_ratio": found["grit"]["p50"] / found["lora"]["p50"],
                "p99_over_p50": {name: values["p99"] / values["p50"] for name, values in found.items()},
                "reprojection_ms": {
                    "mean": sum(at_reprojection) / len(at_reprojection),
                    "p99": percentile(at_reprojection, 0.99),
                    "n": len(at_reprojection),
                },
                "geometry_share": (seconds["fisher"] + seconds["reprojection"] + seconds["rank"])
                * 1e3
                / sum(contestants["grit"].times),
                "peak_bytes": peak,
                "peak_ratio": peak["grit"] / peak["lora"],
            }
        )
    )


if __name__ == "__main__":
    main()
