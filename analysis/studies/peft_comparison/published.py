"""Reads the result files of PEFT's method comparison (huggingface/peft, method_comparison/MetaMathQA)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grit.errors import ConfigError, reason
from grit.io.validation import refusal

OPTION = "PEFT results"
#: The run that their page measures others against, and whose settings preset `peft-metamath` takes.
REFERENCE_RUN = "lora/llama-3.2-3B-rank32"


class _Read(BaseModel):
    """A part of a result file; what is not named here is not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _TrainConfig(_Read):
    model_id: str
    dtype: str
    max_seq_length: int
    batch_size: int
    max_steps: int
    seed: int
    optimizer_kwargs: dict[str, Any]


class _RunInfo(_Read):
    experiment_name: str
    created_at: str
    train_config: _TrainConfig


class _TrainInfo(_Read):
    status: str
    train_time: float
    num_trainable_params: int
    accelerator_memory_max: int
    metrics: list[dict[str, Any]]


class _SystemInfo(_Read):
    accelerator: str = "unknown"


class _MetaInfo(_Read):
    system_info: _SystemInfo = Field(default_factory=_SystemInfo)


class _ResultFile(_Read):
    run_info: _RunInfo
    train_info: _TrainInfo
    meta_info: _MetaInfo = Field(default_factory=_MetaInfo)


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """One of their runs: one seed.

    Attributes:
        accuracy: share of GSM8K's test questions. forgetting: nats per token on their held-out text.
        seconds: of training, without evaluation. memory_bytes: the most that the GPU held.
        settings: model, steps, length, batch and rate, by our names.
    """

    name: str
    accuracy: float
    forgetting: float
    parameters: int
    seconds: float
    memory_bytes: int
    device: str
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PublishedResults:
    """All runs of a folder that ended, by falling accuracy, and the names of those that did not."""

    runs: tuple[PublishedRun, ...]
    unfinished: tuple[str, ...]

    @property
    def reference(self) -> PublishedRun | None:
        """Their LoRA of rank 32."""
        return next((run for run in self.runs if run.name == REFERENCE_RUN), None)


def read_results(folder: Path) -> PublishedResults:
    """Every `*.json` of a folder.

    Raises:
        ConfigError: no such files, or one that is none of theirs.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ConfigError(
            OPTION, str(folder), "must be a folder with result files (*.json) of PEFT's comparison"
        )
    runs, unfinished = [], []
    for path in paths:
        file = _read(path)
        if file.train_info.status == "success":
            runs.append(_run(path, file))
        else:
            unfinished.append(file.run_info.experiment_name)
    if not runs:
        raise ConfigError(OPTION, str(folder), "holds no run that ended with status success")
    runs.sort(key=lambda run: -run.accuracy)
    return PublishedResults(runs=tuple(runs), unfinished=tuple(unfinished))


def _read(path: Path) -> _ResultFile:
    try:
        return _ResultFile.model_validate(json.loads(path.read_text(encoding="utf8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(OPTION, str(path), f"cannot be read: {reason(error)}") from error
    except ValidationError as error:
        raise refusal(error, str(path)) from None


def _run(path: Path, file: _ResultFile) -> PublishedRun:
    train, info = file.run_info.train_config, file.train_info
    last = info.metrics[-1] if info.metrics else {}
    values = {name: last.get(name) for name in ("test accuracy", "forgetting")}
    for name, value in values.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(OPTION, str(path), f"its last metrics lack the number {name!r}")
    return PublishedRun(
        name=file.run_info.experiment_name,
        accuracy=float(last["test accuracy"]),
        forgetting=float(last["forgetting"]),
        parameters=info.num_trainable_params,
        seconds=info.train_time,
        memory_bytes=info.accelerator_memory_max,
        device=file.meta_info.system_info.accelerator,
        seed=train.seed,
        settings={
            "model": train.model_id,
            "dtype": train.dtype,
            "steps": train.max_steps,
            "max_length": train.max_seq_length,
            "sequences per step": train.batch_size,
            "learning_rate": train.optimizer_kwargs.get("lr"),
            "weight_decay": train.optimizer_kwargs.get("weight_decay", 0.0),
        },
    )
