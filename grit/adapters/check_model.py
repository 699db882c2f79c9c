"""Refuses a model that cannot be used, before anything starts.

By its files, its tokenizer and its context.
"""

from __future__ import annotations

import json
from pathlib import Path

from grit.backbone import EMBEDDED, resolve
from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from grit.tasks.base import Task
from grit.tasks.loading import load_documents, load_task


def check_model(config: RunConfig, task: Task, *, ask_hub: bool = True) -> None:
    """Looks at headers and tokenizer of the model; the embedded one is known to be good.

    A hub id is looked up only with `ask_hub`: a dry run needs no network.

    Raises:
        ConfigError: it cannot be read, or the run's texts are longer than what it can read.
    """
    model = resolve(config.backbone.model)
    folder = Path(model)
    local = folder.exists() or model.startswith((".", "/", "~"))
    if config.backbone.model == EMBEDDED or not (local or ask_hub):
        return
    if local:
        if not (folder / "config.json").is_file():
            raise ConfigError("model", model, "is not a model folder: there is no config.json in it")
        if not any(folder.glob("*.safetensors")):
            raise ConfigError("model", model, "holds no *.safetensors weights")
        _check_context(config, task, folder)
    from grit.adapters.backbones import check_weights, load_tokenizer

    load_tokenizer(
        model, revision=config.backbone.revision, trust_remote_code=config.backbone.trust_remote_code
    )
    check_weights(folder)


def check_earlier_tasks(config: RunConfig, *, ask_hub: bool = True, training: bool = True) -> None:
    """The tasks that are learned before the run's own, and the model for each of them.

    Without `training` their training examples are not read.

    Raises:
        ConfigError: one cannot be used.
    """
    for stage in config.stages()[:-1]:
        load_documents(stage.task)
        check_model(stage, load_task(stage.task, training=training), ask_hub=ask_hub)


def _check_context(config: RunConfig, task: Task, folder: Path) -> None:
    try:
        longest = json.loads((folder / "config.json").read_text(encoding="utf8")).get(
            "max_position_embeddings"
        )
    except (OSError, ValueError) as error:
        raise ConfigError("model", str(folder), f"has a config.json that cannot be read: {error}") from error
    generates = config.evaluation.quality == "primary" and (
        task.decoding == "generate" or config.evaluation.label_scoring == "generate"
    )
    needed = config.optimization.max_length + (
        (config.evaluation.max_new_tokens or task.max_new_tokens) if generates else 0
    )
    if longest is not None and needed > longest:
        what = f"max_length + max_new_tokens = {needed}" if generates else f"max_length = {needed}"
        raise ConfigError(
            "max_length",
            config.optimization.max_length,
            f"is too long: {what}, and the model reads {longest} tokens (max_position_embeddings)",
        )
