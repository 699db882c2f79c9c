"""Finds a task and its held-out general text by name, wherever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from grit.backbone import EMBEDDED, world
from grit.config.extensions import extensions_digest
from grit.config.run_config import RunConfig
from grit.config.sections import TaskSource
from grit.errors import ConfigError, among, reason
from grit.io.hashing import digest
from grit.tasks import embedded
from grit.tasks.base import Example, Task
from grit.tasks.catalog import CUSTOM, DECLARATIONS, Declaration, custom
from grit.tasks.catalog import NAMES as CATALOG
from grit.tasks.hub import hub_rows
from grit.tasks.task_files import read_rows, to_examples

NAMES = (*embedded.NAMES, *CATALOG)
#: Embedded held-out documents on offer; a run measures on the first `retention_documents` of them.
EMBEDDED_DOCUMENTS = 1000
#: Of the documents after those, so many stand for general text in training, where a run asks for it.
SOURCE_DOCUMENTS = 16
#: Where a dataset has no evaluation split, this many examples are held out from training, and at most this
#: share.
HELD_OUT, HELD_OUT_SHARE = 1000, 0.1


def load_task(source: TaskSource, *, training: bool = True) -> Task:
    """The examples of a task; without `training` only those it is evaluated on.

    Raises:
        ConfigError: an unknown name, or files that are missing, malformed or not wanted.
    """
    if source.template is not None and source.name != CUSTOM:
        raise ConfigError(
            "template", source.template, f"is for task custom; task {source.name!r} has its own"
        )
    if source.name in embedded.NAMES:
        for option, value in (("train-file", source.train_file), ("eval-file", source.eval_file)):
            if value is not None:
                raise ConfigError(
                    option,
                    value,
                    f"task {source.name!r} is generated; tasks with files are {', '.join(CATALOG)}",
                )
        return embedded.load(source.name)
    if source.name not in CATALOG:
        raise ConfigError("task", source.name, among(source.name, NAMES))
    kind = custom(source.template) if source.name == CUSTOM else DECLARATIONS[source.name]
    train: tuple[Example, ...] | None = ()
    left_out = 0
    if training:
        train, left_out = _split(kind, source, "train-file", source.train_file)
    evaluation, more = _split(kind, source, "eval-file", source.eval_file)
    if evaluation is None:
        if not training:
            raise ConfigError(
                "eval-file",
                None,
                f"task {source.name!r} has no evaluation split of its own: give the examples to score",
            )
        assert train is not None
        train, evaluation = hold_out(train)
    return Task(
        name=source.name,
        metric=kind.metrics[0],
        also=kind.metrics[1:],
        decoding=kind.decoding,
        train=train or (),
        evaluation=evaluation,
        score=kind.score,
        max_new_tokens=kind.max_new_tokens,
        left_out=left_out + more,
    )


def _split(
    kind: Declaration, source: TaskSource, option: str, path: str | None
) -> tuple[tuple[Example, ...] | None, int]:
    """The examples of one split, from the user's file or from the hub, and how many rows were left out.

    None where evaluation is to be held out from training.
    """
    evaluation = option == "eval-file"
    fields = (kind.evaluation_fields if evaluation else None) or kind.fields
    if path is not None:
        return to_examples(kind, read_rows(path, fields, option), source=option, path=path)
    published = kind.split(evaluation=evaluation)
    # Another dataset is evaluated on whatever file trains; a split of the same one goes with its own.
    if published is not None and (source.train_file is None or kind.evaluation_hub is not None):
        dataset, split = published
        rows = hub_rows(dataset, split, option=option)
        where = f"{dataset.repository}/{split}"
        return to_examples(kind, rows, source=where, path=dataset.repository)
    if option == "train-file":
        raise ConfigError(
            option,
            None,
            f"task {source.name!r} reads its examples from files: give JSON Lines, CSV or Parquet with "
            f"{', '.join(kind.fields)}",
        )
    return None, 0


def hold_out(examples: tuple[Example, ...]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(train, evaluation) of a dataset without an evaluation split.

    Those with the smallest hashes of their text are held out, at most `HELD_OUT` and `HELD_OUT_SHARE`: the
    choice depends neither on a seed nor on the order. Equal prompts stay on one side.

    Raises:
        ConfigError: there are too few examples to hold any out.
    """
    count = min(HELD_OUT, int(len(examples) * HELD_OUT_SHARE))
    if count < 1:
        raise ConfigError(
            "eval-file", None, f"must be given: of {len(examples)} training examples none can be held out"
        )
    order = sorted(range(len(examples)), key=lambda i: digest([examples[i].prompt, examples[i].answer]))
    prompts = {examples[i].prompt for i in order[:count]}
    return (
        tuple(e for e in examples if e.prompt not in prompts),
        tuple(examples[i] for i in sorted(order[:count])),
    )


