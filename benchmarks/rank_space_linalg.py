"""Rank-space inversion and eigendecomposition for 224 modules (an 8 B Llama's seven projections).

One batched call against a loop.

    python benchmarks/rank_space_linalg.py [--device cuda]

Ends in one line of JSON; ratios are loop / batched, both measured in turn in this process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from grit.rank_space.damped_inverse import damped_inverse
from grit.rank_space.projectors import spectrum

MODULES, RANKS, REPEATS = 224, (8, 16, 32, 64), 15


def factors(rank, device, dtype):
    x = torch.randn(MODULES, 4 * rank, rank, generator=torch.Generator().manual_seed(rank), dtype=dtype)
    return (x.mT @ x / (4 * rank)).to(device)


def seconds(work, device):
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(batched, looped, device):
    """Median milliseconds of both, measured in turn."""
    pairs = [(seconds(batched, device), seconds(looped, device)) for _ in range(REPEATS + 2)][2:]
    ms = {
        name: 1e3 * statistics.median(column)
        for name, column in zip(("batched_ms", "loop_ms"), zip(*pairs, strict=True), strict=True)
    }
    return {**ms, "ratio": ms["loop_ms"] / ms["batched_ms"]}


def invert(stack):
    return damped_inverse(stack, torch.full(stack.shape[:1], 1e-3, dtype=stack.dtype, device=stack.device))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    found = {}
    for rank in RANKS:
        wide, narrow = factors(rank, device, torch.float64), factors(rank, device, torch.float32)
        found[rank] = {
            "inversion": compare(
                lambda w=wide: invert(w), lambda w=wide: [invert(one[None]) for one in w], device
            ),
            "eigendecomposition": compare(
                lambda n=narrow: spectrum(n), lambda n=narrow: [spectrum(one[None]) for one in n], device
            ),
        }
        for name, row in found[rank].items():
            ms = f"batched {row['batched_ms']:8.2f} ms, loop {row['loop_ms']:8.2f} ms"
            print(f"r = {rank:2d} {name:18s} {ms}, ratio {row['ratio']:.1f}", flush=True)
    print(
        json.dumps(
            {
                "benchmark": "rank_space_linalg",
                "device": device,
                "modules": MODULES,
                "threads": 1,
                "ranks": found,
            }
        )
    )


if __name__ == "__main__":
    main()
