"""The paper's five tasks, PEFT's comparison's, and the user's own, as declarations.

Origin, template, which text is the answer, how it is scored.

Origins, licences and preprocessing stand in DATA_CARDS.md. Every field of a row is normalized
(grit/tasks/text.py) before it enters a template; the answer begins with the white space that separates it
from the prompt, and it alone carries loss.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grit.errors import ConfigError, reason
from grit.io.files import Row
from grit.tasks.base import Decoding, Example
from grit.tasks.metrics import METRICS, predicted_metrics
from grit.tasks.scoring import exact_match, gsm8k_answer, gsm8k_exact_match, marked_number_match, rouge_l


class LeftOutError(ValueError):
    """A row that the task does not use, as published datasets have some: it is left out, and counted."""


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A dataset on the Hugging Face hub, pinned to a commit.

    `evaluation` None: the split does not exist, and examples are held out.
    """

    repository: str
    revision: str
    config: str | None = None
    train: str = "train"
    evaluation: str | None = None


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """How one dataset's rows become examples.

    Attributes:
        fields: names that every row must have; evaluation_fields: those of evaluation, where they differ.
        prompt, answer: from a row to text; ValueError where a row cannot be used.
        metrics: the primary one first. score: its value on one example.
        hub: where it comes from without files; None for a task that only reads files.
        evaluation_hub: where the evaluation split comes from, where that is another dataset.
    """

    fields: tuple[str, ...]
    prompt: Callable[[Row], str]
    answer: Callable[[Row], str]
    metrics: tuple[str, ...]
    decoding: Decoding
    score: Callable[[str, Example], float]
    max_new_tokens: int
    labels: tuple[str, ...] = ()
    hub: HubSource | None = None
    evaluation_fields: tuple[str, ...] | None = None
    evaluation_hub: HubSource | None = None

    def split(self, *, evaluation: bool) -> tuple[HubSource, str] | None:
        """The dataset and the split to train on, or to evaluate on; None where the hub has none."""
        source = (self.evaluation_hub or self.hub) if evaluation else self.hub
        if source is None:
            return None
        name = source.evaluation if evaluation else source.train
        return None if name is None else (source, name)


def _boolean(row: Row) -> str:
    words = {"true": " yes", "yes": " yes", "1": " yes", "false": " no", "no": " no", "0": " no"}
    value = str(row["answer"]).strip().lower()
    if value not in words:
        raise ValueError(f"answer {row['answer']!r} is neither true nor false")
    return words[value]


def _with_number(row: Row) -> str:
    if gsm8k_answer(str(row["answer"])) is None:
        raise ValueError("answer has no final number after '#### '")
    return f" {row['answer']}"


def _passage(row: Row) -> str:
    return f"Passage: {row['passage']}\n" if row.get("passage") else ""


def _entails(row: Row) -> str:
    words = {"0": " yes", "entailment": " yes", "1": " no", "not_entailment": " no"}
    value = str(row["label"]).strip().lower()
    if value not in words:
        raise ValueError(f"label {row['label']!r} is neither 0 (entailment) nor 1 (not_entailment)")
    return words[value]


#: MetaMathQA's rows with more characters than this in question and answer are not trained on (PEFT's
#: comparison, `CHAR_LIMIT`): 768 tokens would not hold them.
METAMATH_CHARACTERS = 1300


def _metamath_question(row: Row) -> str:
    return f"Question: {row.get('query') or row['question']} Think step by step.\nAnswer:"


def _metamath_answer(row: Row) -> str:
    """Of MetaMathQA, which trains, or of GSM8K, which evaluates; as in PEFT's run no space goes before it."""
    if "response" not in row:
        return str(row["answer"])
    if len(f"{row['query']} {row['response']}") > METAMATH_CHARACTERS:
        raise LeftOutError(f"it has more than {METAMATH_CHARACTERS} characters")
    return str(row["response"])


