"""GRIT in TRL's SFTTrainer: the same callback (`pip install trl`).

python examples/trl_sft.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Dataset
from embedded_data import LORA, load_backbone, sums
from trl import SFTConfig, SFTTrainer

from grit import GritCallback


def main(folder: Path) -> None:
    """Trains, and writes a plain PEFT adapter into `folder`/adapter."""
    backbone, tokenizer = load_backbone()
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in sums(200, seed=0)]
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=20,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        logging_steps=10,
        report_to=[],
        save_strategy="no",
        bf16=False,
        seed=0,
    )
    grit = GritCallback()
    trainer = SFTTrainer(
        model=backbone,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LORA,
        callbacks=[grit],
    )
    trainer.train()
    assert grit.handle is not None
    print(grit.handle.summary())
    grit.export(folder / "adapter")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/example_sft"))
