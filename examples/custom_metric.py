"""A task of your own, scored by a metric of your own.

python examples/custom_metric.py [FOLDER]

In a study, with the files that this leaves in FOLDER:
    export PYTHONPATH=examples GRIT_EXTENSIONS=custom_metric
    python sweeps/tau_T_lambda.py --preset smoke --task custom --template FOLDER/sums.json \
        --train-file FOLDER/train.jsonl --eval-file FOLDER/test.jsonl --retention-file FOLDER/general.txt
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grit.tasks.metrics import METRICS, Computed, MetricInputs, MetricSpec


def last_digit(inputs: MetricInputs) -> Computed:
    """The share of answers whose last digit is right."""
    pairs = zip(inputs.predictions, inputs.references, strict=True)
    scores = [float(_digits(made)[-1:] == _digits(wanted)[-1:]) for made, wanted in pairs]
    return Computed(sum(scores) / len(scores), scores)


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


METRICS["last_digit"] = MetricSpec(label="last digit", compute=last_digit)

#: The task: fields of a row in braces; the first metric needs a value for a single example.
TASK = {
    "prompt": "{question}",
    "answer": "{answer}",
    "metrics": ["exact_match", "last_digit"],
    "max_new_tokens": 16,
}


def write_task(folder: Path) -> list[str]:
    """The files of the task, and the options that name them.

    The rows are those of the embedded task `arithmetic`, which the small model can learn; put your own here.
    """
    from grit.config.sections import TaskSource
    from grit.tasks.loading import load_documents, load_task

    source = TaskSource(name="arithmetic")
    sums = load_task(source)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sums.json").write_text(json.dumps(TASK))
    for name, examples in (("train", sums.train), ("test", sums.evaluation)):
        rows = [{"question": example.prompt, "answer": example.answer} for example in examples]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "general.txt").write_text("\n\n".join(load_documents(source)))
    files = {"train": "train.jsonl", "eval": "test.jsonl", "retention": "general.txt"}
    named = [text for option, name in files.items() for text in (f"--{option}-file", str(folder / name))]
    return ["--task", "custom", "--template", str(folder / "sums.json"), *named]


def main(folder: Path) -> None:
    """Trains on it, and shows answers before and after."""
    from grit.cli.main import main as grit

    task = write_task(folder)
    budget = ["--budget-steps", "80", "--set", "learning_rate=2e-3"]
    grit(["train", *task, "--method", "grit", *budget, "--output", str(folder / "run")])
    grit(["show", str(folder / "run")])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/example_custom_metric"))
