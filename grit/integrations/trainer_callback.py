"""GRIT in `transformers.Trainer` and in TRL's trainers: one callback, and nothing else changes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grit.capture.label_positions import Layout
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.geometry.export import ExportReport, export_adapter
from grit.geometry.handle import GritHandle
from grit.geometry.handle_summary import warn_of_changes

#: The handle's state, in every checkpoint of the trainer.
STATE_FILE = "grit_state.pt"


class GritCallback(TrainerCallback):
    """Attaches GRIT when training begins, keeps its state in checkpoints, truncates the adapter at the end.

        trainer = Trainer(model, args, train_dataset=data, callbacks=[grit := GritCallback()])
        trainer.train()
        grit.export("adapter")

    Clipping moves behind preconditioning: `args.max_grad_norm` is taken over as the configuration's.

    Args:
        config: the switches; None scales the paper's schedules to the trainer's number of steps.
        labels, adapter, verify, source: as of `attach`.
        resume_from: the checkpoint that the trainer resumes from, where it lies outside its `output_dir`.

    Attributes:
        handle: of the training that runs or was the last; None before the first.
    """

    def __init__(
        self,
        config: GritConfig | None = None,
        *,
        labels: Layout | None = None,
        adapter: str = "default",
        verify: bool = True,
        resume_from: Path | str | None = None,
        source: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.handle: GritHandle | None = None
        self._resume_from = None if resume_from is None else Path(resume_from)
        self._config, self._labels, self._adapter, self._verify = config, labels, adapter, verify
        self._model: Any = None
        self._source = list(source)
        self._clipping: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Attaches, and continues from a checkpoint's state where the trainer does.

        Raises:
            ConfigError: the loss is smoothed, or something that `attach` refuses.
            FileNotFoundError: training resumes from a checkpoint without GRIT's state.
            ValueError: the state is of other weights.
        """
        if args.label_smoothing_factor:
            raise ConfigError(
                "label_smoothing_factor",
                args.label_smoothing_factor,
                "must be 0: GRIT's factors are of the labels' own loss",
            )
        if self.handle is not None:
            self.handle.detach()
        self._model = given["model"]
        self._clipping = args.max_grad_norm or self._clipping  # an interrupted training left it here
        self.handle = attach(
            self._model,
            given["optimizer"],
            self._scheduled(state.max_steps),
            labels=self._labels,
            adapter=self._adapter,
            verify=self._verify,
            total_steps=state.max_steps,
            source=self._source,
        )
        args.max_grad_norm = 0.0
        if state.global_step > 0:
            self._load(self._resume_from or _checkpoint(args, state))

    def _scheduled(self, steps: int) -> GritConfig:
        config = self._config or GritConfig.for_steps(steps)
        return replace(config, max_grad_norm=config.max_grad_norm or self._clipping or None)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Puts the handle's state beside the model's, in the trainer's checkpoint."""
        folder = _checkpoint(args, state)
        if self.handle is not None and state.is_world_process_zero and folder.is_dir():
            held = {"handle": self.handle.state_dict(), "weights": _fingerprint(self.handle)}
            torch.save(held, folder / STATE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Truncates the adapter to its ranks: of the best checkpoint where the trainer has loaded that."""
        if self._clipping is not None:
            args.max_grad_norm, self._clipping = self._clipping, None
        if self.handle is None:
            return
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load(Path(state.best_model_checkpoint))
        self.handle.finish()
        self.handle.detach()  # what else is done with the model is no training of this callback

    def _load(self, checkpoint: Path) -> None:
        file = checkpoint / STATE_FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no state of GRIT lies there. A checkpoint that was trained without GRIT cannot be "
                "resumed with it: start from its adapter instead. For a folder outside output_dir, say "
                "GritCallback(resume_from=...)"
            )
        assert self.handle is not None
        held = torch.load(file, map_location="cpu", weights_only=False)
        if held["weights"] != _fingerprint(self.handle):
            raise ValueError(
                f"{file}: it belongs to other weights than the trainer has loaded; say which checkpoint with "
                "GritCallback(resume_from=...)"
            )
        warn_of_changes(held["handle"]["config"], self.handle.config)
        self.handle.load_state_dict(held["handle"])

    def export(self, path: Path | str) -> ExportReport:
        """Writes the trained adapter, truncated to its ranks, as a plain PEFT adapter.

        Raises:
            RuntimeError: nothing was trained yet.
        """
        if self.handle is None:
            raise RuntimeError("nothing was trained with this callback yet")
        return export_adapter(self._model, self.handle, path)

    def watch(self, trainer: Any, parts_in: Callable[[Mapping[str, Any]], int]) -> None:
        """For a trainer whose loss is no mean over labels (preferences): says what it is a mean over.

            grit.watch(trainer, lambda inputs: len(inputs["input_ids"]) // 2)  # DPO: chosen and rejected

        Args:
            trainer: its `compute_loss` is wrapped.
            parts_in: how many equal parts the loss of these inputs is a mean over.
        """
        compute = trainer.compute_loss

        @functools.wraps(compute)
        def watched(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            parts = parts_in(inputs)  # before the trainer takes labels out
            result = compute(model, inputs, *args, **kwargs)
            if self.handle is not None:
                loss = result[0] if isinstance(result, tuple) else result
                self.handle.outside_loss(loss, parts)
            return result

        trainer.compute_loss = watched


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """The trainer's folder for the step that it is at."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _fingerprint(handle: GritHandle) -> str:
    """Of the adapter's weights."""
    digest = hashlib.sha256()
    for layer in handle.layers:
        for weight in (layer.down.weight, layer.up.weight):
            digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
