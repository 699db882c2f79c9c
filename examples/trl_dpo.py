"""GRIT in TRL's DPOTrainer, whose loss is a mean over pairs (`pip install trl`).

python examples/trl_dpo.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Dataset
from embedded_data import LORA, load_backbone, sums
from trl import DPOConfig, DPOTrainer

from grit import GritCallback


def main(folder: Path) -> None:
    """Trains, and writes a plain PEFT adapter into `folder`/adapter."""
    backbone, tokenizer = load_backbone()
    columns = ("prompt", "chosen", "rejected")
    rows = [{name: row[name] for name in columns} for row in sums(200, seed=0)]
    arguments = DPOConfig(
        output_dir=str(folder),
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=10,
        report_to=[],
        save_strategy="no",
        bf16=False,
        seed=0,
    )
    grit = GritCallback()
    trainer = DPOTrainer(
        model=backbone,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LORA,
        callbacks=[grit],
    )
    grit.watch(trainer, lambda inputs: len(inputs["input_ids"]) // 2)  # a chosen and a rejected answer each
    trainer.train()
    assert grit.handle is not None
    print(grit.handle.summary())
    grit.export(folder / "adapter")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/example_dpo"))