def _nonempty(name: str) -> Callable[[Row], str]:
    def answer(row: Row) -> str:
        if not row[name]:
            raise LeftOutError(f"{name} is empty")
        return f"\n{row[name]}"

    return answer


def _instruction(name: str, context: str) -> Callable[[Row], str]:
    """Alpaca's own template; the paper's file of templates (llama_inst_v1.json) was not published."""

    def prompt(row: Row) -> str:
        if row.get(context):
            return (
                "Below is an instruction that describes a task, paired with an input that provides further "
                "context. Write a response that "
                f"appropriately completes the request.\n\n### Instruction:\n{row[name]}\n\n### "
                f"Input:\n{row[context]}\n\n### Response:"
            )
        return (
            "Below is an instruction that describes a task. Write a response that appropriately completes "
            "the request.\n\n"
            f"### Instruction:\n{row[name]}\n\n### Response:"
        )

    return prompt


_GENERATED = ("rougeL", "rouge1", "rouge2", "bleu", "bertscore")
_BY_LABEL = ("precision", "recall", "f1")
#: Of the first label, and as the mean over both.
_CLASSIFIED = ("accuracy", *_BY_LABEL, *(f"{name}_macro" for name in _BY_LABEL))
_GSM8K = HubSource(
    repository="openai/gsm8k",
    config="main",
    revision="e53f048856ff4f594e959d75785d2c2d37b678ee",
    evaluation="test",
)
DECLARATIONS: dict[str, Declaration] = {
    "alpaca": Declaration(
        fields=("instruction", "output"),
        prompt=_instruction("instruction", "input"),
        answer=_nonempty("output"),
        metrics=_GENERATED,
        decoding="generate",
        score=rouge_l,
        max_new_tokens=256,
        hub=HubSource(repository="tatsu-lab/alpaca", revision="dce01c9b08f87459cf36a430d809084718273017"),
    ),
    "dolly": Declaration(
        fields=("instruction", "response"),
        prompt=_instruction("instruction", "context"),
        answer=_nonempty("response"),
        metrics=_GENERATED,
        decoding="generate",
        score=rouge_l,
        max_new_tokens=256,
        hub=HubSource(
            repository="databricks/databricks-dolly-15k", revision="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a"
        ),
    ),
    "boolq": Declaration(
        fields=("question", "answer"),
        prompt=lambda row: f"{_passage(row)}Question: {row['question'].rstrip('? ')}?\nAnswer:",
        answer=_boolean,
        metrics=_CLASSIFIED,
        decoding="choose",
        score=exact_match,
        max_new_tokens=4,
        labels=(" yes", " no"),
        hub=HubSource(
            repository="google/boolq",
            revision="35b264d03638db9f4ce671b711558bf7ff0f80d5",
            evaluation="validation",
        ),
    ),
    "qnli": Declaration(
        fields=("question", "sentence", "label"),
        answer=_entails,
        prompt=lambda row: (
            f"Sentence: {row['sentence']}\nQuestion: {row['question']}\nDoes the sentence answer the "
            "question?"
        ),
        metrics=_CLASSIFIED,
        decoding="choose",
        score=exact_match,
        max_new_tokens=4,
        labels=(" yes", " no"),
        hub=HubSource(
            repository="nyu-mll/glue",
            config="qnli",
            revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
            evaluation="validation",
        ),
    ),
    "gsm8k": Declaration(
        fields=("question", "answer"),
        prompt=lambda row: f"Question: {row['question']}\nAnswer:",
        answer=_with_number,
        metrics=("gsm8k_exact_match", "rougeL", "rouge1", "rouge2"),
        decoding="generate",
        score=gsm8k_exact_match,
        max_new_tokens=256,
        hub=_GSM8K,
    ),
    "metamathqa": Declaration(
        fields=("query", "response"),
        evaluation_fields=("question", "answer"),
        prompt=_metamath_question,
        answer=_metamath_answer,
        metrics=("marked_number_match",),
        decoding="generate",
        score=marked_number_match,
        max_new_tokens=300,
        hub=HubSource(repository="meta-math/MetaMathQA", revision="aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18"),
        evaluation_hub=_GSM8K,
    ),
}
#: The name of a task made of the user's own template.
CUSTOM = "custom"
NAMES = (*DECLARATIONS, CUSTOM)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def custom(template: str | None) -> Declaration:
    """A task from a template: `prompt => answer` with {field} names, or a JSON file.

    The file holds `prompt`, `answer` and, if wanted, `metrics`, `labels` (then the prediction is one of them)
    and `max_new_tokens`.

    Raises:
        ConfigError: it is missing or cannot be used.
    """
    if template is None:
        raise ConfigError(
            "template",
            None,
            'must be given for task custom: e.g. "Q: {question}\\nA: => {answer}", or a JSON file',
        )
    if template.endswith(".json"):
        values = _template_file(template)
    else:
        prompt, arrow, answer = template.replace("\\n", "\n").partition("=>")
        if not arrow:
            raise ConfigError("template", template, "must look like `prompt => answer`, or name a .json file")
        values = {"prompt": prompt.rstrip(" "), "answer": answer}
    labels = tuple(values.get("labels", ()))
    metrics = tuple(values.get("metrics", ("accuracy",) if labels else ("exact_match",)))
    if not metrics or not set(metrics) <= set(predicted_metrics()):
        raise ConfigError(
            "template",
            template,
            f"metrics must be among {', '.join(predicted_metrics())}, the first of them one of a single "
            "example",
        )
    score = METRICS[metrics[0]].single
    if score is None:
        raise ConfigError(
            "template",
            template,
            f"{metrics[0]} has no value for a single example, so it cannot be the first metric",
        )
    return Declaration(
        fields=_names(template, values["prompt"] + values["answer"]),
        prompt=values["prompt"].format_map,
        answer=_filled(values["answer"], labels),
        metrics=metrics,
        decoding="choose" if labels else "generate",
        score=score,
        max_new_tokens=int(values.get("max_new_tokens", 256)),
        labels=labels,
    )


