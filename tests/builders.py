"""Studies, records and whole study folders made up for tests: no training behind them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grit.config.method import GritConfig
from grit.config.run import RunConfig
from grit.config.sections import Budget, TaskSource
from ray_jobs.design.plan import Study, plan
from ray_jobs.design.points import one_at_a_time
from ray_jobs.design.search_space import Interval, Search
from ray_jobs.records.study_file import STUDY_FILE
from ray_jobs.records.trials_file import write_trials

CONTENT = {"task": "t", "documents": "d", "model": "m"}
SPACE = {
    "tau": Interval(low=1e-3, high=0.2, complement=True),
    "T": Interval(low=1, high=40, integer=True),
    "lambda": Interval(low=1e-4, high=1e-1),
}


def study(
    *,
    seeds=(41, 42),
    regimes=("step", "time"),
    oat=None,
    search_points=None,
    sampler="tpe",
    name="test",
    **run,
):
    base = RunConfig.of(
        task=TaskSource(name="arithmetic"),
        budget=Budget(regime="step", amount=20),
        grit=GritConfig(reprojection_freq=10),
        **run,
    )
    center = {"tau": 0.99, "T": 10, "lambda": 1e-3}
    points = one_at_a_time(center, {"tau": (0.9,), "T": (5,), "lambda": (1e-1,)} if oat is None else oat)
    budgets = tuple(Budget(regime=r, amount=20 if r == "step" else 2.0) for r in regimes)
    search = (
        None if search_points is None else Search(space=SPACE, points=search_points, sampler=sampler, seed=1)
    )
    return Study(
        name=name,
        base=base,
        points=tuple(points),
        seeds=tuple(seeds),
        budgets=budgets,
        content=CONTENT,
        search=search,
    )


def ended(record, *, status="completed", quality=0.5, forgetting=0.1, overhead=0.05, footprint=0.8, **more):
    """A record with an outcome."""
    if record.tau is None:
        overhead, footprint = 0.0, 1.0
    values = {
        "status": status,
        "quality_metric": "exact_match",
        "quality": quality,
        "base_quality": 0.0,
        "forgetting": forgetting,
        "retention": float(np.exp(-forgetting)),
        "base_retention_loss": 0.5,
        "overhead": overhead,
        "footprint": footprint,
        "steps": 20,
        "skipped_steps": 0,
        "rank_events": 2,
        "train_seconds": 2.0,
        "cpu_seconds": 1.9,
        "disturbance": 0.05,
        "eval_seconds": 0.5,
        "effective_parameters": int(1000 * footprint),
        "adapter_parameters": 1000,
        "started_at": 1e9,
        "ended_at": 1e9 + 3,
        "attempts": 1,
        "step_time_ms": {"mean": 100.0, "p50": 99.0, "p95": 110.0, "p99": 120.0},
        "final_ranks": [] if record.tau is None else [8, 7],
        "curve": [
            {"step": 0, "train_seconds": 0.0, "quality": 0.0, "forgetting": 0.0, "retention": 1.0},
            {
                "step": 20,
                "train_seconds": 2.0,
                "quality": quality,
                "forgetting": forgetting,
                "retention": float(np.exp(-forgetting)),
            },
        ],
    }
    if status in ("failed",):
        values = {"status": status, "attempts": 3, "started_at": 1e9, "ended_at": 1e9 + 3}
    return replace(record, **{**values, **more})


def telemetry_rows(record, steps=20):
    grit = record.tau is not None
    return [
        {
            "step": s,
            "train_seconds": s / 10,
            "loss": 1.0 / s,
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "tokens": 100 * s,
            "effective_parameters": 800 if grit else None,
            "mean_rank": 8 - s / 20 if grit else None,
            "events": json.dumps([{"kind": "reprojection", "step": s, "trigger": "fixed", "two_sided": True}])
            if grit and s % 10 == 0
            else None,
            "ms_step": 100.0,
        }
        for s in range(1, steps + 1)
    ]


def prediction_rows(record, generator, examples=40, documents=10):
    """Example scores around the record's quality, and document losses around its forgetting."""
    scores = np.zeros(examples)
    scores[: round(record.quality * examples)] = 1.0
    rows = [
        {
            "kind": "task",
            "example_id": f"e{i}",
            "prediction": "x",
            "reference": "y",
            "score": float(s),
            "base_score": 0.0,
            "loss": 1.0,
            "base_loss": 2.0,
            "tokens": 3,
        }
        for i, s in enumerate(scores)
    ]
    for i in range(documents):
        rows.append(
            {
                "kind": "retention",
                "example_id": str(i),
                "prediction": None,
                "reference": None,
                "score": None,
                "base_score": None,
                "loss": 0.5 + record.forgetting,
                "base_loss": 0.5,
                "tokens": 20,
            }
        )
    return rows


def geometry_rows(record, generator):
    """Two layers of two modules; factors whose largest eigenvalue is 0.2."""
    grit = record.tau is not None
    return [
        {
            "module": f"model.layers.{layer}.{kind}",
            "rank": 8,
            "effective_rank": 4.0 + layer,
            "update_norm": 1.0 + layer,
            "tail_mass": 0.1,
            "sketch": generator.normal(size=4).tolist(),
            "fisher_a": [0.2, 0.1, 0.05] if grit else None,
            "fisher_g": [0.4, 0.1, 0.0] if grit else None,
        }
        for layer in range(2)
        for kind in ("q_proj", "v_proj")
    ]


def study_folder(folder, records=None, **study_options):
    """A folder as a finished study leaves it."""
    made = study(**study_options)
    trials = [trial.record for trial in plan(made)]
    if records is None:
        records = [
            ended(r, quality=0.5 + 0.05 * (i % 3), forgetting=0.1 + 0.01 * (i % 4))
            for i, r in enumerate(trials)
        ]
    generator = np.random.default_rng(0)
    for name in ("telemetry", "predictions", "geometry"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for record in records:
        if record.quality is None:
            continue
        pq.write_table(
            pa.Table.from_pylist(telemetry_rows(record)), folder / "telemetry" / f"{record.trial_id}.parquet"
        )
        pq.write_table(
            pa.Table.from_pylist(prediction_rows(record, generator)),
            folder / "predictions" / f"{record.trial_id}.parquet",
        )
        pq.write_table(
            pa.Table.from_pylist(geometry_rows(record, generator)),
            folder / "geometry" / f"{record.trial_id}.parquet",
        )
    write_trials(folder, records)
    (folder / STUDY_FILE).write_text(
        json.dumps(
            {
                "fingerprint": "f",
                "name": "test",
                "created": "2026-01-01",
                "config": made.base.to_dict(),
                "seeds": list(made.seeds),
                "budgets": {b.regime: b.amount for b in made.budgets},
                "content": CONTENT,
                "execution": {"concurrent": 2},
                "command_line": ["x.py"],
                "git_commit": None,
                "git_dirty": None,
                "platform": "p",
                "cpu_count": 2,
                "python": "3",
                "versions": {"torch": "2"},
                "sizes": {"train": 5},
            }
        )
    )
    return records
