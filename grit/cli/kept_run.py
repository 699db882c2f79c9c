"""What can be done with a kept adapter's folder: let it answer, score it, copy it, merge it, hand it on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from grit.adapters.kept_adapter import ADAPTER_FILE, CARD_FILE, MODELS, read_kept_adapter
from grit.adapters.peft_adapters import reload_adapter, remove_lora
from grit.cli.run_file import EXPORTED, MERGED, check_empty
from grit.cli.single_run import (
    EVALUATION_FILE,
    PREDICTIONS_FILE,
    check_content,
    write_evaluation,
    write_merged,
)
from grit.config.run_config import RunConfig
from grit.data.encode import prompt_tokens
from grit.errors import ConfigError
from grit.evaluation.generation import Sampling, generate
from grit.training.measurements import Measurements
from grit.training.workbench import Workbench

#: Of an answer, where the run's evaluation does not say.
ANSWER_TOKENS = 64

#: What `export` has left in an adapter's own folder is no part of it.
_EXPORTS = shutil.ignore_patterns(EXPORTED, MERGED)


@contextmanager
def adapter_at(place: str) -> Iterator[Path]:
    """The folder of a run, a study's trial or a kept adapter; a model of MLflow's is fetched for a while.

    Raises:
        ConfigError: there is none, or MLflow cannot fetch it.
    """
    if not place.startswith(MODELS):
        yield Path(place)
        return
    with TemporaryDirectory() as folder:
        command = (sys.executable, "-m", "mlflow", "artifacts", "download", "-u", place, "-d", folder)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        folders = [path.parent for path in Path(folder).rglob(ADAPTER_FILE)]
        if done.returncode or not folders:
            reason = (done.stderr.strip().splitlines() or ["it holds no adapter of ours"])[-1]
            raise ConfigError(
                "DIR", place, f"cannot be fetched (MLFLOW_TRACKING_URI says from where): {reason}"
            )
        yield folders[0]


def is_kept(folder: Path) -> bool:
    """Whether a folder is a kept adapter's own."""
    return (folder / ADAPTER_FILE).exists()


class Answering:
    """A kept adapter that answers prompts, for whoever has its folder, without the run that trained it.

    Raises:
        ConfigError: the folder holds no whole adapter, or the backbone cannot be had here.
    """

    def __init__(self, folder: Path) -> None:
        self._config, bench = read_kept_adapter(folder).config, Workbench(training=False)
        self._tokenizer = bench.tokenizer(self._config)
        self._model = reload_adapter(bench.backbone(self._config), folder)

    def answers(self, prompts: Sequence[str], *, tuned: bool = True) -> list[str]:
        """One greedy answer per prompt, without the prompt; as long as the run's evaluation let them be.

        Without `tuned` they are the backbone's own.
        """
        evaluation = self._config.evaluation
        with nullcontext() if tuned else self._model.disable_adapter():
            return generate(
                self._model,
                self._tokenizer,
                [prompt_tokens(self._tokenizer, prompt) for prompt in prompts],
                prompts,
                Sampling(max_new_tokens=evaluation.max_new_tokens or ANSWER_TOKENS),
                batch_size=evaluation.eval_batch,
            )


def evaluate_kept(folder: Path, config: RunConfig, bench: Workbench, to: Path) -> Measurements:
    """Scores a kept adapter as `config` says; leaves `eval.json` and its predictions in `to`.

    Raises:
        ConfigError: the folder holds no whole adapter, or data cannot be used.
    """
    trained, content = read_kept_adapter(folder).config, check_content(config, training=False)
    backbone = bench.backbone(trained)
    base = bench.base_scores(config, backbone.eval())
    model = reload_adapter(backbone, folder)
    try:
        scores = bench.score_fully(model, config)
    finally:
        remove_lora(model)
    return write_evaluation(to, config, content, scores, base, bench)


def export_kept(folder: Path, to: Path, bench: Workbench, *, merged: bool) -> None:
    """Copies a kept adapter's files, or merges them into the backbone.

    Raises:
        ConfigError: the folder holds no whole adapter, or `to` is not empty.
    """
    kept = read_kept_adapter(folder)
    check_empty(to)
    shutil.copytree(folder, to / "adapter" if merged else to, dirs_exist_ok=True, ignore=_EXPORTS)
    if merged:
        write_merged(kept.config, folder, to, bench)


def push_kept(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads a kept adapter with its card to a model hub; returns its address.

    The base model is named as it was asked for, not by where it lies on this machine.

    Raises:
        ConfigError: the folder holds no whole adapter, its backbone is a folder of this machine, or the hub
            refuses.
    """
    from grit.cli.hub_upload import upload

    kept = read_kept_adapter(folder)
    model = kept.config.backbone.model
    if Path(model).exists():
        raise ConfigError("model", model, "is a folder of this machine: nobody else could load the adapter")
    if not (folder / CARD_FILE).exists():
        raise ConfigError("DIR", str(folder), f"has no model card ({CARD_FILE}): write one beside its files")
    with TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=_EXPORTS)
        path = Path(copy) / "adapter_config.json"
        values = json.loads(path.read_text(encoding="utf8"))
        values["base_model_name_or_path"] = model
        path.write_text(json.dumps(values, indent=2), encoding="utf8")
        for left in (EVALUATION_FILE, PREDICTIONS_FILE):
            (Path(copy) / left).unlink(missing_ok=True)
        return upload(Path(copy), repository, private=private)
