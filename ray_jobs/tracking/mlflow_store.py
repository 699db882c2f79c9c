"""An MLflow store: opened once, made whole, by one process at a time."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from grit.errors import ConfigError
from grit.io.files import held_alone
from grit.io.local_disk import check_sqlite, sqlite_file

#: What a store raises when it does not answer, or refuses.
STORE_ERRORS = (MlflowException, OSError, ValueError, TypeError)
#: MLflow's own patience with a server, unless the user set one: ours is above it, and keeps what was not
#: delivered.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
#: It would print a run's address when the run ends, with the password that a server's address may hold.
_SILENCE = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
#: Opens the experiment in the view of trainings, not in that of language-model applications.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time: several that open a fresh SQLite file at once break its migration."""
    path = sqlite_file(uri)
    if path is None:
        yield
        return
    with held_alone(Path(f"{path}.lock")):
        yield


def _create_whole(uri: str) -> None:
    """Makes a new SQLite store beside its place and moves it there once it is migrated.

    A process that is killed in mid-migration would otherwise leave a file that no later call can open.
    """
    path = sqlite_file(uri)
    if path is None or path.exists():
        return
    for left in path.parent.glob(f".{path.name}.new*"):
        left.unlink()
    new = path.with_name(f".{path.name}.new")
    store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]  # MLflow has no types here
        f"sqlite:///{new}", _artifacts_beside(path).as_uri()
    )
    with store.engine.connect() as connection:
        # Stays with the file: a commit costs less, and those who look do not keep the writer waiting.
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    store.engine.dispose()
    new.replace(path)


def _artifacts_beside(database: Path) -> Path:
    """Where the artifacts of a SQLite store go: MLflow's own choice is the folder of whoever asks."""
    return (database.parent / "mlartifacts").absolute()


def open_experiment(uri: str, name: str, artifacts: Path | None) -> tuple[MlflowClient, str]:
    """A client of the store, and the id of the experiment of that name, which is made if need be.

    Args:
        uri: any tracking URI; a SQLite file is created and migrated here, before anybody else opens it.
        name: of the experiment.
        artifacts: where artifacts go when the experiment is new; None: beside a SQLite file, else the
            server's choice.

    Raises:
        ConfigError: the store cannot be opened, or is SQLite on a network file system.
    """
    check_sqlite("tracking-uri", uri, "give an MLflow server's URL, or a path on a disk of this machine")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    for variable, value in _PATIENCE.items():
        os.environ.setdefault(variable, value)
    os.environ.update(_SILENCE)
    try:
        with _alone(uri):
            _create_whole(uri)
            client = MlflowClient(tracking_uri=uri)
            existing = client.get_experiment_by_name(name)
            if existing is not None:
                return client, existing.experiment_id
            database = sqlite_file(uri)
            if artifacts is None and database is not None:
                artifacts = _artifacts_beside(database)
            location = None if artifacts is None else artifacts.absolute().as_uri()
            return client, client.create_experiment(name, location, tags=_KIND)
    except (MlflowException, OSError) as error:
        raise refused(uri, error) from error


def refused(uri: str, error: Exception) -> ConfigError:
    """The store cannot be used."""
    return ConfigError("tracking-uri", uri, f"cannot be used: {str(error).splitlines()[0]}")
