"""Studies, records and whole study folders made up for tests: no training behind them.

Rows of tables are made by the trainer's own row makers, and records by the planner and the record's own
model, so that nothing here can differ from what a study leaves.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from analysis.page.figure_spec import FigureSpec
from grit.audits.spectra import SpectrumRow
from grit.audits.update_geometry import ModuleGeometry
from grit.config.method import GritConfig
from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.evaluation.scores import DocumentLoss, Prediction
from grit.geometry.events import Reprojection
from grit.runtime.step_sections import SECTIONS
from grit.training.measurements import Measurements
from grit.training.result import RunResult
from grit.training.score_rows import document_row, task_row
from grit.training.step_log import StepRow, component_times
from ray_jobs.design.plan import Study
from ray_jobs.design.points import one_at_a_time
from ray_jobs.design.search_space import Search, SearchRange
from ray_jobs.records.study_file import Call, Execution, StudyFile
from ray_jobs.records.trial_tables import write_rows
from ray_jobs.records.trials_file import write_trials


def without_drawing(monkeypatch):
    """Figures are computed and not drawn, which takes most of a report's time."""
    monkeypatch.setattr(FigureSpec, "save", lambda figure, _folder: figure.compute() and None)


CONTENT = {"task": "t", "documents": "d", "model": "m"}
SPACE = {
    "tau": SearchRange(low=1e-3, high=0.2, complement=True),
    "T": SearchRange(low=1, high=40, integer=True),
    "lambda": SearchRange(low=1e-4, high=1e-1),
}
CENTER = {"tau": 0.99, "T": 10, "lambda": 1e-3}
NEIGHBOURS = {"tau": (0.9,), "T": (5,), "lambda": (1e-1,)}
AMOUNTS = {"step": 20, "time": 2.0}
STARTED = 1e9


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
    """A plan of the one-at-a-time design, with a search where points are asked for."""
    base = RunConfig.of(
        task=TaskSource(name="arithmetic"),
        budget=Budget(regime="step", amount=20),
        grit=GritConfig(reprojection_freq=10),
        **run,
    )
    search = None
    if search_points is not None:
        search = Search(space=SPACE, points=search_points, sampler=sampler, seed=1)
    return Study(
        name=name,
        base=base,
        points=tuple(one_at_a_time(CENTER, NEIGHBOURS) if oat is None else oat),
        seeds=tuple(seeds),
        budgets=tuple(Budget(regime=regime, amount=AMOUNTS[regime]) for regime in regimes),
        content=CONTENT,
        search=search,
    )


def planned(made):
    """The records of a study before anything has run."""
    return [trial.record for trial in made.trials]


def study_file(made, *, seconds=None, **call):
    """`study.json` as the first call writes it."""
    first = Call(
        created="2026-01-01",
        command_line=["x.py"],
        python="3",
        platform="p",
        cpu_count=2,
        versions={"torch": "2"},
        execution=Execution(concurrent=2),
        seconds=seconds,
        **call,
    )
    return StudyFile(
        study_id="s",
        fingerprint=made.fingerprint(),
        name=made.name,
        config=made.base,
        budgets={budget.regime: budget.amount for budget in made.budgets},
        seeds=made.seeds,
        content=dict(made.content),
        sizes={"train": 5},
        calls=(first,),
    )


def scores(step, seconds, quality, forgetting):
    """One evaluation on the way, as the trainer keeps it."""
    return {
        "step": step,
        "train_seconds": seconds,
        "quality": quality,
        "forgetting": forgetting,
        "retention": float(np.exp(-forgetting)),
    }


def ended(record, *, status="completed", quality=0.5, forgetting=0.1, overhead=0.05, footprint=0.8, **more):
    """A record with an outcome; `more` overrules any field of the record or of its measurements."""
    if not record.config.uses_grit:
        overhead, footprint = 0.0, 1.0
    values = {
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
        "reprojections": 2,
        "train_seconds": 2.0,
        "cpu_seconds": 1.9,
        "disturbance": 0.05,
        "eval_seconds": 0.5,
        "effective_parameters": int(1000 * footprint),
        "adapter_parameters": 1000,
        "step_time_ms": {"mean": 100.0, "p50": 99.0, "p95": 110.0, "p99": 120.0},
        "final_ranks": [8, 7] if record.config.uses_grit else [],
        "curve": [scores(0, 0.0, 0.0, 0.0), scores(20, 2.0, quality, forgetting)],
    }
    if status == "failed":
        values = {}
    for name in list(more):
        if name in Measurements.model_fields:
            values[name] = more.pop(name)
    fields = {"status": status, "attempts": 1, "started_at": STARTED, "ended_at": STARTED + 3, **more}
    return record.changed(measured=Measurements(**values), **fields)


