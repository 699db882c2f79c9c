"""Scores a model on fixed examples.

Answer loss by teacher forcing, labels by likelihood, answers by generation, retention by document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from grit.adapters.lean_pass import lean_pass, scored_labels
from grit.config.run_config import RunConfig
from grit.data.encode import IGNORED_LABEL, Encoded, collate, encode, encode_documents, prompt_tokens
from grit.evaluation.generation import Bar, Sampling, generate
from grit.evaluation.scores import DocumentLoss, Measured, Prediction, ProbeAnswer
from grit.tasks.base import Example, Task

#: Opened around long work with (what it is, how many items); gives what is told of every few more.
EvaluationBar = Callable[[str, int], AbstractContextManager[Bar | None]]

#: Tokens of a forward pass on a processor: passes of 64 long rows take 1.7 times as long per token.
CPU_TOKENS = 2048


def token_losses(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed loss (nats) and number of scored tokens of each row, both (batch,)."""
    targets = scored_labels(batch["labels"])
    scored = targets != IGNORED_LABEL
    counts = scored.sum(-1)
    with lean_pass(model, batch) as inputs:
        logits = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).logits
    at_labels = logits[0] if "shift_labels" in inputs else logits[scored]
    # Row by row: a large vocabulary in float32 for a whole batch would be most of a GPU's memory.
    parts = zip(at_labels.split(counts.tolist()), targets[scored].split(counts.tolist()), strict=True)
    return torch.stack([cross_entropy(row.float(), label, reduction="sum") for row, label in parts]), counts


def _score(task: Task, text: str | None, example: Example) -> float | None:
    return None if text is None else task.score(text, example)


