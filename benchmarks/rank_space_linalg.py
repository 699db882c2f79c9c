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
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from grit.rank_space.damped_inverse import damped_inverse
from grit.rank_space.projectors import spectrum

MODULES, RANKS, REPEATS = 224, (8, 16, 32, 64), 15


def factors(rank: int, device: str, dtype: torch.dtype) -> Tensor:
    """Positive factors (MODULES, r, r)."""
    x = torch.randn(MODULES, 4 * rank, rank, generator=torch.Generator().manual_seed(rank), dtype=dtype)
    return (x.mT @ x / (4 * rank)).to(device)


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall seconds of one call, the device waited for."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(batched: Callable[[], object], looped: Callable[[], object], device: str) -> dict[str, float]:
    """Median milliseconds of both, measured in turn."""
    pairs = [(seconds(batched, device), seconds(looped, device)) for _ in range(REPEATS + 2)][2:]
    batched_ms = 1e3 * statistics.median(pair[0] for pair in pairs)
    loop_ms = 1e3 * statistics.median(pair[1] for pair in pairs)
    return {"batched_ms": batched_ms, "loop_ms": loop_ms, "ratio": loop_ms / batched_ms}


def invert(stack: Tensor) -> object:
    """All of a stack at once."""
    return damped_inverse(stack, torch.full(stack.shape[:1], 1e-3, dtype=stack.dtype, device=stack.device))


def one_by_one(work: Callable[[Tensor], object], stack: Tensor) -> list[object]:
    """The same in a loop."""
    return [work(one[None]) for one in stack]


def main() -> None:
    """Both ways over several ranks."""
    parser = argparse.ArgumentParser(description="Batched against looped algebra in rank space.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ranks", nargs="+", type=int, default=list(RANKS))
    options = parser.parse_args()
    device = options.device
    torch.set_num_threads(1)
    measured = {}
    for rank in options.ranks:
        wide, narrow = factors(rank, device, torch.float64), factors(rank, device, torch.float32)
        measured[rank] = {
            "inversion": compare(partial(invert, wide), partial(one_by_one, invert, wide), device),
            "eigendecomposition": compare(
                partial(spectrum, narrow), partial(one_by_one, spectrum, narrow), device
            ),
        }
        for name, row in measured[rank].items():
            ms = f"batched {row['batched_ms']:8.2f} ms, loop {row['loop_ms']:8.2f} ms"
            print(f"r = {rank:2d} {name:18s} {ms}, ratio {row['ratio']:.1f}", flush=True)
    print(
        json.dumps(
            {
                "benchmark": "rank_space_linalg",
                "device": device,
                "modules": MODULES,
                "threads": 1,
                "ranks": measured,
            }
        )
    )


if __name__ == "__main__":
    main()
