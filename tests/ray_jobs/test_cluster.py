import copy
import os
import socket

import pytest
import yaml
from conftest import ROOT

from grit.errors import ConfigError
from ray_jobs.design.resources import TrialResources
from ray_jobs.execution.cluster import (
    STARTS,
    SlowStartError,
    check_address,
    check_concurrency,
    connect,
    cores,
)


@pytest.fixture(params=["cluster.yaml", "cluster-aws.yaml"])
def config(request):
    return yaml.safe_load((ROOT / request.param).read_text())


@pytest.mark.filterwarnings("ignore")
def test_cluster_file_is_valid_for_rays_launcher(config):
    """Ray's own preparation and schema, offline; and the schema does catch a mistake."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))
    config["available_node_types"]["a100_spot"]["min_workers"] = 99
    with pytest.raises(ValueError, match="min_workers"):
        validate_config(prepare_config(config))


def test_heads_expose_nothing_and_hold_no_gpu(config):
    start = next(line for line in config["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start
    assert "--num-gpus=0" in start
    assert "RAY_AUTH_MODE=token" in start
    assert config["available_node_types"]["head"]["max_workers"] == 0
    workers = {name: node for name, node in config["available_node_types"].items() if name != "head"}
    assert all(
        node["resources"]["accelerator_type:A100"] == 1 and node["min_workers"] == 0
        for node in workers.values()
    )
    spot = [name for name, node in workers.items() if "SPOT" in str(node["node_config"]).upper()]
    assert spot == ["a100_spot"]
    assert set(workers) == {"a100_spot", "a100_on_demand"}


def test_concurrency_that_would_disturb_clocks_is_refused():
    check_concurrency(None, cores(), TrialResources(cpus=1))
    with pytest.raises(ConfigError, match=f"max-concurrent = {cores() + 1}.*at most {cores()}"):
        check_concurrency(None, cores() + 1, TrialResources(cpus=1))
    check_concurrency("somewhere:1", 1000, TrialResources(cpus=1))  # a cluster is asked what it has


def test_an_address_where_nobody_answers_is_refused_within_seconds():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
    with pytest.raises(ConfigError, match="no Ray answers there"):
        check_address(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="no Ray answers there"):
        check_address("not an address")


def test_a_ray_that_a_busy_machine_starts_too_slowly_is_started_again(monkeypatch):
    """Ray waits for half a minute and raises a bare Exception; anything else is raised at once."""
    tried = []
    monkeypatch.setattr("os.environ", os.environ.copy())

    def slow(**_settings):
        tried.append(len(tried))
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr("ray.init", slow)
    with pytest.raises(SlowStartError, match="Ray did not start in 3 attempts"):
        connect(None, verbose=False)
    assert len(tried) == STARTS

    def broken(**_settings):
        raise RuntimeError("something else")

    monkeypatch.setattr("ray.init", broken)
    with pytest.raises(RuntimeError, match="something else"):
        connect(None, verbose=False)
