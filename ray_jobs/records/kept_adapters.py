"""Trained adapters in a study's folder: `adapters/<trial_id>/`, and `adapters.json`: whose they are.

While a study runs every completed trial leaves its adapter, since nobody knows yet which will be wanted; what
`--keep` does not ask for goes at the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from grit.adapters.kept_adapter import ADAPTER_FILE, PROBLEM_FILE, read_kept_adapter
from grit.errors import ConfigError
from grit.io.files import own_folder, write_atomically
from ray_jobs.records.describe import describe
from ray_jobs.records.trial_record import TrialRecord

ADAPTERS, INDEX_FILE = "adapters", "adapters.json"
#: Whose adapters a study keeps, and what that means.
Keep = Literal["recommended", "front", "all", "none"]
KEEPS: dict[str, str] = {
    "recommended": "of the recommended setting, the default setting and the control",
    "front": "of these and of the front",
    "all": "of every completed trial",
    "none": "of none",
}


def adapter_folder(study: Path, trial_id: str) -> Path:
    """Where a trial's adapter lies."""
    return study / ADAPTERS / trial_id


def has_adapter(study: Path, trial_id: str) -> bool:
    """Whether a trial's adapter is there, whole: `adapter.json` is written last."""
    return (adapter_folder(study, trial_id) / ADAPTER_FILE).exists()


def copy_adapter(source: Path, target: Path, trial_id: str) -> None:
    """Takes over a trial's adapter from another study's folder, if it was kept there."""
    if not has_adapter(source, trial_id) or has_adapter(target, trial_id):
        return
    own_folder(target, ADAPTERS)
    partial = adapter_folder(target, f".{trial_id}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(adapter_folder(source, trial_id), partial)
    shutil.rmtree(adapter_folder(target, trial_id), ignore_errors=True)  # half of one, of a killed worker
    partial.replace(adapter_folder(target, trial_id))


def forget_adapters(study: Path, *, but: Collection[str] = ()) -> None:
    """Removes the adapters of all trials but these, and what a killed process left of one."""
    folder = study / ADAPTERS
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in folder.iterdir():
        explained = has_adapter(study, path.name) or (path / PROBLEM_FILE).exists()
        if path.name not in but or not explained:
            shutil.rmtree(path, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def will_be_kept(record: TrialRecord, keep: Keep, default_point: str | None) -> bool:
    """Whether it is known before a study runs that a trial's adapter is kept: it is then trained for it."""
    if keep == "none" or record.config.why_no_adapter is not None:
        return False
    if keep == "all":
        return True
    return "control" in record.plan.designs or record.plan.point_id == default_point


def default_point_id(records: Iterable[TrialRecord]) -> str | None:
    """The default setting: the first that was planned beside the control."""
    return next((r.plan.point_id for r in records if "control" not in r.plan.designs), None)


def write_index(study: Path, kept: Mapping[str, tuple[str, ...]], records: Collection[TrialRecord]) -> None:
    """`adapters.json`: each kept trial with its roles and its files, or why there are none.

    No file where none is kept.
    """
    if not kept:
        (study / INDEX_FILE).unlink(missing_ok=True)
        return
    by_id = {record.trial_id: record for record in records}
    rows = [_index_row(study, by_id[trial_id], roles) for trial_id, roles in kept.items()]
    write_atomically(study / INDEX_FILE, json.dumps(rows, indent=2, ensure_ascii=False))


def _index_row(study: Path, record: TrialRecord, roles: tuple[str, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial_id": record.trial_id,
        "roles": list(roles),
        "trial": describe(record),
        "folder": None,
        "problem": None,
    }
    try:
        kept = read_kept_adapter(adapter_folder(study, record.trial_id))
    except ConfigError as error:
        return {**row, "problem": why_missing(study, record) or str(error)}
    problem = None
    if not kept.reloaded.agrees:
        problem = f"reloaded, its logits differ by {kept.reloaded.difference:.2g}"
    return {
        **row,
        "folder": f"{ADAPTERS}/{record.trial_id}",
        "problem": problem,
        "parameters": kept.parameters,
        "bytes": kept.bytes,
        "reloaded": kept.reloaded.model_dump(),
        "files": kept.files,
    }


def why_missing(study: Path, record: TrialRecord) -> str | None:
    """Why a completed trial has no adapter in the folder; None where it has one."""
    if has_adapter(study, record.trial_id):
        return None
    if (reason := record.config.why_no_adapter) is not None:
        return reason
    problem = adapter_folder(study, record.trial_id) / PROBLEM_FILE
    if problem.exists():
        return problem.read_text(encoding="utf8").strip()
    if record.place.reused_from is not None:
        return f"taken over from {record.place.reused_from}, which has not kept it"
    return "an earlier call has not kept it"
