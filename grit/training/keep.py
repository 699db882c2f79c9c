"""Keeping a run's adapter: written truncated to its ranks, then reloaded by PEFT alone and compared."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from grit.adapters.kept_adapter import PROBLEM_FILE, KeptAdapter, Reloading, file_hashes
from grit.adapters.peft_adapters import reload_adapter, remove_lora, save_other_adapter, stored_parameters
from grit.config.run_config import RunConfig
from grit.data.encode import encode, micro_batches
from grit.errors import ConfigError
from grit.geometry.export import export_lora, export_quietly
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
    """An adapter on the disk, not yet reloaded.

    Attributes:
        batches: of one example each.
        logits: (tokens, vocabulary) float32 of each, on the CPU: what the model that was scored computes.
    """

    folder: Path
    batches: list[dict[str, Tensor]]
    logits: list[Tensor]


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
            export_quietly(model, state.handle, folder)
        elif state.config.spec.factors:
            export_lora(model, folder)
        else:
            save_other_adapter(model, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UnwrittenAdapterError(errno.EIO, str(error), str(folder)) from error
    batches = _compared_batches(state.config, state.bench)
    return WrittenAdapter(folder=folder, batches=batches, logits=_logits(model.eval(), batches))


def try_to_write(state: RunState, folder: Path) -> WrittenAdapter | None:
    """The same; None where it cannot be made, and `problem.txt` then says why: the run's result stands.

    Raises:
        UnwrittenAdapterError: there is no room.
    """
    try:
        return write_adapter(state, folder)
    except (RuntimeError, ConfigError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / PROBLEM_FILE).write_text(f"{error}\n", encoding="utf8")
        return None


def reload_and_compare(config: RunConfig, bench: Workbench, written: WrittenAdapter) -> KeptAdapter:
    """Reloads a written adapter with PEFT, on the backbone as it is without one, and notes what it computes.

    Raises:
        UnwrittenAdapterError: there is no room for `adapter.json`.
    """
    model = reload_adapter(bench.backbone(config), written.folder)
    try:
        logits = _logits(model, written.batches)
        parameters = stored_parameters(model)
    finally:
        remove_lora(model)
    scored, again = torch.cat(written.logits), torch.cat(logits)
    rounding = _ROUNDING[model.dtype]
    kept = KeptAdapter(
        config=config,
        content=bench.content(config),
        parameters=parameters,
        bytes=(written.folder / "adapter_model.safetensors").stat().st_size,
        files=file_hashes(written.folder),
        reloaded=Reloading(
            tokens=len(again),
            difference=float((again - scored).abs().max()),
            allowed=rounding * float(scored.std()),
        ),
    )
    try:
        kept.write(written.folder)
    except OSError as error:
        raise UnwrittenAdapterError(error.errno, error.strerror, str(written.folder)) from error
    return kept


def _compared_batches(config: RunConfig, bench: Workbench) -> list[dict[str, Tensor]]:
    """The first evaluation examples, with their answers, one at a time: logits are large."""
    tokenizer, length = bench.tokenizer(config), config.optimization.max_length
    examples = bench.eval_examples(config)[:COMPARED_EXAMPLES]
    rows = [encode(tokenizer, each.prompt, each.answer, length) for each in examples]
    return micro_batches(rows, 1, tokenizer.pad_token_id, bench.device)


@torch.no_grad()
def _logits(model: Any, batches: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    """(tokens, vocabulary) float32 of each batch of one, on the CPU."""
    logits = []
    for batch in batches:
        tokens, mask = batch["input_ids"], batch["attention_mask"]
        out = model(input_ids=tokens, attention_mask=mask, use_cache=False)
        logits.append(out.logits[0].float().cpu())
    return logits