def result_of(record, steps=20):
    """What the trainer would have left of a record that `ended`."""
    generator = np.random.default_rng(record.plan.seed)
    return RunResult(
        status=record.status,
        reason=record.error,
        measured=record.measured,
        telemetry=telemetry_rows(record, steps),
        events=[event.row() for event in event_log(record, steps)],
        predictions=prediction_rows(record),
        geometry=geometry_rows(record, generator),
        spectra=spectra_rows(record),
    )


def telemetry_rows(record, steps=20):
    """A loss that falls, and ranks that fall slowly."""
    grit = record.config.uses_grit
    rows = []
    for step in range(1, steps + 1):
        row = StepRow(
            step=step,
            train_seconds=step / 10,
            loss=1.0 / step,
            learning_rate=1e-3,
            grad_norm=1.0,
            tokens=100 * step,
            effective_parameters=800 if grit else None,
            mean_rank=8 - step / 20 if grit else None,
        )
        spent = dict.fromkeys(SECTIONS, (100.0 + step % 7) / len(SECTIONS))
        rows.append({**row.row(), **component_times(spent)})
    return rows


def event_log(record, steps=20):
    """A reprojection every ten steps."""
    if not record.config.uses_grit:
        return []
    return [
        Reprojection(
            step=step,
            trigger="fixed",
            two_sided=True,
            ranks=(8, 7),
            retained_mass=0.9,
            retained_mass_min=0.8,
            seconds=0.01,
        )
        for step in range(10, steps + 1, 10)
    ]


def prediction_rows(record, examples=40, documents=10):
    """Scores of examples around the record's quality, and losses of documents around its forgetting."""
    likelihood = record.measured.quality_metric == "answer_logprob"
    loss = -record.measured.quality if likelihood else 1.0
    right = 0.0 if likelihood else record.measured.quality * examples
    rows = []
    for number in range(examples):
        before = prediction(number, score=0.0, loss=2.0)
        score = min(1.0, max(0.0, right - number))  # the last one that counts has what is left
        rows.append(task_row(prediction(number, score=score, loss=loss), before))
    for number in range(documents):
        before = DocumentLoss(document_id=str(number), loss=0.5, tokens=20)
        after = DocumentLoss(document_id=str(number), loss=0.5 + record.measured.forgetting, tokens=20)
        rows.append(document_row(after, before))
    return rows


def prediction(number, *, score, loss):
    return Prediction(
        example_id=f"e{number}", prediction="x", reference="y", score=score, answer_loss=loss, answer_tokens=3
    )


def geometry_rows(record, generator):
    """Two layers of two modules; factors whose largest eigenvalue is 0.2."""
    factors = {}
    if record.config.uses_grit:
        factors = {"fisher_a": [0.2, 0.1, 0.05], "fisher_g": [0.4, 0.1, 0.0]}
        factors["update_energy"] = [0.5, 0.3, 0.2]
    rows = []
    for layer in range(2):
        for kind in ("q_proj", "v_proj"):
            geometry = ModuleGeometry(
                module=f"model.layers.{layer}.{kind}",
                rank=8,
                singular_values=[1.0, 0.5],
                update_norm=1.0 + layer,
                effective_rank=4.0 + layer,
                participation_ratio=2.0,
                tail_mass=0.1,
                sketch=generator.normal(size=4).tolist(),
                curvature_exposure=0.1 * (1 + layer),
                slope=0.02 - 0.03 * layer,
                **factors,
            )
            rows.append(geometry.row())
    return rows


def spectra_rows(record):
    """At the two reprojections; ranks fall by one."""
    rows = []
    for step in (10, 20):
        for layer in range(2):
            for kind in ("q_proj", "v_proj"):
                row = SpectrumRow(
                    step=step,
                    module=f"model.layers.{layer}.{kind}",
                    rank=9 - step // 10 - layer,
                    effective_rank=2.0 + layer,
                    participation_ratio=1.5,
                    tail_mass=0.01 * step + 0.1 * layer,
                    update_norm=0.5,
                    kept_energy=0.99,
                    fisher_a=[0.2, 0.1, 0.1],
                    fisher_g=[0.4, 0.1, 0.0],
                )
                rows.append(asdict(row))
    return rows if record.config.uses_grit else []


def write_tables(folder, record):
    """All tables of a record that `ended`."""
    for kind, rows in result_of(record).tables().items():
        write_rows(folder, kind, record.trial_id, rows)


def study_folder(folder, records=None, **study_options):
    """A folder as a finished study leaves it; the records that are in it."""
    made = study(**study_options)
    if records is None:
        records = [
            ended(record, quality=0.5 + 0.05 * (number % 3), forgetting=0.1 + 0.01 * (number % 4))
            for number, record in enumerate(planned(made))
        ]
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        if record.measured.quality is not None:
            write_tables(folder, record)
    write_trials(folder, records)
    study_file(made).write(folder)
    return records