def _template_file(path: str) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise ConfigError("template", path, f"cannot be read: {reason(error)}") from error
    if not isinstance(values, dict) or not all(
        isinstance(values.get(key), str) for key in ("prompt", "answer")
    ):
        raise ConfigError("template", path, 'must hold an object with the texts "prompt" and "answer"')
    labels, metrics, tokens = (
        values.get("labels", []),
        values.get("metrics", []),
        values.get("max_new_tokens", 1),
    )
    if not (_are_texts(labels) and _are_texts(metrics)):
        raise ConfigError("template", path, '"labels" and "metrics" must be lists of texts')
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise ConfigError("template", path, '"max_new_tokens" must be a whole number of at least 1')
    unknown = set(values) - {"prompt", "answer", "labels", "metrics", "max_new_tokens"}
    if unknown:
        raise ConfigError("template", path, f"has the unknown key {sorted(unknown)[0]!r}")
    return values


def _names(template: str, text: str) -> tuple[str, ...]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ConfigError(
            "template", template, f"is malformed: {error} (write {{{{ and }}}} for braces)"
        ) from error
    if not names or not all(name.isidentifier() for name in names):
        raise ConfigError("template", template, "must name fields of the data in braces, e.g. {question}")
    return tuple(dict.fromkeys(names))


def _filled(template: str, labels: tuple[str, ...]) -> Callable[[Row], str]:
    def answer(row: Row) -> str:
        text = template.format_map(row)
        if not text.strip():
            raise ValueError("the answer is empty")
        if labels and text not in labels:
            raise ValueError(f"the answer {text!r} is none of the labels {', '.join(map(repr, labels))}")
        return text

    return answer
