"""One of two data-parallel workers of test_loops: each takes every second micro-batch.

Arguments: the folder for its result.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import tiny_models
from test_loops import ACTIVE

from grit.geometry.attach import attach


def fixture(name):
    """The function that a fixture returns, outside pytest."""
    return getattr(tiny_models, name).__wrapped__()


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model, batches = fixture("tiny_llama")(dropout=0.0), fixture("token_batches")()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0
    )
    handle = attach(model.train(), optimizer, ACTIVE)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    for step in range(4):
        parts = [batches[(2 * step + i) % len(batches)] for i in range(2)]
        items = sum(int((part["labels"][:, 1:] != -100).sum()) for part in parts)
        (
            world * parallel(**parts[rank], num_items_in_batch=items).loss
        ).backward()  # DDP averages over workers
        optimizer.step()
        optimizer.zero_grad()
    weights = {layer.name: (layer.down.weight.detach(), layer.up.weight.detach()) for layer in handle.layers}
    kinds = [event.kind for event in handle.events]
    torch.save(
        {
            "ranks": handle.ranks(),
            "factors": {name: tuple(entry) for name, entry in handle.factors().items()},
            "events": kinds,
            "weights": weights,
        },
        Path(folder) / f"{rank}.pt",
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