class Evaluator:
    """Evaluates one model as `config` says.

    `eval_batch` rows at a time, sorted by length so that little is padded.

    `progress` is opened with (what, how many) around long work, and told how many more are done.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        config: RunConfig,
        *,
        progress: EvaluationBar | None = None,
    ) -> None:
        self._model, self._tokenizer, self._config = model, tokenizer, config
        self._max_length, self._batch_size = config.optimization.max_length, config.evaluation.eval_batch
        self._progress = progress or (lambda _what, _count: nullcontext())

    @torch.inference_mode()
    def losses(self, encoded: Sequence[Encoded]) -> list[tuple[float, int]]:
        """(summed loss in nats, scored tokens) per item, in the given order."""
        losses: list[tuple[float, int]] = [(math.nan, 0)] * len(encoded)
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i].tokens), i))
        for part in self._parts(order, encoded):
            batch = collate([encoded[i] for i in part], self._tokenizer.pad_token_id)
            sums, counts = token_losses(
                self._model, {key: value.to(self._model.device) for key, value in batch.items()}
            )
            for i, total, count in zip(part, sums.tolist(), counts.tolist(), strict=True):
                losses[i] = (total, count)
        return losses

    def _parts(self, order: Sequence[int], encoded: Sequence[Encoded]) -> Iterator[Sequence[int]]:
        """`order`, shortest first, in parts of at most `eval_batch` rows.

        On a processor of no more tokens than its caches hold the activations of, either.
        """
        room = math.inf if self._model.device.type != "cpu" else CPU_TOKENS
        part: list[int] = []
        for i in order:
            length = len(encoded[i].tokens)  # the longest so far: rows are padded to it
            if part and (len(part) == self._batch_size or (len(part) + 1) * length > room):
                yield part
                part = []
            part.append(i)
        if part:
            yield part

    def task(self, task: Task, examples: Sequence[Example], *, predict: bool) -> list[Prediction]:
        """Losses on `examples`, and with `predict` what the model says, scored."""
        answers = self.losses(
            [encode(self._tokenizer, e.prompt, e.answer, self._max_length) for e in examples]
        )
        texts: list[str | None] = [None] * len(examples)
        if predict:
            texts = list(self._predict(task, examples))
        return [
            Prediction(
                example_id=e.example_id,
                prediction=text,
                reference=e.answer,
                score=_score(task, text, e),
                answer_loss=total / count,
                answer_tokens=count,
            )
            for e, text, (total, count) in zip(examples, texts, answers, strict=True)
        ]

    def _predict(self, task: Task, examples: Sequence[Example]) -> list[str]:
        if task.decoding == "choose" and self._config.evaluation.label_scoring == "likelihood":
            return self._choose(examples)
        texts = self._generate(examples, task.max_new_tokens)
        if task.decoding != "choose":
            return texts
        return [named_label(text, e.labels) for text, e in zip(texts, examples, strict=True)]

    def _choose(self, examples: Sequence[Example]) -> list[str]:
        """The label with the highest log-likelihood (its tokens and the end of text, summed)."""
        flat = [(e, label) for e in examples for label in e.labels]
        losses = self.losses(
            [encode(self._tokenizer, e.prompt, label, self._max_length) for e, label in flat]
        )
        best: dict[str, tuple[float, str]] = {}
        for (example, label), (total, _) in zip(flat, losses, strict=True):
            if example.example_id not in best or total < best[example.example_id][0]:
                best[example.example_id] = (total, label)
        return [best[e.example_id][1] for e in examples]

    def _generate(self, examples: Sequence[Example], max_new_tokens: int) -> list[str]:
        """Continuations of the prompts; an over-long one keeps its end."""
        config = self._config
        # One seed of its own: every run, and the untuned model, draws the same noise.
        sampling = Sampling(
            max_new_tokens=config.evaluation.max_new_tokens or max_new_tokens,
            temperature=config.evaluation.temperature,
            top_p=config.evaluation.top_p,
        )
        prompts = [
            prompt_tokens(self._tokenizer, e.prompt)[-config.optimization.max_length :] for e in examples
        ]
        with self._progress("generating", len(examples)) as bar:
            return generate(
                self._model,
                self._tokenizer,
                prompts,
                [e.example_id for e in examples],
                sampling,
                batch_size=config.evaluation.eval_batch,
                bar=bar,
            )

    def measure(self, task: Task, predictions: Sequence[Prediction]) -> dict[str, Measured]:
        """All of the task's metrics beside the primary one."""
        if not task.also or predictions[0].prediction is None:
            return {}
        from grit.evaluation.text_metrics import measure

        return measure(
            task.also,
            [str(p.prediction) for p in predictions],
            [p.reference for p in predictions],
            labels=task.evaluation[0].labels,
            encoder=self._config.evaluation.bertscore_encoder,
        )

    def probes(self) -> dict[str, list[ProbeAnswer]]:
        """Answers to the run's zero-shot probes, by probe."""
        if not self._config.evaluation.probes:
            return {}
        from grit.evaluation.probes import parse, run_probe

        return {
            parse(probe)[0]: run_probe(
                self._model,
                self._tokenizer,
                probe,
                items=self._config.evaluation.probe_examples,
                batch_size=self._config.evaluation.eval_batch,
            )
            for probe in self._config.evaluation.probes
        }

    def documents(self, texts: Sequence[str]) -> list[DocumentLoss]:
        """Loss of each document on its own, every token but the first.

        Over-long ones keep their first `max_length` tokens.
        """
        losses = self.losses(encode_documents(self._tokenizer, texts, self._max_length))
        return [
            DocumentLoss(document_id=str(i), loss=total / max(count, 1), tokens=count)
            for i, (total, count) in enumerate(losses)
        ]


def named_label(text: str, labels: Sequence[str]) -> str:
    """The label whose words a text begins with, whatever its case and what follows; else the empty text.

    No answer (paper A.9).
    """
    answer = text.strip().casefold()
    for label in sorted(labels, key=len, reverse=True):
        word = label.strip().casefold()
        if answer.startswith(word) and not answer[len(word) : len(word) + 1].isalnum():
            return label
    return ""
