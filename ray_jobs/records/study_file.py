"""`study.json`: what a study is, and every call that has worked on it. Needs neither Ray nor torch."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from grit.config.extensions import check_named
from grit.config.run_config import RunConfig
from grit.config.sections import Regime
from grit.errors import ConfigError
from grit.io.files import read_object, write_atomically
from grit.io.provenance import PACKAGES
from grit.io.validation import refusal
from grit.io.versions import SCHEMA_VERSION, upgraded
from grit.training.measurements import finite
from ray_jobs.records.migrate import study_from_version_1
from ray_jobs.records.sequential import SequentialDesign

STUDY_FILE = "study.json"
#: How Ray's resource begins that names the kind of a node.
NODE_KIND = "accelerator_type:"


class _StudyPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Caps(_StudyPart):
    """Shares that a front's points keep below: of a step's time, and of the full adapter's parameters."""

    overhead: float | None = None
    footprint: float | None = None

    def words(self) -> str:
        """The caps in words; empty without any."""
        named = (("overhead", self.overhead), ("footprint", self.footprint))
        return " and ".join(f"{name} at most {cap:.0%}" for name, cap in named if cap is not None)


class Execution(_StudyPart):
    """How a call ran its trials: how many at once, and what each one's workers hold."""

    concurrent: int = 1
    resources: dict[str, float] = {}
    workers: int = 1
    address: str | None = None

    @property
    def trials_per_gpu(self) -> int:
        """How many trials shared a GPU; 1 where none did."""
        share = self.resources.get("GPU", 1.0)
        return int(1 / share) if 0 < share < 1 else 1


class Call(_StudyPart):
    """One call of a study: when, from what code, on what machine, with what command line.

    `extensions` are the user's own modules, with hashes (grit/config/extensions.py). `seconds` is its wall
    time, and `expected` the trials that it would have had in the end, searched ones included; None while it
    runs, or where it did not end by itself. `keep` says whose adapters it kept.
    """

    created: str
    command_line: list[str] = []
    python: str | None = None
    platform: str | None = None
    cpu_count: int | None = None
    versions: dict[str, str] = {}
    extensions: dict[str, str] = {}
    git_commit: str | None = None
    git_dirty: bool | None = None
    search_points: int = 0
    sampler: str | None = None
    caps: Caps = Caps()
    execution: Execution = Execution()
    keep: str = "none"
    seconds: float | None = None
    expected: int | None = None

    def environment(self, regime: Regime) -> dict[str, object]:
        """What must be the same for one call's trial to count as another's, by name.

        Both regimes record step times, which depend on the machine and on how many trials share it. What
        a step-matched trial computes does not depend on where the cluster's head is, if the kind of its GPU
        is named (`--accelerator`), nor on the versions of what only plans and records it.
        """
        decisive = PACKAGES if regime == "step" else tuple(self.versions)
        resources = self.execution.resources
        kind_is_named = "GPU" not in resources or any(name.startswith(NODE_KIND) for name in resources)
        anywhere = regime == "step" and kind_is_named
        where = {} if anywhere else {"cluster": self.execution.address or "this machine"}
        return {
            **where,
            "platform": self.platform,
            "cores": self.cpu_count,
            "python": self.python,
            **{name: self.versions.get(name) for name in decisive},
            "trials at once": self.execution.concurrent,
            "resources of a worker": _resources(self.execution.resources),
            "workers of a trial": self.execution.workers,
        }


def _resources(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items()))


class StudyFile(_StudyPart):
    """Everything that a folder says of its study, beside the trials.

    Attributes:
        study_id: names this folder's study among others with the same settings.
        fingerprint: of all that makes it this study; records made under another may not be mixed with it.
        config: what its points change.
        budgets: per regime, in steps or seconds.
        content: hashes of data and model.
        sizes: of the data, in examples and documents.
        sequential: how it grows until its settings are decided; None for a fixed design.
        device: the model of processor or GPU that its time budget was measured on; None where it was given,
            or measured on this machine alone.
        calls: the first one made it.
    """

    schema_version: int = SCHEMA_VERSION
    study_id: str
    fingerprint: str
    name: str
    config: RunConfig
    budgets: dict[Regime, float]
    seeds: tuple[int, ...]
    content: dict[str, str] = {}
    task_metric: str | None = None
    sizes: dict[str, int] = {}
    sequential: SequentialDesign | None = None
    device: str | None = None
    calls: tuple[Call, ...]

    @property
    def made_by(self) -> Call:
        """The call that made it."""
        return self.calls[0]

    @property
    def trials_per_gpu(self) -> int:
        """The most trials that shared a GPU in any of its calls."""
        return max(call.execution.trials_per_gpu for call in self.calls)

    @property
    def last_call(self) -> Call:
        """The call that worked on it last."""
        return self.calls[-1]

    def write(self, folder: Path) -> None:
        """Into `folder`, whole or not at all."""
        text = json.dumps(finite(self.model_dump(mode="json")), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / STUDY_FILE, text)


def _extensions(calls: object) -> list[str]:
    """The user's modules that the last call of an unchecked `study.json` had."""
    last = calls[-1] if isinstance(calls, list) and calls else None
    named = last.get("extensions") if isinstance(last, dict) else None
    return list(named) if isinstance(named, dict) else []


def read_study(folder: Path) -> StudyFile:
    """`study.json`, whichever version wrote it.

    Raises:
        ConfigError: it is missing, malformed, written by a newer version, or made with extensions
            that are not loaded.
    """
    name, place = "study folder", str(folder / STUDY_FILE)
    values = upgraded(
        read_object(folder / STUDY_FILE, name), name=name, place=place, migrations={1: study_from_version_1}
    )
    check_named(_extensions(values.get("calls")))
    try:
        study = StudyFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(name, place, f"is malformed: {refusal(error)}") from None
    if not study.calls:
        raise ConfigError(name, place, "is malformed: it names no call that made it")
    return study
