"""How one prediction is scored against its reference; the only importer of rouge_score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from grit.tasks.base import Example


def exact_match(prediction: str, example: Example) -> float:
    """1 when prediction and reference are the same words, whatever the white space around them, else 0."""
    return float(prediction.split() == example.answer.split())


def gsm8k_answer(text: str) -> str | None:
    """The number after the first `#### `, without commas, as GSM8K's own evaluation reads it.

    None when there is none.

    Source: openai/grade-school-math, grade_school_math/dataset.py, extract_answer.
    """
    match = re.search(r"#### (\-?[0-9\.\,]+)", text)
    return match.group(1).strip().replace(",", "") if match else None


def gsm8k_exact_match(prediction: str, example: Example) -> float:
    """1 when the final numbers are equal as texts, else 0; a prediction without a final number is 0."""
    answer = gsm8k_answer(prediction)
    return float(answer is not None and answer == gsm8k_answer(example.answer))


def rouge_l(prediction: str, example: Example) -> float:
    """F-measure of ROUGE-L by rouge_score, without stemming."""
    return rouge_values([prediction], [example.answer], "rougeL")[0]


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind])


def rouge_values(predictions: Sequence[str], references: Sequence[str], kind: str) -> list[float]:
    """F-measure of each prediction under `kind` (rouge1, rouge2, rougeL)."""
    scorer = _rouge_scorer(kind)
    return [
        float(scorer.score(reference, prediction)[kind].fmeasure)
        for prediction, reference in zip(predictions, references, strict=True)
    ]


def final_number(text: str) -> str | None:
    """The number after the last `####`, without commas, or None when there is none."""
    numbers = re.findall(r"####\s*(-?[\d,]+)", text)
    return numbers[-1].replace(",", "") if numbers else None


def number_match(prediction: str, example: Example) -> float:
    """1 when the final number of the prediction equals that of the reference, else 0 (no number is 0)."""
    answer = final_number(prediction)
    return float(answer is not None and answer == final_number(example.answer))
