"""What GRIT costs beside LoRA.

Both trained step by step in turn, in one process, so that a noisy machine disturbs both alike.

    python benchmarks/grit_overhead.py [--model ../shared/backbone] [--steps 200]   # CPU: one thread, CPU
    seconds python benchmarks/grit_overhead.py --device cuda    # GPU: a random Llama of 1 B shape, CUDA
    events

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
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from grit.adapters.backbones import load_backbone
from grit.adapters.placement import matching
from grit.backbone import resolve
from grit.config.method import GritConfig
from grit.config.sections import LLAMA_TARGETS
from grit.geometry.attach import attach
from grit.methods.lora import add_lora
from grit.training.summary import percentile

#: Batch, sequence length and rank of each kind of machine.
SHAPES = {"cpu": (4, 128, 16), "cuda": (8, 1024, 32)}
CADENCE = 50
WARMUP = 5
METHODS = ("lora", "grit")


def build(device: str, model_path: str, rank: int, seed: int = 0) -> Any:
    """A backbone with LoRA on it: the given one on a CPU, a random one of 1 B shape on a GPU."""
    backbone: Any
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
            backbone = LlamaForCausalLM(config)
        backbone = backbone.to(dtype=torch.bfloat16).requires_grad_(False)
    else:
        backbone = load_backbone(model_path, quantized=False, dtype="float32", device=device)
    ranks = dict.fromkeys(matching(backbone, LLAMA_TARGETS), rank)
    return add_lora(backbone, ranks=ranks, scaling=2.0, dropout=0.05, seed=seed)


class Contestant:
    """One model in training, with the time of each of its steps in milliseconds."""

    def __init__(self, name: str, device: str, model_path: str, cadence: int) -> None:
        batch, length, rank = SHAPES[device]
        self.device = device
        self.model = build(device, model_path, rank)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        self.handle = None
        if name == "grit":
            config = GritConfig(
                reprojection_freq=cadence,
                inversion_device="model" if device == "cuda" else "cpu",
                max_grad_norm=1.0,
            )
            self.handle = attach(self.model, self.optimizer, config)
        generator = torch.Generator().manual_seed(1)
        vocabulary = self.model.config.vocab_size
        shape = (batch, length)
        self.batches = [torch.randint(3, vocabulary, shape, generator=generator).to(device) for _ in range(8)]
        self.mask = torch.ones(shape, dtype=torch.int64, device=device)
        self.model.train()
        self.times: list[float] = []

    def step(self) -> None:
        """Trains one step, and times it."""
        if self.device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            self._train()
            end.record()
            end.synchronize()
            self.times.append(begin.elapsed_time(end))
            return
        began = time.process_time()
        self._train()
        self.times.append(1e3 * (time.process_time() - began))

    def _train(self) -> None:
        tokens = self.batches[len(self.times) % len(self.batches)]
        self.model(input_ids=tokens, attention_mask=self.mask, labels=tokens).loss.backward()
        if self.handle is None:  # GRIT clips after preconditioning
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def summary_of(times: list[float]) -> dict[str, float]:
    """Milliseconds."""
    return {"mean": fmean(times), "p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}


def peak_alone(name: str, device: str, model_path: str, cadence: int) -> int:
    """Peak memory in bytes of one contestant in this process, over a reprojection."""
    contestant = Contestant(name, device, model_path, cadence)
    for _ in range(cadence + 1):
        contestant.step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not getrusage: its peak is inherited from the parent at fork, and this process would report its
    # parent's.
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line for line in status if line.startswith("VmHWM")]
    return 1024 * int(peak.split()[1])


def peak_in_a_fresh_process(name: str, options: argparse.Namespace, model: str) -> int:
    """Peak memory in bytes."""
    command = [sys.executable, __file__, "--device", options.device, "--model", model, "--alone", name]
    command += ["--cadence", str(options.cadence)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compare(options: argparse.Namespace, model: str) -> dict[str, Any]:
    """Both in turn: what goes into the line of JSON."""
    contestants = {name: Contestant(name, options.device, model, options.cadence) for name in METHODS}
    for index in tqdm(range(WARMUP + options.steps), desc="steps", disable=not sys.stderr.isatty()):
        for name in METHODS if index % 2 else reversed(METHODS):
            contestants[name].step()
    ms = {name: summary_of(contestant.times[WARMUP:]) for name, contestant in contestants.items()}
    grit = contestants["grit"]
    assert grit.handle is not None
    seconds = grit.handle.timings()
    events = [
        took for step, took in enumerate(grit.times, 1) if step > WARMUP and step % options.cadence == 0
    ]
    peaks = {name: peak_in_a_fresh_process(name, options, model) for name in METHODS}
    geometry = 1e3 * (seconds["fisher"] + seconds["reprojection"] + seconds["rank"])
    return {
        "benchmark": "grit_overhead",
        "device": options.device,
        "model": Path(model).name,
        "shape": SHAPES[options.device],
        "T": options.cadence,
        "steps": options.steps,
        "ms": ms,
        "mean_ratio": ms["grit"]["mean"] / ms["lora"]["mean"],
        "p50_ratio": ms["grit"]["p50"] / ms["lora"]["p50"],
        "p99_over_p50": {name: values["p99"] / values["p50"] for name, values in ms.items()},
        "reprojection_ms": {"mean": fmean(events), "p99": percentile(events, 0.99), "n": len(events)},
        "geometry_share": geometry / sum(grit.times),
        "peak_bytes": peaks,
        "peak_ratio": peaks["grit"] / peaks["lora"],
    }


def main() -> None:
    """Measures, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description="What GRIT costs beside LoRA.")
    model_help = "CPU: the backbone; ../shared/backbone where it exists, else the embedded one"
    steps_help = "timed steps each; a multiple of the cadence weighs reprojections as training does"
    parser.add_argument("--model", help=model_help)
    parser.add_argument("--device", choices=sorted(SHAPES), default="cpu")
    parser.add_argument("--steps", type=int, default=200, help=steps_help)
    parser.add_argument("--cadence", type=int, default=CADENCE, help="T")
    parser.add_argument("--alone", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    shared = Path(__file__).resolve().parents[2] / "shared" / "backbone"
    model = resolve(options.model or (str(shared) if shared.is_dir() else "embedded"))
    if options.device == "cpu":
        torch.set_num_threads(1)
    if options.alone:
        print(peak_alone(options.alone, options.device, model, options.cadence))
        return
    measured = compare(options, model)
    for name, values in measured["ms"].items():
        times = ", ".join(f"{key} {value:.2f} ms" for key, value in values.items())
        print(f"{name}: {times}, peak memory {measured['peak_bytes'][name] / 2**20:.0f} MiB")
    events = measured["reprojection_ms"]
    print(f"grit, reprojection steps: mean {events['mean']:.2f} ms (n = {events['n']})")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
