"""Zero-shot probes of what a model still knows, through lm-evaluation-harness on the model in memory; its only importer.

A probe is named as the harness names it (hellaswag, arc_challenge, winogrande, ...: the data come from the hub or its cache), or as
`name=file` for the names in `LOCAL`, whose rows then come from a local file. Always the first items, the same for every run.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from grit.errors import ConfigError
from grit.result import ProbeAnswer
from grit.tasks.files import read_rows


def _gap(part: int) -> Callable[[dict[str, Any]], str]:
    def half(row: dict[str, Any]) -> str:
        return str(row["sentence"]).split("_", 1)[part].strip()
    return half


def _filled(row: dict[str, Any]) -> list[str]:
    """The sentence up to and with each option: the harness compares the likelihood of what follows (partial evaluation)."""
    before = str(row["sentence"]).split("_", 1)[0]
    return [before + row["option1"], before + row["option2"]]


#: Probes that read a local file: the fields of its rows, and the task as the harness's own configuration has it.
LOCAL: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "arc_challenge": (("question", "choices", "gold"), {
        "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]}),
    "winogrande": (("sentence", "option1", "option2", "answer"), {
        "doc_to_text": lambda row: int(row["answer"]) - 1, "doc_to_choice": _filled, "doc_to_target": _gap(1),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}),
}


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
    read_rows(path, LOCAL[name][0], "probes")
    return name, path


def run_probe(model: Any, tokenizer: Any, probe: str, *, items: int, batch_size: int) -> list[ProbeAnswer]:
    """The model's answers to the first `items` items.

    Raises:
        ConfigError: the harness does not know the probe, or its data are not at hand.
    """
    name, path = parse(probe)
    with _quiet():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        if path is None:
            manager, task = TaskManager(), name
            if not manager.match_tasks([name]):
                raise ConfigError("probes", probe, "is no task of lm-evaluation-harness")
        else:
            manager, task = TaskManager(include_defaults=False), _local(name, path)
        try:
            found = simple_evaluate(model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size), tasks=[task], limit=items,
                                    log_samples=True, bootstrap_iters=0, task_manager=manager)
        except (OSError, ConnectionError) as error:
            raise ConfigError("probes", probe, f"its data are neither cached here nor within reach; files are read for {', '.join(LOCAL)} "
                              "(name=FILE)") from error
    samples: Sequence[dict[str, Any]] = next(iter(found["samples"].values()))
    key = "acc_norm" if "acc_norm" in samples[0] else "acc"
    return [ProbeAnswer(item=f"{name}-{sample['doc_id']}", correct=float(sample[key])) for sample in sorted(samples, key=lambda s: s["doc_id"])]


def _local(name: str, path: str) -> Any:
    return {"task": f"{name}_local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": path}}, "test_split": "test",
            "output_type": "multiple_choice", **LOCAL[name][1]}


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
