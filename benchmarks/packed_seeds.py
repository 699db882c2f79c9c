"""Several seeds of one setting in one process on one frozen backbone, beside each of them alone.

Every adapted layer computes the frozen weight's product once, over the joint batch, and each seed's own A and
B on its rows. Packed and alone take steps in turn, on one thread, with the same examples.

    python benchmarks/packed_seeds.py [--model embedded] [--data ../shared/data] [--seeds 3] [--steps 12]

Ends in one line of JSON. `speedup` is alone / packed in CPU seconds for all seeds' steps, without the first;
`update_difference` is the largest difference of a trained factor between the two ways in the end.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from evaluation import task_in
from torch import Tensor, nn
from tqdm import tqdm

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers
from grit.config.run_config import RunConfig
from grit.config.sections import Budget
from grit.data.encode import IGNORED_LABEL, TrainingOrder, collate
from grit.methods.lora import add_lora
from grit.training.workbench import Workbench


def configuration(options: argparse.Namespace) -> RunConfig:
    """Plain LoRA without dropout, so that both ways can be compared number by number."""
    return RunConfig.of(
        method="lora",
        budget=Budget(regime="step", amount=options.steps),
        task=task_in(options.data),
        model=options.model,
        rank=16,
        alpha=32.0,
        dropout=0.0,
        micro_batch=options.micro_batch,
        accumulation=1,
        max_length=512,
        learning_rate=5e-4,
    )


class PackedLayer(nn.Module):
    """A frozen layer with the low-rank parts of several seeds, each for its share of the joint batch."""

    def __init__(self, base: nn.Module, parts: list[AdaptedLayer]) -> None:
        super().__init__()
        self._base = base
        self._parts = parts  # their parameters are the seeds' own models'

    def forward(self, inputs: Tensor) -> Tensor:
        """(seeds * batch, length, d_out), seed after seed."""
        shares = zip(self._parts, inputs.chunk(len(self._parts)), strict=True)
        own = [layer.scaling * layer.up(layer.down(rows)) for layer, rows in shares]
        output: Tensor = self._base(inputs) + torch.cat(own)
        return output


class Seed:
    """One seed's adapter and optimizer."""

    def __init__(self, config: RunConfig, bench: Workbench, ranks: dict[str, int], seed: int) -> None:
        scaling = config.adapter.alpha / config.adapter.rank
        backbone = bench.sibling().backbone(config)
        self.model: Any = add_lora(backbone, ranks=ranks, scaling=scaling, dropout=0.0, seed=seed)
        self.layers = adapted_layers(self.model.train())
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=config.optimization.learning_rate
        )
        self.order = TrainingOrder(len(bench.packs(config)), seed)

    def factors(self) -> list[Tensor]:
        """A and B of every layer."""
        return [weight.detach() for layer in self.layers for weight in (layer.down.weight, layer.up.weight)]


class Packed:
    """All seeds' steps at once."""

    def __init__(self, config: RunConfig, bench: Workbench, seeds: list[Seed]) -> None:
        self.seeds, self.backbone = seeds, bench.sibling().backbone(config)
        for number, layer in enumerate(seeds[0].layers):
            parent, _, name = layer.path.rpartition(".")
            base = self.backbone.get_submodule(layer.path)
            parts = [seed.layers[number] for seed in seeds]
            setattr(self.backbone.get_submodule(parent), name, PackedLayer(base, parts))

    def step(self, batch: dict[str, Tensor], labels: list[int]) -> None:
        """One step of every seed: each seed's loss is the mean over its own labels."""
        tokens, answers = batch["input_ids"], batch["labels"][:, 1:]
        logits = self.backbone(input_ids=tokens, attention_mask=batch["attention_mask"]).logits[:, :-1]
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), answers.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
        )
        shares = losses.view(len(tokens), -1).sum(1).chunk(len(self.seeds))
        total = sum(share.sum() / count for share, count in zip(shares, labels, strict=True))
        assert isinstance(total, Tensor)
        total.backward()
        for seed in self.seeds:
            seed.optimizer.step()
            seed.optimizer.zero_grad(set_to_none=True)


def alone(seed: Seed, batch: dict[str, Tensor], labels: int) -> None:
    """One step of one seed."""
    logits = seed.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    answers = batch["labels"][:, 1:].flatten()
    loss = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), answers, ignore_index=IGNORED_LABEL, reduction="sum"
    )
    (loss / labels).backward()
    seed.optimizer.step()
    seed.optimizer.zero_grad(set_to_none=True)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both ways in turn."""
    config, bench = configuration(options), Workbench()
    packs, size = bench.packs(config), config.optimization.micro_batch
    pad = bench.tokenizer(config).pad_token_id
    model = bench.adapted(config)
    ranks = {layer.path: layer.rank for layer in adapted_layers(model)}
    bench.release(model)
    numbers = range(41, 41 + options.seeds)
    lone, joint = ([Seed(config, bench, ranks, seed) for seed in numbers] for _ in range(2))
    packed = Packed(config, bench, joint)
    seconds: dict[str, list[float]] = {"alone": [], "packed": []}
    for step in tqdm(range(options.steps), disable=None):
        chosen = [[packs[i][0] for i in seed.order.step(step, size)] for seed in lone]
        whole = collate(list(chain.from_iterable(chosen)), pad)
        parts = [collate(rows, pad) for rows in chosen]
        counts = [int((part["labels"][:, 1:] != IGNORED_LABEL).sum()) for part in parts]
        began = time.process_time()
        for seed, part, count in zip(lone, parts, counts, strict=True):
            alone(seed, part, count)
        between = time.process_time()
        packed.step(whole, counts)
        seconds["alone"].append(between - began)
        seconds["packed"].append(time.process_time() - between)
    pairs = chain.from_iterable(
        zip(one.factors(), two.factors(), strict=True) for one, two in zip(lone, joint, strict=True)
    )
    return {
        "seeds": options.seeds,
        "speedup": round(sum(seconds["alone"][1:]) / sum(seconds["packed"][1:]), 3),
        "update_difference": max(float((one - two).abs().max()) for one, two in pairs),
    }


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--micro-batch", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        json.dumps(
            {
                "benchmark": "packed_seeds",
                "model": options.model,
                "rows": options.micro_batch,
                **compare(options),
            }
        )
    )


if __name__ == "__main__":
    main()
