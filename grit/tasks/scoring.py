"""How one prediction is scored against its reference; the only importer of rouge_score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, DivisionByZero, InvalidOperation
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


#: What introduces a final answer, in the order in which PEFT's comparison looks for it.
_ANSWER_MARKS = (
    "The answer is: ",
    "The answer is ",
    "The final answer is: ",
    "The final answer is ",
    "#### ",
)


def marked_answer(text: str) -> str | None:
    """The text of the last final answer of MetaMathQA or GSM8K; None where nothing introduces one.

    Source: huggingface/peft, method_comparison/MetaMathQA/utils.py, parse_answer.
    """
    stripped = text.strip().rstrip(".!?")
    mark = next((mark for mark in _ANSWER_MARKS if mark in stripped), None)
    if mark is None:
        return None
    after = stripped.rpartition(mark)[2].strip()
    return after.split("\n", 1)[0].strip(" .!?$%")


def as_number(text: str | None) -> float | None:
    """A decimal number or a fraction; None for anything else.

    Source: as `marked_answer`, convert_to_decimal.
    """
    if text is None:
        return None
    numerator, slash, denominator = text.partition("/")
    try:
        value = Decimal(numerator.strip())
        return float(value / Decimal(denominator.strip()) if slash else value)
    except (InvalidOperation, DivisionByZero, ValueError):  # the last for a signalling NaN
        return None


def marked_number_match(prediction: str, example: Example) -> float:
    """1 when the final answers are the same number, or else the same text; no answer is 0.

    Source: as `marked_answer`, get_accuracy.
    """
    predicted, wanted = marked_answer(prediction), marked_answer(example.answer)
    numbers = as_number(predicted), as_number(wanted)
    if None not in numbers:
        return float(numbers[0] == numbers[1])
    return float(predicted is not None and predicted == wanted)


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
