"""Keeping a run's adapter: written truncated to its ranks, then reloaded by PEFT alone and compared."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grit.adapters.kept_adapter import KeptAdapter, Reloading, file_hashes
from grit.adapters.peft_adapters import reload_adapter, remove_lora, save_other_adapter, stored_parameters
from grit.config.run_config import RunConfig
from grit.data.encode import encode, micro_batches
from grit.geometry.export import export_adapter, export_lora
from grit.training.workbench import Workbench

if TYPE_CHECKING:
    from grit.training.run import RunState

#: Examples that the reloaded adapter is compared on.
COMPARED_EXAMPLES = 4
#: Share of the logits' standard deviation that a reloaded adapter may differ by: its factors were split anew,
#: so that they are rounded anew.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}


class UnwrittenAdapterError(OSError):
    """There was no room for an adapter."""


@dataclass(frozen=True, kw_only=True)
class WrittenAdapter:
    """An adapter on the disk, not yet reloaded; `logits` (tokens, vocabulary) are what its model computes."""

    folder: Path
    batch: dict[str, Tensor]
    logits: Tensor


def write_adapter(state: RunState, folder: Path) -> WrittenAdapter:
    """Writes the adapter of a run that has been evaluated, as an ordinary PEFT folder.

    Raises:
        UnwrittenAdapterError: there is no room.
        RuntimeError: its update does not have the rank that was counted (grit/geometry/export.py).
    """
    shutil.rmtree(folder, ignore_errors=True)
    model = state.model
    try:
        if state.handle is not None:
            export_adapter(model, state.handle, folder)
        elif state.config.spec.factors:
            export_lora(model, folder)
        else:
            save_other_adapter(model, folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UnwrittenAdapterError(error.errno, error.strerror, str(folder)) from error
    batch = _compared_batch(state.config, state.bench)
    return WrittenAdapter(folder=folder, batch=batch, logits=_logits(model.eval(), batch))


def reload_and_compare(config: RunConfig, bench: Workbench, written: WrittenAdapter) -> KeptAdapter:
    """Reloads a written adapter with PEFT, on the backbone as it is without one, and notes what it computes.

    Raises:
        UnwrittenAdapterError: there is no room for `adapter.json`.
    """
    model = reload_adapter(bench.backbone(config), written.folder)
    try:
        logits = _logits(model, written.batch)
        parameters = stored_parameters(model)
    finally:
        remove_lora(model)
    deviation = float(written.logits.float().std())
    kept = KeptAdapter(
        config=config,
        content=bench.content(config),
        parameters=parameters,
        bytes=(written.folder / "adapter_model.safetensors").stat().st_size,
        files=file_hashes(written.folder),
        reloaded=Reloading(
            tokens=len(logits),
            difference=float((logits.float() - written.logits.float()).abs().max()),
            allowed=_ROUNDING[logits.dtype] * deviation,
        ),
    )
    try:
        kept.write(written.folder)
    except OSError as error:
        raise UnwrittenAdapterError(error.errno, error.strerror, str(written.folder)) from error
    return kept


def _compared_batch(config: RunConfig, bench: Workbench) -> dict[str, Tensor]:
    """The first evaluation examples, with their answers."""
    tokenizer, length = bench.tokenizer(config), config.optimization.max_length
    examples = bench.eval_examples(config)[:COMPARED_EXAMPLES]
    rows = [encode(tokenizer, each.prompt, each.answer, length) for each in examples]
    batch = micro_batches(rows, COMPARED_EXAMPLES, tokenizer.pad_token_id, bench.device)[0]
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


@torch.no_grad()
def _logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """(tokens, vocabulary), of the tokens that are no padding."""
    logits: Tensor = model(**batch, use_cache=False).logits
    return logits[batch["attention_mask"].bool()]