def source_documents(config: RunConfig, documents: Sequence[str]) -> list[str]:
    """The documents that stand for general text in training: the first after those that are measured on.

    Raises:
        ConfigError: there are none.
    """
    measured = config.evaluation.retention_documents
    spare = list(documents[measured : measured + SOURCE_DOCUMENTS])
    if not spare:
        raise ConfigError(
            "retention-file",
            config.task.retention_file,
            f"has {len(documents)} documents, and the first {measured} are measured on: source_weight, "
            "source_penalty, general_replay and CorDA's kept knowledge need others (or a smaller "
            "retention_documents)",
        )
    return spare


def beyond_backbone(config: RunConfig) -> str | None:
    """What numbers of the embedded backbone are worth on a user's own text; None for any other pair."""
    if config.backbone.model != EMBEDDED or config.task.name in embedded.NAMES:
        return None
    return (
        "the embedded backbone has read made-up text alone: on other text it shows that files and settings "
        "work, and nothing of what a language model would do (--preset smollm2-135m or --model PATH does)"
    )


def load_documents(source: TaskSource) -> list[str]:
    """General documents on which forgetting is measured.

    The embedded corpus's held-out part, or the user's file.

    A file whose name ends in .jsonl, .csv or .parquet has a field `text`; any other file is plain text with
    documents separated by blank lines.

    Raises:
        ConfigError: the file is missing, malformed or empty.
    """
    path = source.retention_file
    if path is None:
        if source.name not in embedded.NAMES:
            raise ConfigError(
                "retention-file",
                path,
                f"task {source.name!r} needs a file of held-out general text, to measure forgetting",
            )
        return world.documents(world.HELD_OUT_SEED, EMBEDDED_DOCUMENTS, held_out=True)
    if Path(path).suffix.lower() in (".jsonl", ".csv", ".parquet"):
        return _not_blank(path, [str(row["text"]) for _, row in read_rows(path, ("text",), "retention-file")])
    try:
        texts = [
            part.strip() for part in Path(path).read_text(encoding="utf-8-sig").split("\n\n") if part.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("retention-file", path, f"cannot be read: {reason(error)}") from error
    return _not_blank(path, texts)


def _not_blank(path: str, texts: list[str]) -> list[str]:
    filled = [text for text in texts if text.strip()]
    if not filled:
        raise ConfigError("retention-file", path, "is empty; it must hold at least one document")
    return filled


def content_hashes(
    task: Task, documents: list[str], config: RunConfig, model_folder: str, *, ask_hub: bool = True
) -> dict[str, str]:
    """Hashes of what the names in a run's configuration stand for.

    These are the examples, documents, the model's files (on the hub: its commit) and, where the run has them,
    the files of its probes, the folder of its BERTScore encoder and the user's extensions. Without `ask_hub`
    a model on the hub is known by its name alone: enough for a dry run.

    Raises:
        ConfigError: the model is on the hub, and neither the hub nor the local cache tells its commit.
    """
    model: object = _folder_hashes(model_folder)
    if model is None:
        from grit.tasks.hub import model_commit

        model = [
            model_folder,
            model_commit(model_folder, config.backbone.revision) if ask_hub else config.backbone.revision,
        ]
    hashes = {"task": task.content_hash(), "documents": digest(documents), "model": digest(model)}
    if config.sequence.before:
        sources = config.sequence.sources(config.task)
        hashes["before"] = digest([load_task(source).content_hash() for source in sources])
    if extensions := extensions_digest():
        hashes["extensions"] = extensions
    files = [probe.partition("=")[2] for probe in config.evaluation.probes if "=" in probe]
    if files:
        hashes["probes"] = digest([_file_hash(Path(path)) for path in files])
    if (
        config.evaluation.bertscore_encoder is not None
        and (encoder := _folder_hashes(config.evaluation.bertscore_encoder)) is not None
    ):
        hashes["bertscore_encoder"] = digest(encoder)
    return hashes


def _folder_hashes(folder: str) -> list[list[str]] | None:
    """Names and hashes of a model's files, or None where that is no folder."""
    if not Path(folder).is_dir():
        return None
    kinds = (".json", ".safetensors", ".model", ".txt", ".py")
    return [[path.name, _file_hash(path)] for path in sorted(Path(folder).iterdir()) if path.suffix in kinds]


def _file_hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "blake2b").hexdigest()
