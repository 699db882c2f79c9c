"""GRIT in a loop of your own: attach, train as ever, export.

python examples/plain_loop.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from embedded_data import batch, encoded, load_model, sums

from grit import GritConfig, attach, export_adapter

STEPS = 40


def main(folder: Path) -> None:
    """Trains, and writes a plain PEFT adapter into `folder`."""
    torch.manual_seed(0)
    model, tokenizer = load_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    config = GritConfig.for_steps(STEPS, tau=0.99, max_grad_norm=1.0)
    handle = attach(model, optimizer, config, total_steps=STEPS)
    model.train()
    for step in range(STEPS):
        rows = [encoded(tokenizer, row) for row in sums(8, seed=step)]
        loss = model(**batch(tokenizer, rows)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step}: loss {float(loss.detach()):.3f}")
    print(handle.summary())
    report = export_adapter(model, handle, folder)
    print(f"{report.effective_parameters:,} of {report.parameters:,} parameters are in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/example_plain_loop"))
