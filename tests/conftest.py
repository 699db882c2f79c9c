"""Shared fixtures: a small backbone, a bench that keeps it loaded, and short runs."""

from __future__ import annotations

import gc
import os
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT / "tests"))
os.environ.update(
    {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
)
# Tests run side by side: threads that wait for each other on taken cores make all of them slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
pytest_plugins = ["tiny_models", "launching"]


@pytest.fixture(scope="session")
def bench():
    from grit.runtime.allocator import keep_freed_memory
    from grit.training.workbench import Workbench

    keep_freed_memory()
    # What pytest and the libraries hold stays: a run that collects garbage at its end need not walk it.
    gc.freeze()
    return Workbench()


@pytest.fixture(scope="session")
def reference(bench):
    """Trains a configuration once: tests that only look at a run share it."""
    from grit.training.trainer import train

    return cache(lambda config: train(config, bench))


@pytest.fixture(scope="session")
def half_backbone(tmp_path_factory):
    """The first two of the embedded backbone's four layers: a run takes two thirds of the time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from grit.backbone import resolve

    folder, layers = tmp_path_factory.mktemp("half-backbone"), 2
    whole = AutoModelForCausalLM.from_pretrained(resolve("embedded"))
    whole.model.layers = whole.model.layers[:layers]
    whole.config.num_hidden_layers = layers
    whole.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve("embedded")).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def short_run(half_backbone):
    """A few steps under realistic settings: dropout 0.1, padding, accumulation 2, GRIT acting early."""
    from grit.config.method import GritConfig
    from grit.config.run_config import RunConfig
    from grit.config.sections import Budget, TaskSource

    grit = GritConfig(
        cov_update_freq=1,
        kfac_update_freq=2,
        reprojection_freq=4,
        kfac_min_samples=8,
        reprojection_k=4,
        rank_adaptation_threshold=0.96,  # at which directions are dropped
    )
    base = RunConfig.of(
        task=TaskSource(name="arithmetic"),
        model=half_backbone,
        budget=Budget(regime="step", amount=10),
        method="grit",
        learning_rate=2e-3,
        rank=8,
        alpha=16.0,
        dropout=0.1,
        micro_batch=4,
        accumulation=2,
        max_length=96,
        eval_examples=8,
        retention_documents=4,
        grit=grit,
    )
    return base.changed


@pytest.fixture
def shared_data():
    if not SHARED.is_dir():
        pytest.skip("the real data are not beside this checkout")
    return SHARED


#: Files that take more than a minute of a core, longest first: what runs beside them fills the gaps.
LONG = (
    "test_fuzz",
    "test_benchmarks",
    "test_trainer",
    "test_keep",
    "test_trunks",
    "test_real_data",
    "test_report",
    "test_examples",
    "test_methods",
    "test_family_pages",
    "test_probes",
    "test_loops",
)


@cache
def _starts_ray(path):
    return "pytest.mark.ray" in path.read_text(encoding="utf8")


def _place(item):
    """Files that start a Ray come first, then the long ones."""
    if _starts_ray(item.path):
        return -1
    return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)


def pytest_collection_modifyitems(items):
    """What takes longest begins first."""
    items.sort(key=_place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where tests run side by side, a file's stay together, and those that start a Ray follow each other.

    (pytest-xdist's own groups do nothing under this pytest: it has another kind of node id.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "ray" if _starts_ray(config.rootpath / file) else file

    return Scheduler(config, log)
