"""On clusters, for real.

A job submitted to a head with token authentication, a node that dies, nodes that come and go.
"""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from launching import assert_nothing_lies, run_script

from grit.config.extensions import VARIABLE as EXTENSIONS
from grit.config.registry import METHODS
from ray_jobs.records.study_file import read_study

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]

#: What a submitted job is told of its commit: Ray leaves `.git` behind.
COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: A namespace of processes: what is started inside ends with it, whatever happens, and nobody else's Ray can
#: be seen or stopped from there.
ISOLATED = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child=KILL"]


def _isolation():
    for command in (ISOLATED, ["unshare", "--user", "--map-root-user", *ISOLATED[1:]]):
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True).returncode == 0
        ):
            return command
    pytest.skip("this machine lets nobody make a process namespace")


def _port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SUBMIT = """
set -e
mkdir -p $HOME/.ray
ray get-auth-token --generate > /dev/null
ray start --head --port={port} --dashboard-port={dashboard} --dashboard-host=127.0.0.1 --num-cpus=2 \\
    --dashboard-agent-listen-port={agent} --disable-usage-stats > {out}/head.txt 2>&1
submit() {{  # a head that has just started may have no agent yet
    log=$1; shift
    for try in 1 2 3 4 5 6; do
        ray job submit --address http://127.0.0.1:{dashboard} --working-dir {root} \
            --runtime-env-json '{excludes}' -- "$@" > $log 2>&1
        code=$?
        grep -q "No available agent" $log || return $code
        sleep 5
    done
    return $code
}}
set +e
submit {out}/job.txt python sweeps/tau_T_lambda.py --preset smoke --regimes step --budget-steps 12 \\
    --search-points 0 --T 1 --lambda 1e-3 --max-concurrent 1 --output {out}/study \\
    --tracking-uri sqlite:///{out}/mlflow.db
echo $? > {out}/job.rc
python {root}/examples/ray_job.py http://127.0.0.1:{dashboard} {out}/bad --tau 7 > {out}/bad.txt 2>&1
echo $? > {out}/bad.rc
env -u RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH=/nowhere \\
    ray job list --address http://127.0.0.1:{dashboard} > {out}/stranger.txt 2>&1
echo $? > {out}/stranger.rc
"""


def test_a_job_submitted_as_the_readme_says(tmp_path):
    """`ray start --head`, then `ray job submit`.

    The study runs on that head, bad input fails its job, a stranger without the token gets nothing.
    """
    isolation = _isolation()
    script = SUBMIT.format(
        port=_port(),
        dashboard=_port(),
        agent=_port(),
        out=tmp_path,
        root=ROOT,
        excludes=json.dumps(
            {"excludes": [".git", ".venv", "results"], "env_vars": {"GRIT_COMMIT": f"{COMMIT}-dirty"}}
        ),
    )
    home = tmp_path / "home"
    home.mkdir()
    code, said = run_script(
        [*isolation, "bash", "-c", script], tmp_path, 400, HOME=str(home), RAY_AUTH_MODE="token"
    )
    assert code == 0, said + (tmp_path / "head.txt").read_text()
    job = (tmp_path / "job.txt").read_text()
    assert (tmp_path / "job.rc").read_text().strip() == "0", job
    assert_nothing_lies(
        tmp_path / "study", uri=f"sqlite:///{tmp_path / 'mlflow.db'}", statuses=["completed"] * 3
    )
    call = read_study(tmp_path / "study").made_by
    assert (call.git_commit, call.git_dirty) == (COMMIT, True)
    assert "report.html" in job
    assert "succeeded" in job
    assert (tmp_path / "bad.rc").read_text().strip() == "1"  # submitted, and followed, from Python
    assert "tau (rank_adaptation_threshold) = 7" in (tmp_path / "bad.txt").read_text()
    assert not (tmp_path / "bad").exists()
    assert (tmp_path / "stranger.rc").read_text().strip() != "0"


@pytest.mark.slow
def test_a_node_that_dies_takes_no_trial_with_it(tmp_path, monkeypatch):
    """The node under the running worker is killed.

    The trial goes on from its checkpoint on another node, and every record is whole. The driver alone was
    told of the user's own modules; every worker has them.
    """
    code, said = run_script(
        [sys.executable, str(Path(__file__).with_name("node_death.py")), str(tmp_path)], tmp_path, 400
    )
    assert code == 0, said
    monkeypatch.setenv(EXTENSIONS, "my_methods")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setitem(METHODS, "mine", None)  # which the module declares; it goes with the test
    records = assert_nothing_lies(
        tmp_path / "study", uri=f"sqlite:///{tmp_path / 'mlflow.db'}", statuses=["completed"] * 3
    )
    (hit,) = [record for record in records if record.place.attempts > 1]
    assert hit.measured.resumed_from_step >= 5
    assert list(read_study(tmp_path / "study").made_by.extensions) == ["my_methods"]


def _growing(folder, engine, steps):
    """Five trials that ask for an A100 each, on Ray's fake autoscaler; the numbers of nodes that it had."""
    script = Path(__file__).with_name("growing.py")
    command = [*_isolation(), sys.executable, str(script), str(folder), engine, str(steps)]
    code, said = run_script(command, folder, 500)
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if line.startswith("nodes with an A100 while trials ran:")]
    during, after = line.partition(": ")[2].split("; afterwards: ")
    return [int(count) for count in during.split()], int(after)


@pytest.mark.slow
def test_a_cluster_grows_for_waiting_trials(tmp_path):
    """Two nodes come, run spread over them, and go."""
    during, after = _growing(tmp_path, "warm", 30)
    assert (during[0], max(during), after) == (0, 2, 0)
    records = assert_nothing_lies(
        tmp_path / "study", uri=f"sqlite:///{tmp_path / 'mlflow.db'}", statuses=["completed"] * 5
    )
    assert len({record.place.worker for record in records}) == 2


@pytest.mark.slow
def test_a_node_without_work_goes_while_trials_run(tmp_path):
    """Of five trials, two at once, the last runs alone: nobody holds the other node for it."""
    during, after = _growing(tmp_path, "ray", 900)
    assert (during[0], max(during), after) == (0, 2, 0)
    assert 1 in during[during.index(2) :]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert_nothing_lies(tmp_path / "study", uri=uri, statuses=["completed"] * 5)
