"""What the evaluations of one run take, beside what they took when every one generated all texts.

A short run is trained first, so that answers have their usual lengths; then, in one process, on one thread:

- before: all logits of 64 rows at a time, a mask, the adapter beside the weights; texts by the library's own
  loop, which goes on until the last row of a batch has ended; at every evaluation;
- now (grit/evaluation): logits at labels, no more tokens at a time than the caches hold, the adapter in the
  weights, rows that have ended leave their batch; texts at the last evaluation alone, the others being by
  likelihood.

    python benchmarks/evaluation.py [--model ../shared/backbone] [--data ../shared/data] [--examples 128]

Ends in one line of JSON. `one` compares an evaluation with texts, `run` all evaluations of a run (those on
the way and the last; the untuned model's are shared by a study), both in CPU seconds; `same_texts` is the
share of texts that are equal, `score` the metric by both, and `loss_difference` the largest between an
answer's losses, in nats per token.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.data.encode import IGNORED_LABEL, Encoded, collate, encode, encode_documents, prompt_tokens
from grit.training.run import Run
from grit.training.workbench import Workbench

Returned = TypeVar("Returned")


def task_in(data: Path | None) -> TaskSource:
    """GSM8K from the files in a folder; without one the embedded task."""
    if data is None:
        return TaskSource(name="arithmetic")
    train, test, text = (
        str(data / f"{name}.jsonl") for name in ("gsm8k_train", "gsm8k_test", "general_text_heldout")
    )
    return TaskSource(name="gsm8k", train_file=train, eval_file=test, retention_file=text)


def configuration(options: argparse.Namespace) -> RunConfig:
    """GSM8K with the task's own metric, or the embedded task."""
    return RunConfig.of(
        method="lora",
        budget=Budget(regime="step", amount=options.steps),
        task=task_in(options.data),
        model=options.model,
        rank=16,
        alpha=32.0,
        micro_batch=8,
        max_length=512,
        learning_rate=2e-3,
        evaluations=options.evaluations,
        eval_examples=options.examples,
        retention_documents=24,
    )


def timed(work: Callable[[], Returned]) -> tuple[Returned, float]:
    """What it returns, and its CPU seconds."""
    began = time.process_time()
    outcome = work()
    return outcome, time.process_time() - began


@torch.inference_mode()
def texts_before(model: Any, config: RunConfig, bench: Workbench) -> list[str]:
    """As transformers generates them: greedily, a batch of similar lengths at a time."""
    tokenizer, task = bench.tokenizer(config), bench.task(config)
    longest = config.optimization.max_length
    prompts = [prompt_tokens(tokenizer, e.prompt)[-longest:] for e in bench.eval_examples(config)]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=task.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts, size = [""] * len(prompts), config.evaluation.eval_batch
    for start in range(0, len(order), size):
        part = order[start : start + size]
        length = max(len(prompts[i]) for i in part)
        gaps = [length - len(prompts[i]) for i in part]
        rows = zip(part, gaps, strict=True)
        ids = torch.tensor([[tokenizer.pad_token_id] * gap + prompts[i] for i, gap in rows])
        mask = torch.tensor([[0] * gap + [1] * (length - gap) for gap in gaps])
        made = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        for i, row in zip(part, made[:, length:], strict=True):
            texts[i] = str(tokenizer.decode(row, skip_special_tokens=True))
    return texts


@torch.inference_mode()
def losses_before(model: Any, rows: Sequence[Encoded], config: RunConfig, bench: Workbench) -> list[float]:
    """Nats per token of each row, from the logits of every position."""
    losses, size = [0.0] * len(rows), config.evaluation.eval_batch
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    for start in range(0, len(order), size):
        part = order[start : start + size]
        batch = collate([rows[i] for i in part], bench.tokenizer(config).pad_token_id)
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1]
        for i, row, label in zip(part, logits, labels, strict=True):
            scored = label != IGNORED_LABEL
            losses[i] = float(cross_entropy(row[scored].float(), label[scored]))
    return losses


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both ways on one trained model."""
    config, bench = configuration(options), Workbench()
    run = Run(config, bench, bench.adapted(config), checkpoints=None)
    while not run.spent():
        run.take_step()
    model, tokenizer = run.state.model.eval(), bench.tokenizer(config)
    examples, task, length = bench.eval_examples(config), bench.task(config), config.optimization.max_length
    answers = [encode(tokenizer, e.prompt, e.answer, length) for e in examples]
    documents = encode_documents(tokenizer, bench.documents(config), length)
    bench.score(model, config, "answer_logprob")  # whatever is done once is done
    losses, likelihood_before = timed(lambda: losses_before(model, answers, config, bench))
    _, documents_before = timed(lambda: losses_before(model, documents, config, bench))
    texts, texts_seconds = timed(lambda: texts_before(model, config, bench))
    scores, one_now = timed(lambda: bench.score(model, config, "primary"))
    _, likelihood_now = timed(lambda: bench.score(model, config, "answer_logprob"))
    one_before = likelihood_before + documents_before + texts_seconds
    run_before = options.evaluations * one_before
    run_now = one_now + (options.evaluations - 1) * likelihood_now
    pairs = list(zip(texts, losses, examples, scores.predictions, strict=True))
    before = [task.score(text, example) for text, _, example, _ in pairs]
    return {
        "examples": len(pairs),
        "evaluations": options.evaluations,
        "one": {"before": one_before, "now": one_now, "ratio": one_before / one_now},
        "run": {"before": run_before, "now": run_now, "ratio": run_before / run_now},
        "same_texts": fmean(text == now.prediction for text, _, _, now in pairs),
        "score": {"before": fmean(before), "now": fmean(now.score or 0.0 for *_, now in pairs)},
        "loss_difference": max(abs(loss - now.answer_loss) for _, loss, _, now in pairs),
    }


def main() -> None:
    """Measures, and prints a sentence and a line of JSON."""
    shared = Path(__file__).resolve().parents[2] / "shared"
    parser = argparse.ArgumentParser(description="What the evaluations of a run take.")
    parser.add_argument("--model", help="../shared/backbone where it exists, else the embedded one")
    data_help = "folder with GSM8K's rows and general text; ../shared/data where it exists"
    parser.add_argument("--data", type=Path, help=data_help)
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--evaluations", type=int, default=4, help="of a run, the last included")
    parser.add_argument("--steps", type=int, default=60, help="of training, before anything is measured")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.model is None:
        options.model = str(shared / "backbone") if shared.is_dir() else "embedded"
    if options.data is None and options.model != "embedded" and shared.is_dir():
        options.data = shared / "data"
    measured = measure(options)
    for what in ("one", "run"):
        values = measured[what]
        print(
            f"{what}: {values['before']:.1f} s before, {values['now']:.1f} s now: {values['ratio']:.2f} times"
        )
    print(json.dumps({"benchmark": "evaluation", "model": Path(options.model).name, **measured}))


if __name__ == "__main__":
    main()
