"""GRIT with Accelerate: attach before `prepare`, and let GRIT clip.

python examples/accelerate_loop.py [FOLDER]
accelerate launch --num_processes 2 --cpu examples/accelerate_loop.py    # statistics are summed over workers
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from embedded_data import batch, encoded, load_model, sums
from torch.utils.data import DataLoader

from grit import GritConfig, attach, export_adapter

STEPS, ACCUMULATION = 20, 2


def main(folder: Path) -> None:
    """Trains, and writes a plain PEFT adapter into `folder`."""
    set_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATION)
    model, tokenizer = load_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    handle = attach(model, optimizer, GritConfig.for_steps(STEPS, max_grad_norm=1.0), total_steps=STEPS)
    rows = [encoded(tokenizer, row) for row in sums(8 * STEPS * ACCUMULATION, seed=0)]
    loader = DataLoader(rows, batch_size=8, shuffle=True, collate_fn=lambda part: batch(tokenizer, part))
    prepared, wrapped, loader = accelerator.prepare(model, optimizer, loader)
    prepared.train()
    for part in loader:
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(**part).loss)
            wrapped.step()
            wrapped.zero_grad()
    accelerator.print(handle.summary())
    if accelerator.is_main_process:
        export_adapter(model, handle, folder)
        accelerator.print(f"written: {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/example_accelerate"))
