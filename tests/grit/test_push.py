"""Kept adapters on the command line: scored, copied, merged, and pushed to a stand-in of a model hub."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from conftest import ROOT

from grit.adapters.kept_adapter import read_kept_adapter
from grit.cli.main import main
from grit.cli.run_file import read_run


class Hub(ThreadingHTTPServer):
    """Takes what the hub library sends: a repository, which files go how, and one commit."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files, self.made, self.refuses = {}, [], False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self, value, code=200):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.server.refuses:
            self._answer({"error": "no"}, 403)
        else:
            self._answer({"id": "me/toy", "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, hub = urlsplit(self.path).path, self.server
        if hub.refuses:
            self._answer({"error": "no"}, 403)
        elif path == "/api/repos/create":
            made = json.loads(body)
            hub.made.append(made)
            self._answer({"url": f"{hub.endpoint}/{made['organization']}/{made['name']}"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            self._answer({"files": [{**each, "shouldIgnore": False, "oid": None} for each in files]})
        elif path.endswith("/commit/main"):
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    hub.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            self._answer({"commitUrl": f"{hub.endpoint}/me/toy/commit/1", "commitOid": "1", "success": True})
        else:
            self._answer({}, 404)


@pytest.fixture
def hub():
    made = Hub()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "run"
    options = ("--budget-steps", "8", "--set", "eval_examples=8", "retention_documents=4")
    assert main(["train", "--output", str(folder), "--tau", "0.9", "--T", "4", *options]) == 0
    return folder


def _push(place, hub, *more):
    """In a process of its own: the hub library reads its address once."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_planted", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "grit", "push", str(place), "--to", "me/toy", *more]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)


def test_a_run_keeps_an_adapter_with_its_card(trained):
    kept, card = read_kept_adapter(trained / "adapter"), (trained / "adapter" / "README.md").read_text()
    measured = read_run(trained).measured
    assert kept.parameters == measured.effective_parameters
    assert card.startswith("---\nlibrary_name: peft")
    assert f"{measured.quality:.3f}" in card and "One run with one seed" in card


def test_a_kept_adapter_is_scored_as_its_run_was(trained, tmp_path, capsys):
    adapter = trained / "adapter"
    assert main(["eval", str(adapter)]) == 0
    measured = json.loads((adapter / "eval.json").read_text())["measured"]
    assert measured["quality"] == pytest.approx(read_run(trained).measured.quality, abs=1e-4)
    assert measured["forgetting"] == pytest.approx(read_run(trained).measured.forgetting, abs=1e-4)
    assert main(["eval", str(adapter), "--set", "rank=4"]) == 2
    assert "cannot be changed after training" in capsys.readouterr().err
    assert main(["export", str(adapter), "--to", str(tmp_path / "copy")]) == 0
    assert read_kept_adapter(tmp_path / "copy").files == read_kept_adapter(adapter).files


def test_what_is_pushed_is_the_adapter_with_its_card_and_no_path_of_this_machine(trained, hub):
    assert main(["eval", str(trained / "adapter")]) == 0
    done = _push(trained, hub, "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.endpoint}/me/toy"
    assert hub.made[0]["visibility"] == "private"
    names = {"README.md", "adapter.json", "adapter_config.json", "adapter_model.safetensors"}
    assert set(hub.files) == names
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "embedded"
    assert (
        hub.files["adapter_model.safetensors"]
        == (trained / "adapter" / "adapter_model.safetensors").read_bytes()
    )


def test_a_hub_that_refuses_is_one_line(trained, hub, tmp_path):
    hub.refuses = True
    done = _push(trained, hub)
    assert done.returncode == 2
    assert done.stderr.startswith("error: to = 'me/toy': the hub refuses") and "hf_planted" not in done.stderr
    assert main(["push", str(tmp_path), "--to", "me/toy"]) == 2


def test_an_address_that_mlflow_does_not_know_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'empty.db'}")
    assert main(["export", "models:/nobody/1"]) == 2
    assert "models:/nobody/1" in capsys.readouterr().err
