"""The field's metrics, each declared once.

How it is computed, how it is called, and what difference in it matters.

A new metric is one declaration in `METRICS` and one function. Functions import their vendors when they are
called: reading the declarations needs none of them. Texts are scored as they are: what an empty or unusable
prediction is worth is upstream's rule (0), never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from grit.tasks.base import Example
from grit.tasks.scoring import exact_match, gsm8k_exact_match, marked_number_match, rouge_l, rouge_values

Texts = Sequence[str]


class Computed(NamedTuple):
    """A metric over all examples, NaN where it is not defined.

    And of single ones, where it has a value there.
    """

    value: float
    per_example: list[float] | None


@dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """What a metric is computed from.

    Attributes:
        labels: of a classification; empty for a task of free text.
        encoder: for BERTScore: a name or a folder.
    """

    predictions: Texts
    references: Texts
    labels: tuple[str, ...] = ()
    encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One metric.

    Attributes:
        label: as tables and axes have it, with the unit where there is one.
        compute: over all examples; None for the likelihood of answers, which needs no prediction.
        single: of one example; a task's first metric needs it. None where there is no such value.
        tolerance: the difference in it that a study is asked to tell, in its units.
        low, high: the range of its values.
        needs_encoder: it cannot be computed without one.
    """

    label: str
    compute: Callable[[MetricInputs], Computed] | None
    single: Callable[[str, Example], float] | None = None
    tolerance: float = 0.02
    low: float = 0.0
    high: float = 1.0
    needs_encoder: bool = False


def _mean(values: Sequence[float]) -> Computed:
    return Computed(math.fsum(values) / len(values), list(values))


def exact_matches(inputs: MetricInputs) -> Computed:
    """Share of predictions that are the reference, white space aside."""
    pairs = zip(inputs.predictions, inputs.references, strict=True)
    return _mean([float(prediction.split() == reference.split()) for prediction, reference in pairs])


def matches(inputs: MetricInputs, *, single: Callable[[str, Example], float]) -> Computed:
    """Share of predictions that are right by a rule for a single one."""
    examples = [Example(example_id="", prompt="", answer=reference) for reference in inputs.references]
    pairs = zip(inputs.predictions, examples, strict=True)
    return _mean([single(prediction, example) for prediction, example in pairs])


def rouge(inputs: MetricInputs, *, kind: str) -> Computed:
    """ROUGE-1, ROUGE-2 or ROUGE-L: F-measure by rouge_score, lower-cased, without stemming.

    The mean over examples.
    """
    return _mean(rouge_values(inputs.predictions, inputs.references, kind))


def bleu(inputs: MetricInputs) -> Computed:
    """Corpus BLEU-4 by sacrebleu (13a tokens, exponential smoothing), divided by 100.

    Single examples by its sentence BLEU.
    """
    import sacrebleu

    pairs = zip(inputs.predictions, inputs.references, strict=True)
    single = [sacrebleu.sentence_bleu(prediction, [reference]).score / 100 for prediction, reference in pairs]
    corpus = sacrebleu.corpus_bleu(list(inputs.predictions), [list(inputs.references)])
    return Computed(corpus.score / 100, single)


def accuracy(inputs: MetricInputs) -> Computed:
    """Share of predictions that are the reference's label, by scikit-learn."""
    from sklearn import metrics

    predicted, true = _stripped(inputs.predictions), _stripped(inputs.references)
    single = [float(p == r) for p, r in zip(predicted, true, strict=True)]
    return Computed(float(metrics.accuracy_score(true, predicted)), single)


def by_label(inputs: MetricInputs, *, kind: str, macro: bool = False) -> Computed:
    """Precision, recall or F1 by scikit-learn: of the first of two labels, and the mean over labels of more.

    `macro` is the mean over labels of two as well, as the paper's Table 1 has it for QNLI.

    Where precision or recall of a label is 0/0, because no prediction (or no reference) has it, the value is
    NaN: not defined; a mean over the other labels would be another metric.
    """
    from sklearn import metrics

    predicted, true = _stripped(inputs.predictions), _stripped(inputs.references)
    labels = _stripped(inputs.labels) or sorted(set(true))
    counted = labels[:1] if len(labels) == 2 and not macro else labels
    score = {"precision": metrics.precision_score, "recall": metrics.recall_score, "f1": metrics.f1_score}[
        kind
    ]
    values = score(true, predicted, labels=counted, average=None, zero_division=math.nan)
    return Computed(float(values.mean()), None)


def bertscore(inputs: MetricInputs) -> Computed:
    """F1 of BERTScore (Zhang et al., 2019), no idf weights, no rescaling; the mean over examples."""
    from grit.tasks.bertscore import bert_scores

    assert inputs.encoder is not None
    return _mean(bert_scores(inputs.predictions, inputs.references, encoder=inputs.encoder))


def _stripped(texts: Texts) -> list[str]:
    return [text.strip() for text in texts]


#: Every metric there is, by name.
METRICS: dict[str, MetricSpec] = {
    "exact_match": MetricSpec(label="exact match", compute=exact_matches, single=exact_match),
    "gsm8k_exact_match": MetricSpec(
        label="exact match", compute=partial(matches, single=gsm8k_exact_match), single=gsm8k_exact_match
    ),
    "marked_number_match": MetricSpec(
        label="accuracy", compute=partial(matches, single=marked_number_match), single=marked_number_match
    ),
    "accuracy": MetricSpec(label="accuracy", compute=accuracy, single=exact_match),
    "precision": MetricSpec(label="precision", compute=partial(by_label, kind="precision")),
    "recall": MetricSpec(label="recall", compute=partial(by_label, kind="recall")),
    "f1": MetricSpec(label="F1", compute=partial(by_label, kind="f1")),
    "precision_macro": MetricSpec(
        label="precision (macro)", compute=partial(by_label, kind="precision", macro=True)
    ),
    "recall_macro": MetricSpec(label="recall (macro)", compute=partial(by_label, kind="recall", macro=True)),
    "f1_macro": MetricSpec(label="F1 (macro)", compute=partial(by_label, kind="f1", macro=True)),
    "rouge1": MetricSpec(label="ROUGE-1", compute=partial(rouge, kind="rouge1"), tolerance=0.01),
    "rouge2": MetricSpec(label="ROUGE-2", compute=partial(rouge, kind="rouge2"), tolerance=0.01),
    "rougeL": MetricSpec(
        label="ROUGE-L", compute=partial(rouge, kind="rougeL"), single=rouge_l, tolerance=0.01
    ),
    "bleu": MetricSpec(label="BLEU", compute=bleu, tolerance=0.01),
    "bertscore": MetricSpec(label="BERTScore", compute=bertscore, tolerance=0.01, needs_encoder=True),
    "answer_logprob": MetricSpec(
        label="log-likelihood (nats/token)", compute=None, tolerance=0.05, low=-math.inf, high=0.0
    ),
}


def predicted_metrics() -> tuple[str, ...]:
    """Those that are computed of predictions."""
    return tuple(name for name, spec in METRICS.items() if spec.compute is not None)


def metric_label(name: str) -> str:
    """How a metric is called; one that is not declared by its name (a record of another version)."""
    return METRICS[name].label if name in METRICS else name


def tolerance_of(name: str) -> float:
    """The difference in a metric that a study is asked to tell."""
    return METRICS[name].tolerance if name in METRICS else MetricSpec(label=name, compute=None).tolerance


def is_share(name: str) -> bool:
    """Whether a metric's values are shares, between 0 and 1."""
    return name in METRICS and (METRICS[name].low, METRICS[name].high) == (0.0, 1.0)
