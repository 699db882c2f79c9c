"""The rows of `predictions`: examples, held-out documents and probes, the untuned model's values beside.

And their short form.
"""

from __future__ import annotations

from grit.config.sections import QualityMetric
from grit.evaluation.scores import DocumentLoss, Prediction, ProbeAnswer, Scores, example_quality
from grit.io.files import Row


def task_row(after: Prediction, before: Prediction) -> Row:
    """One evaluated example (kind `task`)."""
    return {
        "kind": "task",
        "example_id": after.example_id,
        "prediction": after.prediction,
        "reference": after.reference,
        "score": after.score,
        "base_score": before.score,
        "loss": after.answer_loss,
        "base_loss": before.answer_loss,
        "tokens": after.answer_tokens,
    }


def document_row(after: DocumentLoss, before: DocumentLoss) -> Row:
    """One held-out document (kind `retention`)."""
    return {
        "kind": "retention",
        "example_id": after.document_id,
        "prediction": None,
        "reference": None,
        "score": None,
        "base_score": None,
        "loss": after.loss,
        "base_loss": before.loss,
        "tokens": after.tokens,
    }


def probe_row(after: ProbeAnswer, before: ProbeAnswer) -> Row:
    """One item of a zero-shot probe (kind `probe`)."""
    return {
        "kind": "probe",
        "example_id": after.item,
        "prediction": None,
        "reference": None,
        "score": after.correct,
        "base_score": before.correct,
        "loss": None,
        "base_loss": None,
        "tokens": None,
    }


def score_rows(scores: Scores, base: Scores) -> list[Row]:
    """All of them; further metrics that have a value for one example are columns of their own."""
    examples = zip(scores.predictions, base.predictions, strict=True)
    rows = [task_row(after, before) for after, before in examples]
    for name, metric in scores.measured.items():
        if metric.per_example is not None:
            untuned = base.measured[name].per_example or ()
            for row, value, before_value in zip(rows, metric.per_example, untuned, strict=True):
                row[name], row[f"base_{name}"] = value, before_value
    for name, answers in scores.probes.items():
        pairs = zip(answers, base.probes[name], strict=True)
        rows += [probe_row(after, before) for after, before in pairs]
    documents = zip(scores.documents, base.documents, strict=True)
    return rows + [document_row(after, before) for after, before in documents]


def short_rows(scores: Scores, base: Scores, quality: QualityMetric) -> list[Row]:
    """One row per example (kind `task`) and per document (kind `retention`).

    An example's value is its quality and its loss its answer's; a document's value is its forgetting.
    """
    rows: list[Row] = [
        {
            "kind": "task",
            "value": example_quality(p, quality),
            "loss": p.answer_loss,
            "tokens": p.answer_tokens,
        }
        for p in scores.predictions
    ]
    rows += [
        {"kind": "retention", "value": after.loss - before.loss, "loss": after.loss, "tokens": after.tokens}
        for after, before in zip(scores.documents, base.documents, strict=True)
    ]
    return rows
