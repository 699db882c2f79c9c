"""Tasks from the user's files: JSON Lines in the datasets' own field names, with a template and a scorer for each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grit.errors import ConfigError
from grit.tasks.base import Decoding, Example, Task, exact_match

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FileTask:
    """How one dataset's rows become examples.

    Attributes:
        fields: names that every row must have.
        prompt, answer: from a row to text; the answer begins with the white space that separates it.
    """

    fields: tuple[str, ...]
    prompt: Callable[[Row], str]
    answer: Callable[[Row], str]
    metric: str
    decoding: Decoding
    score: Callable[[str, Example], float]
    max_new_tokens: int
    labels: tuple[str, ...] = ()


def gsm8k_answer(text: str) -> str | None:
    """The number after `####`, without commas, as GSM8K's own evaluation reads it; None when there is none."""
    found = re.search(r"#### (-?[0-9.,]+)", text)
    return found.group(1).strip().replace(",", "") if found else None


def gsm8k_exact_match(prediction: str, example: Example) -> float:
    """1 when the final numbers are equal, else 0; a prediction without a final number is 0."""
    answer = gsm8k_answer(prediction)
    return float(answer is not None and answer == gsm8k_answer(example.answer))


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


FILE_TASKS: dict[str, FileTask] = {
    "gsm8k": FileTask(
        fields=("question", "answer"), prompt=lambda row: f"Question: {row['question']}\nAnswer:", answer=_with_number,
        metric="exact_match", decoding="generate", score=gsm8k_exact_match, max_new_tokens=256),
    "boolq": FileTask(
        fields=("question", "answer"), prompt=lambda row: f"{_passage(row)}Question: {row['question']}?\nAnswer:", answer=_boolean,
        metric="accuracy", decoding="choose", score=exact_match, max_new_tokens=4, labels=(" yes", " no")),
}


def read_jsonl(path: str, fields: tuple[str, ...], name: str) -> list[tuple[int, Row]]:
    """The rows of a JSON Lines file with their line numbers.

    Raises:
        ConfigError: missing or unreadable file, a line that is no JSON object or lacks a field (with its number), or no rows at all.
    """
    try:
        text = Path(path).read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(name, path, f"cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(name, path, f"line {number} is not JSON: {error.msg}") from error
        missing = [key for key in fields if not isinstance(row, dict) or key not in row]
        if missing:
            raise ConfigError(name, path, f"line {number} lacks the field {missing[0]!r}; needed are {', '.join(fields)}")
        rows.append((number, row))
    if not rows:
        raise ConfigError(name, path, "is empty; it must hold at least one example")
    return rows


def load(name: str, train_file: str | None, eval_file: str | None) -> Task:
    """A task over the user's own train and eval files.

    Raises:
        ConfigError: a file is not given, or cannot be used.
    """
    kind = FILE_TASKS[name]
    parts = []
    for option, path in (("train-file", train_file), ("eval-file", eval_file)):
        if path is None:
            raise ConfigError(option, path, f"task {name!r} reads its examples from files: give a JSON Lines file with {', '.join(kind.fields)}")
        examples = []
        for number, row in read_jsonl(path, kind.fields, option):
            try:
                prompt, answer = kind.prompt(row), kind.answer(row)
            except ValueError as error:
                raise ConfigError(option, path, f"line {number}: {error}") from error
            examples.append(Example(example_id=f"{option}-{number}", prompt=prompt, answer=answer, labels=kind.labels))
        parts.append(tuple(examples))
    return Task(name=name, metric=kind.metric, decoding=kind.decoding, train=parts[0], evaluation=parts[1], score=kind.score,
                max_new_tokens=kind.max_new_tokens)
