"""The field's metrics as `evaluate.Metric` classes that need no network.

The only importer of rouge_score, sacrebleu and scikit-learn.

Each returns the value over all examples, as its upstream library defines it, and the values of single
examples where it has them. Texts are
scored as they are: what an empty or unusable prediction is worth is upstream's rule (0), never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate

from grit.errors import ConfigError
from grit.evaluation.scores import Measured
from grit.tasks.base import Example
from grit.tasks.scoring import gsm8k_exact_match, rouge_values

Texts = Sequence[str]


class TextMetric(evaluate.Metric):  # type: ignore[misc]
    """What all of them share: predictions and references are texts.

    `_compute` returns {"value", "per_example"}.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(keep_in_memory=True)
        self._settings = settings

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        raise TypeError("a metric defines this")


class Rouge(TextMetric):
    """ROUGE-1, ROUGE-2 or ROUGE-L (`kind`): F-measure by rouge_score, lower-cased, without stemming.

    The mean over examples.
    """

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        values = rouge_values(predictions, references, self._settings["kind"])
        return {"value": math.fsum(values) / len(values), "per_example": values}


class Bleu(TextMetric):
    """Corpus BLEU-4 by sacrebleu (13a tokens, exponential smoothing), divided by 100.

    Single examples by its sentence BLEU.
    """

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        import sacrebleu

        single = [
            sacrebleu.sentence_bleu(p, [r]).score / 100 for p, r in zip(predictions, references, strict=True)
        ]
        return {"value": sacrebleu.corpus_bleu(predictions, [references]).score / 100, "per_example": single}


class ExactMatch(TextMetric):
    """Share of predictions that are the reference, white space aside."""

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        values = [float(p.split() == r.split()) for p, r in zip(predictions, references, strict=True)]
        return {"value": math.fsum(values) / len(values), "per_example": values}


class Gsm8kExactMatch(TextMetric):
    """Share of predictions whose final number is the reference's, under GSM8K's own normalization."""

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        values = [
            gsm8k_exact_match(p, Example(example_id="", prompt="", answer=r))
            for p, r in zip(predictions, references, strict=True)
        ]
        return {"value": math.fsum(values) / len(values), "per_example": values}


class Classification(TextMetric):
    """Accuracy, precision, recall or F1 (`kind`) by scikit-learn.

    Of the first of two `labels`, and the mean over labels of more.

    Where precision or recall of a label is 0/0, because no prediction (or no reference) has it, the value is
    None: not defined.
    """

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        from sklearn import metrics

        said, true = [p.strip() for p in predictions], [r.strip() for r in references]
        if self._settings["kind"] == "accuracy":
            return {
                "value": float(metrics.accuracy_score(true, said)),
                "per_example": [float(p == r) for p, r in zip(said, true, strict=True)],
            }
        labels = [label.strip() for label in self._settings["labels"]] or sorted(set(true))
        score = getattr(metrics, f"{self._settings['kind']}_score")
        values = score(
            true,
            said,
            labels=labels[:1] if len(labels) == 2 else labels,
            average=None,
            zero_division=math.nan,
        )
        return {
            "value": float(values.mean()),
            "per_example": None,
        }  # NaN if any label's is: a mean over the others would be another metric


class BertScore(TextMetric):
    """F1 of BERTScore (Zhang et al., 2019), no idf weights, no rescaling; the mean over examples.

    `encoder`: a name or a folder.
    """

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        from grit.evaluation.bertscore import bert_scores

        values = bert_scores(predictions, references, encoder=self._settings["encoder"])
        return {"value": math.fsum(values) / len(values), "per_example": values}


_CLASSES: dict[str, Callable[..., TextMetric]] = {
    "exact_match": ExactMatch,
    "gsm8k_exact_match": Gsm8kExactMatch,
    "bleu": Bleu,
    "bertscore": BertScore,
    **{kind: Rouge for kind in ("rouge1", "rouge2", "rougeL")},
    **{kind: Classification for kind in ("accuracy", "precision", "recall", "f1")},
}


def metric(name: str, *, labels: tuple[str, ...] = (), encoder: str | None = None) -> TextMetric:
    """The metric called `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _CLASSES:
        raise ConfigError("metric", name, f"must be one of {', '.join(_CLASSES)}")
    return _CLASSES[name](kind=name, labels=labels, encoder=encoder)


def measure(
    names: Texts,
    predictions: Texts,
    references: Texts,
    *,
    labels: tuple[str, ...] = (),
    encoder: str | None = None,
) -> dict[str, Measured]:
    """Each metric on these texts. One that cannot be computed says why, and nothing takes its place."""
    found = {}
    for name in names:
        if name == "bertscore" and encoder is None:
            found[name] = Measured(
                value=None,
                problem="needs an encoder: set bertscore_encoder to a folder, or to the paper's "
                "roberta-large",
            )
            continue
        try:
            result = metric(name, labels=labels, encoder=encoder).compute(
                predictions=list(predictions), references=list(references)
            )
        except ConfigError as error:
            found[name] = Measured(value=None, problem=str(error))
            continue
        assert result is not None
        value, each = float(result["value"]), result["per_example"]
        if math.isfinite(value):
            found[name] = Measured(value=value, per_example=None if each is None else tuple(each))
        else:
            found[name] = Measured(
                value=None,
                problem="is not defined here: no prediction or no reference has a label that counts",
            )
    return found
