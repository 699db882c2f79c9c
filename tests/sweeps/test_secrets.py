"""No credential leaves the process that was given it: planted ones are searched for in everything."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from launching import COMMAND, THREE, environment
from mlflow_server import MlflowServer

pytestmark = [pytest.mark.ray, pytest.mark.slow]
#: Where each is planted: an address on the command line, and the environment, as hubs and clouds read it.
IN_ADDRESS = "planted-in-address-8c1f"
IN_ENVIRONMENT = {
    "HF_TOKEN": "planted-hub-token-2b7e",
    "AWS_SECRET_ACCESS_KEY": "planted-cloud-key-91aa",
    "MY_TRACKING_PASSWORD": "planted-anywhere-77d0",
}


@pytest.fixture
def guarded(tmp_path):
    """A server that asks for a password."""
    (tmp_path / "server").mkdir()
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": IN_ADDRESS, "MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 32}
    made = MlflowServer(tmp_path / "server", "--app-name", "basic-auth", environment=secrets)
    yield made.start()
    made.kill()


@pytest.fixture
def ray_folder():
    """Where Ray keeps its session: sockets allow a short path only."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def _holding(folder, secret):
    """Files below `folder` that hold `secret`."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


def test_no_planted_credential_is_written_or_said(guarded, ray_folder, tmp_path):
    uri = guarded.uri.replace("http://", f"http://admin:{IN_ADDRESS}@")
    command = [*COMMAND, "--preset", "smoke", *THREE, "--tracking-uri", uri, "--output", "study", "--verbose"]
    # one trial fails, so that there is a traceback; another option holds a credential that is refused
    done = subprocess.run(
        [*command, "--point", "T=4", "learning_rate=1e30"],
        cwd=tmp_path,
        env={**environment(), **IN_ENVIRONMENT, "RAY_TMPDIR": str(ray_folder)},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    status = subprocess.run(
        [sys.executable, "-m", "sweeps.status", str(tmp_path / "study"), "--json"],
        cwd=Path(COMMAND[1]).parents[1],
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr + status.stdout
    assert "completed" in said and (tmp_path / "study" / "report.html").exists()
    assert list(ray_folder.rglob("*.log")), "Ray's own logs are searched too"
    leaks = {}
    for secret in (IN_ADDRESS, *IN_ENVIRONMENT.values()):
        assert secret not in said
        leaks[secret] = [*_holding(tmp_path / "study", secret), *_holding(ray_folder, secret)]
    assert not any(leaks.values()), leaks
    # the server's own table of users holds a hash; nothing else of it knows the password
    assert _holding(tmp_path / "server", IN_ADDRESS) == []
