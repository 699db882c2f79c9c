"""The deployment files, offline: what Ray makes of them, what its scheduler would start, what must hold."""

import shlex

import pytest
import yaml
from conftest import ROOT

from ray_jobs.design.study_presets import preset
from ray_jobs.execution.drain import main as drain
from sweeps.tau_T_lambda import SCRIPT

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def volume_and_job():
    return list(yaml.safe_load_all((ROOT / "deploy/kuberay/study.yaml").read_text()))


@pytest.fixture(scope="module")
def cluster(volume_and_job):
    return volume_and_job[1]["spec"]["rayClusterSpec"]


@pytest.fixture(scope="module")
def node_types(cluster):
    """What Ray's own autoscaler makes of the cluster's groups."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    resource = {"metadata": {"name": "grit", "namespace": "default"}, "spec": cluster}
    return _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]


@pytest.fixture(params=["cluster.yaml", "cluster-aws.yaml"])
def launched(request):
    """The node types of a file for `ray up`, as the autoscaler that it starts reads them."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    text = yaml.safe_load((ROOT / request.param).read_text())
    configs = AutoscalingConfig(text, skip_content_hash=True).get_node_type_configs()
    return {
        name: {
            "min_workers": config.min_worker_nodes,
            "max_workers": config.max_worker_nodes,
            "resources": config.resources,
            "priority": config.priority,
        }
        for name, config in configs.items()
    }


def _started(node_types, trials, **availability):
    """Node types that Ray's scheduler would start for so many waiting trials of the 8B preset."""
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    class Silent:
        def log_cluster_scheduling_update(self, *_, **__):
            pass

    configs = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=node["min_workers"],
            max_worker_nodes=node["max_workers"],
            resources=node["resources"],
            priority=node.get("priority", 0),
        )
        for name, node in node_types.items()
        if not name.startswith("head")
    }
    needs = preset("llama-3.1-8b", "qgrit").resources
    wanted = {**needs.as_dict(), "accelerator_type:A100": 0.001}
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=configs,
        max_num_nodes=100,
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(wanted) for _ in range(trials)]
        ),
        recoverable_resource_availabilities=availability,
    )
    reply = ResourceDemandScheduler(Silent()).schedule(request)
    assert not reply.infeasible_resource_requests or trials > 20
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_groups_are_what_ray_understands(node_types, cluster):
    workers = {name: node for name, node in node_types.items() if "a100" in name}
    assert len(workers) == 2
    for node in workers.values():
        assert node["resources"]["GPU"] == 1
        assert node["resources"]["accelerator_type:A100"] == 1
        assert node["min_workers"] == 0
    head = next(node for name, node in node_types.items() if "head" in name)
    assert head["resources"]["CPU"] == 0  # no worker stands on the head
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert cluster["rayVersion"] == pinned["ray"]


def test_spot_nodes_are_preferred_and_on_demand_ones_are_the_fallback(node_types):
    assert _started(node_types, 4) == {"a100-spot": 4}
    assert _started(node_types, 4, **{"a100-spot": 0.0}) == {"a100-on-demand": 4}
    assert _started(node_types, 18) == {"a100-spot": 16, "a100-on-demand": 2}


def test_ray_up_prefers_spot_nodes_and_falls_back(launched):
    """`ray up` starts autoscaler v2 unless it is told otherwise."""
    spot, fallback = launched["a100_spot"], launched["a100_on_demand"]
    per_node = spot["resources"]["GPU"]
    assert _started(launched, 2 * per_node) == {"a100_spot": 2}
    assert _started(launched, 2 * per_node, a100_spot=0.0) == {"a100_on_demand": 2}
    every = per_node * (spot["max_workers"] + 1)
    assert _started(launched, every) == {"a100_spot": spot["max_workers"], "a100_on_demand": 1}
    assert fallback["max_workers"] >= 2


def test_ssh_is_open_to_nobody_that_was_not_named():
    aws = yaml.safe_load((ROOT / "cluster-aws.yaml").read_text())
    groups = [node["node_config"]["SecurityGroupIds"] for node in aws["available_node_types"].values()]
    assert groups == [["sg-CHANGE-ME"]] * 3  # where any type names none, Ray makes one that is open
    assert len(aws["provider"]["availability_zone"].split(",")) > 1
    assert "default-allow-ssh --source-ranges" in (ROOT / "cluster.yaml").read_text()


def test_skypilot_runs_a_command_of_ours_with_servers_for_its_databases():
    """Validated by hand against the schemas of SkyPilot 0.14.1, which is no dependency."""
    task = yaml.safe_load((ROOT / "deploy/skypilot/study.yaml").read_text())
    assert task["resources"]["any_of"] == [{"use_spot": True}, {"use_spot": False}]
    assert set(task["secrets"].values()) == {None}
    words = shlex.split(task["run"].replace("\\\n", " "))
    assert words[1] == "sweeps/tau_T_lambda.py"
    places = {"$MLFLOW_TRACKING_URI": "https://mlflow", "$OPTUNA_STORAGE": "postgresql://optuna"}
    line, _ = SCRIPT.read([places.get(word, word) for word in words[2:]])
    assert not line.execution.tracking_uri.startswith("sqlite")
    assert not line.search.optuna_storage.startswith("sqlite")
    gpus = int(task["resources"]["accelerators"].partition(":")[2])
    assert line.execution.max_concurrent == gpus
    files = (line.execution.output, line.data.train_file, line.data.eval_file, line.data.retention_file)
    assert all(any(str(file).startswith(place) for place in task["file_mounts"]) for file in files)


def test_the_job_s_command_is_one_of_ours_and_is_tried_again(volume_and_job):
    volume, job = volume_and_job
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["python", "/opt/grit/sweeps/tau_T_lambda.py"]
    line, _ = SCRIPT.read(words[2:])
    assert (line.execution.execution, line.execution.may_grow) == ("ray", True)
    assert line.execution.storage.startswith("s3://")
    assert job["spec"]["backoffLimit"] > 0
    mounts = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]
    assert str(line.execution.output).startswith(mounts[0]["mountPath"])
    files = (line.data.train_file, line.data.eval_file, line.data.retention_file)
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    templates = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *groups]
    for template in templates:  # every node reads them under the same path
        places = [
            mount["mountPath"] for mount in template["template"]["spec"]["containers"][0]["volumeMounts"]
        ]
        assert all(any(str(file).startswith(place) for place in places) for file in files)
    assert volume["spec"]["accessModes"] == ["ReadWriteOnce"]  # SQLite lies there


def test_nothing_is_open_and_nothing_secret_is_written_down(volume_and_job, cluster):
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2"
    text = (ROOT / "deploy/kuberay/study.yaml").read_text()
    assert "secretRef: {name: grit-secrets}" in text
    containers = [group["template"]["spec"]["containers"][0] for group in cluster["workerGroupSpecs"]]
    for container in containers:
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:3] == ["python", "-m", "ray_jobs.execution.drain"]
        assert {item["name"] for item in container["env"]} == {"HF_HOME"}


def test_a_drain_without_a_head_is_refused(monkeypatch, capsys):
    for name in ("RAY_ADDRESS", "FQ_RAY_IP"):
        monkeypatch.delenv(name, raising=False)
    assert drain([]) == 2
    assert "address = None" in capsys.readouterr().err


@pytest.mark.parametrize("name, constrained", [("Dockerfile", 2), ("deploy/cpu.Dockerfile", 1)])
def test_the_image_is_made_of_the_pinned_environment(name, constrained):
    text = (ROOT / name).read_text()
    assert text.count("--constraint constraints.txt") == constrained
    assert '"torch==2.13.0"' in text
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
