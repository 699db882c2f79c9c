"""GRIT in `transformers.Trainer`: one callback. It resumes, loads the best checkpoint, clips, and exports.

python examples/huggingface_trainer.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from embedded_data import batch, encoded, load_model, sums
from transformers import Trainer, TrainingArguments

from grit import GritCallback


def main(folder: Path) -> None:
    """Trains, and writes a plain PEFT adapter into `folder`/adapter."""
    model, tokenizer = load_model()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=40,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=10,
        save_strategy="steps",
        save_steps=10,
        save_total_limit=2,
        load_best_model_at_end=True,
        logging_steps=10,
        report_to=[],
        seed=0,
    )
    grit = GritCallback()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[encoded(tokenizer, row) for row in sums(400, seed=0)],
        eval_dataset=[encoded(tokenizer, row) for row in sums(40, seed=1)],
        data_collator=lambda rows: batch(tokenizer, rows),
        callbacks=[grit],
    )
    trainer.train()
    assert grit.handle is not None
    print(grit.handle.summary())
    report = grit.export(folder / "adapter")
    print(f"{report.effective_parameters:,} of {report.parameters:,} parameters are in {folder / 'adapter'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/example_trainer"))
