"""What a training step saves by leaving out what no label needs (grit/adapters/lean_pass.py).

The same examples are trained on in both ways, step by step in turn, in one process and on one thread:

- full: examples as they come, padded to the longest of their micro-batch, a mask, all logits;
- lean: as the trainer does it: micro-batches of similar length, logits at labels, no mask.

    python benchmarks/training_speed.py [--model ../shared/backbone] [--data ../shared/data] [--steps 12]

Ends in one line of JSON. `speedup` is full / lean in CPU seconds, without the first step; `loss_difference`
is the largest, in nats per token, between the two ways at one step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from evaluation import task_in
from tqdm import tqdm

from grit.adapters.lean_pass import lean_pass
from grit.config.registry import Method
from grit.config.run_config import RunConfig
from grit.config.sections import Budget
from grit.data.encode import TrainingOrder, micro_batches
from grit.training.run import RunState
from grit.training.workbench import Workbench

METHODS: tuple[Method, ...] = ("lora", "grit")
WAYS = ("full", "lean")


def configuration(options: argparse.Namespace, method: Method) -> RunConfig:
    """Micro-batches of four, four of them a step, dropout as in fine-tuning."""
    return RunConfig.of(
        method=method,
        budget=Budget(regime="step", amount=options.steps),
        task=task_in(options.data),
        model=options.model,
        rank=16,
        alpha=32.0,
        dropout=options.dropout,
        micro_batch=4,
        accumulation=4,
        max_length=512,
        learning_rate=2e-4,
        reprojection_freq=50,
    )


class Contestant:
    """One run in training, in one of the two ways, with the CPU seconds of its steps."""

    def __init__(self, config: RunConfig, way: str, bench: Workbench) -> None:
        self.config, self.way, self.bench = config, way, bench
        self.state = RunState(config, bench, bench.adapted(config))
        self.state.model.train()
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._packs = bench.packs(config)
        self._order = TrainingOrder(len(self._packs), config.seed)
        self._pad = bench.tokenizer(config).pad_token_id

    def step(self) -> None:
        """Trains one step, and times it."""
        number = len(self.losses)
        packs = [self._packs[i] for i in self._order.step(number, self.config.step_sequences)]
        rows = [row for members in packs for row in members]
        count = sum(row.labels for row in rows)
        began = time.process_time()
        if self.way == "lean":
            batches = self.bench.micro_batches(self.config, packs)
        else:
            batches = micro_batches(rows, self.config.optimization.micro_batch, self._pad, self.bench.device)
        loss = 0.0
        for part, batch in enumerate(batches):
            torch.manual_seed(1000 * number + part)
            loss += self._backward(batch, count)
        if self.state.handle is None:
            self.state.guard()
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.process_time() - began)
        self.losses.append(loss)

    def _backward(self, batch: dict[str, torch.Tensor], count: int) -> float:
        model = self.state.model
        lean = lean_pass(model, batch) if self.way == "lean" else nullcontext(batch)
        with lean as inputs:
            loss = model(**inputs, num_items_in_batch=count, use_cache=False).loss
        loss.backward()
        return float(loss.detach())


def compare(options: argparse.Namespace, method: Method) -> dict[str, Any]:
    """Both ways in turn."""
    config, bench = configuration(options, method), Workbench()
    benches = {"full": bench, "lean": bench.sibling()}
    runs = {way: Contestant(config, way, benches[way]) for way in WAYS}
    for number in tqdm(range(options.steps), desc=method, disable=not sys.stderr.isatty()):
        for way in WAYS if number % 2 else reversed(WAYS):
            runs[way].step()
    spent = {way: sum(run.seconds[1:]) for way, run in runs.items()}
    pairs = zip(runs["full"].losses, runs["lean"].losses, strict=True)
    return {
        "speedup": spent["full"] / spent["lean"],
        "seconds_per_step": {way: total / (options.steps - 1) for way, total in spent.items()},
        "loss_difference": max(abs(full - lean) for full, lean in pairs),
    }


def main() -> None:
    """Measures, and prints a table and a line of JSON."""
    shared = Path(__file__).resolve().parents[2] / "shared"
    parser = argparse.ArgumentParser(description="What a step saves by leaving out what no label needs.")
    parser.add_argument("--model", help="../shared/backbone where it exists, else the embedded one")
    data_help = "folder with GSM8K's rows and general text; ../shared/data where it exists"
    parser.add_argument("--data", type=Path, help=data_help)
    parser.add_argument("--steps", type=int, default=12, help="of each way and method; at least 2")
    parser.add_argument("--dropout", type=float, default=0.0, help="on the adapters' inputs")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.model is None:
        options.model = str(shared / "backbone") if shared.is_dir() else "embedded"
    if options.data is None and options.model != "embedded" and shared.is_dir():
        options.data = shared / "data"
    measured = {method: compare(options, method) for method in METHODS}
    for method, values in measured.items():
        print(
            f"{method}: {values['speedup']:.2f} times as fast, losses within {values['loss_difference']:.1e}"
        )
    print(json.dumps({"benchmark": "training_speed", "model": Path(options.model).name, **measured}))


if __name__ == "__main__":
    main()
