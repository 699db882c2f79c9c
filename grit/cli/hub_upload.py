"""The only writer to a model hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from grit.errors import ConfigError
from grit.secrets import without_secrets


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Makes the repository if need be, uploads the folder as one commit, and returns its address.

    Address and token are the hub library's own: HF_ENDPOINT, HF_TOKEN.

    Raises:
        ConfigError: it refuses.
    """
    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository, folder_path=str(folder), commit_message="An adapter with its model card"
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = without_secrets(str(error).strip().splitlines()[0])
        raise ConfigError("to", repository, f"the hub refuses: {reason}") from error
    return str(done.repo_url)
