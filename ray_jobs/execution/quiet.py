"""Ray as a guest: connected for a while, its chatter in a file of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from ray_jobs.execution.cluster import PLACE_VARIABLES, connect

#: Whether Tune goes without its own logs of results.
OWN_LOGS = "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"


@contextlib.contextmanager
def connected(address: str | None, *, verbose: bool) -> Iterator[None]:
    """A Ray connection that is ended with the block; quiet unless asked otherwise."""
    if not verbose:
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
    before = {name: os.environ.get(name) for name in (*PLACE_VARIABLES, OWN_LOGS)}
    # Tune would write each trial's results a second to a fourth time, and import torch here for TensorBoard.
    os.environ.setdefault(OWN_LOGS, "1")
    connect(address, verbose=verbose)
    import ray

    try:
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():  # what is right here may be wrong on the next cluster
            if value is None:
                os.environ.pop(name, None)


@contextlib.contextmanager
def chatter(log: Path, *, keep: bool) -> Iterator[None]:
    """Sends what Tune and the raylet print to a file, unless `keep`.

    Progress and errors have their own places.
    """
    if keep:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = _Log(log)
    try:
        with contextlib.redirect_stdout(handle):
            yield
    finally:
        handle.close()


class _Log(io.TextIOBase):
    """A log file that nobody must fail for: what a full disk does not take is lost."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, text: str) -> int:
        """Writes at once, or not at all."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, text.encode())
        return len(text)

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
