"""A real MLflow server of a test's own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request


class MlflowServer:
    """A real `mlflow server` on a database, in a process group of its own.

    May be killed and started again on the same port.
    """

    def __init__(self, folder, *options, store="server.db", environment=None):
        self._store = store
        self._options, self._environment = options, {**os.environ, **(environment or {})}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self._folder, self._process = f"http://127.0.0.1:{self.port}", folder, None

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--workers",
            "1",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--backend-store-uri",
            f"sqlite:///{self._folder / self._store}",
            "--default-artifact-root",
            str(self._folder / "artifacts"),
            *self._options,
        ]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._folder,
                env=self._environment,
            )
        deadline = time.time() + 180
        while time.time() < deadline:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer,
            ):
                if answer.status == 200:
                    return self
            time.sleep(0.2)
        self.kill()
        raise TimeoutError((self._folder / "server.log").read_text())

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
