"""The public cell of PEFT's own method comparison: MetaMathQA to GSM8K on Llama-3.2-3B.

Source: huggingface/peft, method_comparison/MetaMathQA (`default_training_params.json`, `run.py`, and the
experiment `lora/llama-3.2-3B-rank32`), of August 2026.
"""

from __future__ import annotations

from grit.config.registry import Method
from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.errors import ConfigError
from grit.presets.paper import PAPER_TASKS, long_run_schedule

PEFT_METAMATH = "peft-metamath"
#: The one task of the comparison.
TASK = "metamathqa"

#: Where the preset is not what their run does: (setting, theirs, here, why).
PEFT_DEPARTURES: tuple[tuple[str, str, str, str], ...] = (
    ("seed", "0", "41, 42, 43", "one seed tells no spread; --seeds 0 is theirs"),
    (
        "order of examples",
        "of the dataset, in buckets of 80 by length",
        "drawn from the seed",
        "a seed that changes the initialization alone would call every setting steady",
    ),
    (
        "loss of a batch",
        "sum over labels / real tokens",
        "mean over labels",
        "theirs is smaller by the first token of each sequence, which has no label",
    ),
    (
        "end of text",
        "not learned by the longest row of a batch",
        "learned by every row",
        "theirs calls it a flaw of their own loop",
    ),
    (
        "general text",
        "first 100 of HuggingFaceFW/finewiki",
        "the user's --retention-file",
        "streamed there; the same 100 as a file make the two comparable",
    ),
    (
        "long generations",
        "at most 300 tokens, 800 with the prompt",
        "at most 300 tokens",
        "no GSM8K question is longer than 500 tokens",
    ),
    ("validation", "50 of GSM8K's training split, every 250 steps", "none", "it decides nothing there"),
    ("threads, workers", "one process", "--workers", "step-matched results do not depend on it on a GPU"),
)


def peft_metamath(method: Method, task: str | None, steps: int | None) -> RunConfig:
    """Their settings of LoRA at rank 32; GRIT's own are the paper's for GSM8K on the same model.

    Raises:
        ConfigError: another task than theirs.
    """
    if task not in (None, TASK):
        raise ConfigError("task", task, f"must be {TASK} with preset {PEFT_METAMATH}")
    count = steps or 5000
    return RunConfig.of(
        model="meta-llama/Llama-3.2-3B",
        method=method,
        task=TaskSource(name=TASK),
        budget=Budget(regime="step", amount=count),
        rank=32,
        alpha=64.0,
        dropout=0.0,
        targets=("q_proj", "v_proj"),
        dtype="bfloat16",
        learning_rate=1e-4,
        weight_decay=0.1,
        warmup_fraction=0.1,
        max_grad_norm=1.0,
        micro_batch=4,
        accumulation=1,
        max_length=768,
        loss_on="text",
        seed=0,
        eval_examples=1319,
        eval_batch=50,
        max_new_tokens=300,
        retention_documents=100,
        checkpoint_steps=250,
        threads=4,
        grit=long_run_schedule(PAPER_TASKS["gsm8k"], count),
    )
