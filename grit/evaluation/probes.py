"""Zero-shot probes of what a model still knows, through lm-evaluation-harness on the model in memory.

Its only importer.

A probe is named as the harness names it (hellaswag, arc_challenge, winogrande, ...: the data come from the
hub or its cache), or as `name=file` for the names in `LOCAL`, whose rows then come from a local file. Always
the first items, the same for every run.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from grit.errors import ConfigError
from grit.evaluation.scores import ProbeAnswer
from grit.tasks.hub import reachable
from grit.tasks.task_files import read_rows


def _gap(part: int) -> Callable[[dict[str, Any]], str]:
    def half(row: dict[str, Any]) -> str:
        return str(row["sentence"]).split("_", 1)[part].strip()

    return half


def _filled(row: dict[str, Any]) -> list[str]:
    """The sentence up to and with each option.

    The harness compares the likelihood of what follows (partial evaluation).
    """
    before = str(row["sentence"]).split("_", 1)[0]
    return [before + row["option1"], before + row["option2"]]


#: Probes that read a local file: the fields of its rows, and the task as the harness's own configuration has
#: it.
LOCAL: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "arc_challenge": (
        ("question", "choices", "gold"),
        {
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{gold}}",
            "metric_list": [
                {"metric": name, "aggregation": "mean", "higher_is_better": True}
                for name in ("acc", "acc_norm")
            ],
        },
    ),
    "winogrande": (
        ("sentence", "option1", "option2", "answer"),
        {
            "doc_to_text": lambda row: int(row["answer"]) - 1,
            "doc_to_choice": _filled,
            "doc_to_target": _gap(1),
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
    ),
}


def _valid_arc(row: dict[str, Any]) -> bool:
    return (
        isinstance(row["choices"], list)
        and len(row["choices"]) > 1
        and str(row["gold"]).isdigit()
        and int(row["gold"]) < len(row["choices"])
    )


def _valid_winogrande(row: dict[str, Any]) -> bool:
    return str(row["sentence"]).count("_") == 1 and str(row["answer"]) in ("1", "2")


_VALID: dict[str, tuple[Callable[[dict[str, Any]], bool], str]] = {
    "arc_challenge": (_valid_arc, "choices must be a list, and gold the number of one of them, from 0"),
    "winogrande": (_valid_winogrande, "the sentence must hold one _, and answer be 1 or 2"),
}


def check_probes(probes: Sequence[str]) -> None:
    """Refuses probes that cannot be run, as far as that shows without running them.

    Raises:
        ConfigError: an unknown name, one that is given twice, or a file that cannot be used.
    """
    names = [parse(probe)[0] for probe in probes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError("probes", twice, "is given twice")
    hub = [probe for probe in probes if "=" not in probe]
    if not hub:
        return
    with _quiet():
        manager = _all_tasks()
    for name in hub:
        if not manager.match_tasks([name]):
            raise ConfigError("probes", name, "is no task of lm-evaluation-harness")


@cache
def _all_tasks() -> Any:
    """The harness's own index, read once in a process: that takes ten seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def parse(probe: str) -> tuple[str, str | None]:
    """(name, file or None).

    Raises:
        ConfigError: a file is given for a probe that reads none, or cannot be read.
    """
    name, equals, path = probe.partition("=")
    if not equals:
        return name, None
    if name not in LOCAL:
        raise ConfigError("probes", probe, f"reads no file; those that do are {', '.join(LOCAL)}")
    _rows(name, path)
    return name, path


def _rows(name: str, path: str) -> list[dict[str, Any]]:
    """The rows of a probe's file, each of which can be asked."""
    fields, (valid, rule) = LOCAL[name][0], _VALID[name]
    items = []
    for number, row in read_rows(path, fields, "probes"):
        if not valid(row):
            raise ConfigError("probes", path, f"line {number}: {rule}")
        items.append({field: row[field] for field in fields})
    return items


def run_probe(model: Any, tokenizer: Any, probe: str, *, items: int, batch_size: int) -> list[ProbeAnswer]:
    """The model's answers to the first `items` items.

    Raises:
        ConfigError: the harness does not know the probe, its data are not at hand, or it is no single task
            with an accuracy.
    """
    name, path = parse(probe)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        if path is None:
            manager, task, reach = _all_tasks(), name, reachable()
        else:
            rows = Path(folder) / f"{name}.jsonl"
            rows.write_text("".join(json.dumps(row) + "\n" for row in _rows(name, path)), encoding="utf8")
            manager, task, reach = (
                TaskManager(include_defaults=False),
                _local(name, str(rows)),
                contextlib.nullcontext(),
            )
        try:
            with reach:
                harness_output = simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
                    tasks=[task],
                    limit=items,
                    log_samples=True,
                    bootstrap_iters=0,
                    task_manager=manager,
                )
        except (OSError, ConnectionError) as error:
            raise ConfigError(
                "probes",
                probe,
                f"its data are neither cached here nor within reach; files are read for {', '.join(LOCAL)} "
                "(name=FILE)",
            ) from error
    tasks = list(harness_output["samples"].values())
    if len(tasks) != 1 or "acc" not in tasks[0][0]:
        raise ConfigError(
            "probes", probe, "is a group of tasks, or has no accuracy: name a single multiple-choice task"
        )
    samples: Sequence[dict[str, Any]] = tasks[0]
    key = "acc_norm" if "acc_norm" in samples[0] else "acc"
    return [
        ProbeAnswer(item=f"{name}-{sample['doc_id']}", correct=float(sample[key]))
        for sample in sorted(samples, key=lambda s: s["doc_id"])
    ]


def _local(name: str, path: str) -> Any:
    return {
        "task": f"{name}_local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": path}},
        "test_split": "test",
        "output_type": "multiple_choice",
        **LOCAL[name][1],
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness tells of every step on stderr, by bars, logs and warnings."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
