"""`run.json`: the run that a folder holds. Needs no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from grit.cli.pasted import pasted
from grit.config.differences import as_read, in_few_words, setting_differences
from grit.config.run_config import RunConfig, nested_from_flat
from grit.errors import ConfigError
from grit.io.files import read_object, write_atomically
from grit.io.validation import refusal
from grit.io.versions import SCHEMA_VERSION, upgraded
from grit.runtime.checkpoint_files import CHECKPOINT_FILE
from grit.training.measurements import Measurements, finite

#: In a run's folder: what it is, its last state, and its adapter as plain PEFT reads it.
RUN_FILE, STATE, ADAPTER = "run.json", "state", "adapter"
#: In the folder of what is exported, where no other is named: an adapter, and a whole model.
EXPORTED, MERGED = "export", "merged"


class RunFile(BaseModel):
    """`run.json`: the run that a folder holds, and what came of it once it has ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Literal["planned", "completed", "diverged", "stopped"] = "planned"
    reason: str | None = None
    config: RunConfig
    created: str
    ended: str | None = None
    provenance: dict[str, Any]
    measured: Measurements = Measurements()

    def write(self, folder: Path) -> None:
        """Into `folder`, whole or not at all."""
        text = json.dumps(finite(self.model_dump(mode="json")), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / RUN_FILE, text)


def _from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """Settings, provenance and measurements lay beside each other."""
    own = {"run_id", "status", "reason", "config", "created", "ended"}
    measured = {name: value for name, value in values.items() if name in Measurements.model_fields}
    rest = {name: value for name, value in values.items() if name not in own and name not in measured}
    kept = {name: values[name] for name in own if name in values}
    return {**kept, "config": nested_from_flat(values["config"]), "provenance": rest, "measured": measured}


def read_run(folder: Path) -> RunFile:
    """`run.json`.

    Raises:
        ConfigError: it is missing or malformed.
    """
    name, place = "run folder", str(folder / RUN_FILE)
    values = read_object(folder / RUN_FILE, name)
    try:
        return RunFile.model_validate(
            upgraded(values, name=name, place=place, migrations={1: _from_version_1})
        )
    except ValidationError as error:
        raise ConfigError(name, place, f"is malformed: {refusal(error)}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(name, place, f"is malformed: {type(error).__name__} {error}") from None


def has_begun(folder: Path, record: RunFile) -> bool:
    """Whether the run of `record`, in `folder`, has left anything to go on from."""
    return record.status != "planned" or (folder / STATE / CHECKPOINT_FILE).exists()


def holds_another(folder: Path, record: RunFile, config: RunConfig) -> ConfigError:
    """Why a folder is refused to another run than its own: by which settings they differ."""
    apart = in_few_words(setting_differences(record.config, config))
    what = apart or "other data, or another model of that name"
    return ConfigError("output", str(folder), f"holds another run ({what}); choose another folder")


def shown_by(folder: Path) -> str:
    """The command that shows the run in a folder."""
    return pasted(sys.executable, "-m", "grit", "show", folder)


def check_room(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuses a folder that is not for this run, as far as settings alone can say.

    Raises:
        ConfigError: it holds something else, or this run and `resume` is off, or nothing to resume.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError("output", str(folder), "is a file; choose a folder")
    if not (folder / RUN_FILE).exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError("output", str(folder), "is not empty and holds no run; choose an empty folder")
        if resume:
            raise ConfigError("output", str(folder), "holds no run to resume")
        return
    record = read_run(folder)
    if not has_begun(folder, record):
        return
    if record.config.identity({}) != as_read(config).identity({}):
        raise holds_another(folder, record, config)
    if not resume:
        ended = record.status != "planned"
        what = f", which has ended ({shown_by(folder)})" if ended else "; add --resume to continue it"
        raise ConfigError("output", str(folder), f"holds this run already{what}; or choose another folder")


def refuse_run(folder: Path) -> None:
    """Refuses a single run's folder where a study's is wanted.

    Raises:
        ConfigError: it is one; with the command that shows it.
    """
    if (folder / RUN_FILE).exists():
        raise ConfigError("study folder", str(folder), f"is a single run's: {shown_by(folder)}")


def check_empty(to: Path) -> None:
    """Refuses a place for an export that holds something.

    Raises:
        ConfigError: it does.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError("to", str(to), "is not empty; choose an empty folder with --to")
