"""Finds a task and its held-out general text by name, wherever they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from grit.backbone import world
from grit.errors import ConfigError
from grit.run_config import TaskSource
from grit.tasks import embedded, files
from grit.tasks.base import Task, digest

NAMES = (*embedded.NAMES, *files.FILE_TASKS)
#: Embedded held-out documents on offer; a run measures on the first `retention_documents` of them.
EMBEDDED_DOCUMENTS = 1000


def load_task(source: TaskSource) -> Task:
    """The examples of a task.

    Raises:
        ConfigError: an unknown name, or files that are missing, malformed or not wanted.
    """
    if source.name in embedded.NAMES:
        for option, value in (("train-file", source.train_file), ("eval-file", source.eval_file)):
            if value is not None:
                raise ConfigError(option, value, f"task {source.name!r} is generated; tasks with files are {', '.join(files.FILE_TASKS)}")
        return embedded.load(source.name)
    if source.name in files.FILE_TASKS:
        return files.load(source.name, source.train_file, source.eval_file)
    raise ConfigError("task", source.name, f"must be one of {', '.join(NAMES)}")


def load_documents(source: TaskSource) -> list[str]:
    """General documents on which forgetting is measured: the embedded corpus's held-out part, or the user's file.

    A `.jsonl` file has one `text` a line; any other file is plain text with documents separated by blank lines.

    Raises:
        ConfigError: the file is missing, malformed or empty.
    """
    path = source.retention_file
    if path is None:
        if source.name not in embedded.NAMES:
            raise ConfigError("retention-file", path, f"task {source.name!r} needs a file of held-out general text, to measure forgetting")
        return world.documents(world.HELD_OUT_SEED, EMBEDDED_DOCUMENTS, held_out=True)
    if path.endswith(".jsonl"):
        return [str(row["text"]) for _, row in files.read_jsonl(path, ("text",), "retention-file")]
    try:
        texts = [part.strip() for part in Path(path).read_text(encoding="utf8").split("\n\n") if part.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("retention-file", path, f"cannot be read: {error}") from error
    if not texts:
        raise ConfigError("retention-file", path, "is empty; it must hold at least one document")
    return texts


def content_hashes(task: Task, documents: list[str], model_folder: str) -> dict[str, str]:
    """Hashes of what the names in a run's configuration stand for: examples, documents, and the model's files (or its hub id)."""
    folder = Path(model_folder)
    model: object = model_folder
    if folder.is_dir():
        model = [[path.name, _file_hash(path)] for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors", ".model", ".txt")]
    return {"task": task.content_hash(), "documents": digest(documents), "model": digest(model)}


def _file_hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "blake2b").hexdigest()
