"""A kept adapter: a plain PEFT folder, and `adapter.json` beside its files, which says whose it is.

PEFT reads the folder without us. What we add: the run's whole configuration, hashes of the files and of what
the run was trained on, and what reloading it has shown.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from grit.io.files import read_object, write_atomically
from grit.io.validation import refusal
from grit.io.versions import SCHEMA_VERSION, upgraded

#: What says whose an adapter is, and its model card, which may be written anew.
ADAPTER_FILE, CARD_FILE = "adapter.json", "README.md"
#: An address of MLflow's: models:/NAME/VERSION, or models:/m-... of a logged model.
MODELS = "models:/"
#: Why there is no adapter, in its place.
PROBLEM_FILE = "problem.txt"


class Reloading(BaseModel):
    """What a plain PEFT model that was made of the files computes, beside the model that was scored.

    Attributes:
        tokens: of the examples that were compared.
        difference: the largest of any logit.
        allowed: what rounding explains: a share of the logits' standard deviation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int
    difference: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether the two compute the same."""
        return self.difference <= self.allowed


class KeptAdapter(BaseModel):
    """`adapter.json`.

    Attributes:
        config: the run that trained it.
        content: hashes of the run's data and model (grit/tasks/loading.py).
        parameters: in the files, without the backbone's. bytes: of the weights.
        files: SHA-256 of each file beside this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    config: RunConfig
    content: dict[str, str]
    parameters: int
    bytes: int
    files: dict[str, str]
    reloaded: Reloading

    def write(self, folder: Path) -> None:
        """Beside the adapter's files."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        write_atomically(folder / ADAPTER_FILE, text)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder but `adapter.json` and the card, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in (ADAPTER_FILE, CARD_FILE)
    }


def read_kept_adapter(folder: Path) -> KeptAdapter:
    """`adapter.json`, with every file as it was written.

    Raises:
        ConfigError: it is missing, malformed, or a file has changed since.
    """
    name, place = "adapter folder", str(folder / ADAPTER_FILE)
    values = upgraded(read_object(folder / ADAPTER_FILE, name), name=name, place=place, migrations={})
    try:
        kept = KeptAdapter.model_validate(values)
    except ValidationError as error:
        raise ConfigError(name, place, f"is malformed: {refusal(error)}") from None
    hashes = file_hashes(folder)
    changed = [file for file, value in kept.files.items() if hashes.get(file) != value]
    if changed:
        raise ConfigError(name, str(folder), f"is damaged: {', '.join(changed)} is not what was written")
    return kept
