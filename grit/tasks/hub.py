"""Rows from the Hugging Face hub, pinned to a commit.

From its cache where it is there, else from the network, and never a hang.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import httpx2

from grit.errors import ConfigError
from grit.tasks.catalog import HubSource
from grit.tasks.task_files import Numbered

#: Seconds after which the hub counts as out of reach.
TIMEOUT = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_rows(source: HubSource, split: str, *, option: str) -> list[Numbered]:
    """The rows of one split, numbered from 1.

    Raises:
        ConfigError: it is neither in the local cache nor within reach; names the file to give instead.
    """
    import datasets

    datasets.disable_progress_bars()
    reachable = _ask("dataset", source.repository, source.revision) is not None
    try:
        with contextlib.nullcontext() if reachable else _offline():
            loaded = datasets.load_dataset(
                source.repository, source.config, split=split, revision=source.revision
            )
    except (OSError, ValueError, httpx2.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            option,
            None,
            f"{source.repository} is neither cached here nor within reach: give the {split} split as a "
            "file (JSON Lines, "
            "CSV or Parquet), or run once with network",
        ) from error
    return list(enumerate(loaded.to_list(), 1))


def reachable() -> contextlib.AbstractContextManager[None]:
    """What to do work that may need the hub in.

    Nothing special where the hub answers, else without any attempt to reach it.
    """
    return contextlib.nullcontext() if _ask("dataset", "openai/gsm8k", None) is not None else _offline()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keeps the libraries from trying again and again to reach what has just been found out of reach."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _ask(kind: str, repository: str, revision: str | None) -> str | None:
    """The commit that the hub knows under this name, or None where it does not answer or does not know it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        info = HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=TIMEOUT)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx2.HTTPError, OSError):
        return None
    return info.sha


def model_commit(model: str, revision: str | None) -> str:
    """The commit of a model on the hub: the hub's word, else what the local cache holds.

    Raises:
        ConfigError: neither knows it.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    commit = _ask("model", model, revision)
    if commit is not None:
        return commit
    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        cached = None
    in_path = _COMMIT.search(cached) if isinstance(cached, str) else None
    if in_path is None:
        raise ConfigError(
            "model", model, "is neither a folder here, nor in the local cache, nor within reach on the hub"
        )
    return in_path.group()
