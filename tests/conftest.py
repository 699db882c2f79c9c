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


@pytest.fixture
def short_run():
    """A few steps under realistic settings: dropout 0.1, padding, accumulation 2, GRIT acting early."""
    from grit.config.method import GritConfig
    from grit.config.run_config import RunConfig
    from grit.config.sections import Budget, TaskSource

    grit = GritConfig(
        cov_update_freq=1, kfac_update_freq=2, reprojection_freq=4, kfac_min_samples=8, reprojection_k=4
    )
    base = RunConfig.of(
        task=TaskSource(name="arithmetic"),
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


@cache
def _starts_ray(path):
    return "pytest.mark.ray" in path.read_text(encoding="utf8")


def pytest_collection_modifyitems(items):
    """Files that start a Ray come first: they take longest."""
    items.sort(key=lambda item: not _starts_ray(item.path))


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
