"""What stands in the runs of a study, a setting and a trial: names, parameters, tags, numbers. Plain data.

What decided a run is a parameter, what identifies it is a tag.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grit.config.declared_knobs import ALIASES, KNOBS
from grit.config.run_config import RunConfig
from grit.config.sections import AuditConfig
from grit.io.files import Row
from grit.training.measurements import OBJECTIVES, TRACKED
from ray_jobs.records.describe import shown_value
from ray_jobs.records.study_file import StudyFile
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import SettingMarks

#: Points of a curve that are kept: more cost the store more than they show.
CURVE_POINTS = 50
#: What telemetry has of every step, by its column.
CURVES = ("loss", "learning_rate", "grad_norm", "mean_rank", "effective_parameters", "ms_step")
#: Verdicts on whether a setting is safe; a family's pages have other words.
SAFETY = ("safe", "unsafe", "open", "out of reach")
#: Characters that MLflow keeps of a parameter.
PARAM_ROOM = 500


class MetricPoint(NamedTuple):
    """One value of a metric: when, in milliseconds since the epoch, and at which step (or count)."""

    name: str
    value: float
    at: int
    step: int


def milliseconds(seconds: float | None) -> int:
    """Unix seconds as MLflow has them; now where there are none."""
    return int(1000 * (seconds or time.time()))


def config_params(config: RunConfig) -> dict[str, str]:
    """Every setting of a run but its seed and budget, under its name in the vocabulary; the knobs by theirs.

    GRIT's own settings stand only where GRIT acts.
    """
    values = config.to_dict()
    nested = {name: part for name, part in values.items() if isinstance(part, dict) and name != "budget"}
    if not config.uses_grit:
        nested.pop("grit", None)
    flat: dict[str, Any] = {"method": config.method}
    for section, part in nested.items():
        for name, value in part.items():
            # What two sections have (the clipping norm, a seed) is the run's: GRIT's is filled in from it.
            flat.setdefault("task" if (section, name) == ("task", "name") else name, value)
    long_names = set(ALIASES.values())
    params = {name: shown_value(value) for name, value in flat.items() if name not in long_names}
    if config.uses_grit:
        params |= {name: knob_value(config.setting(name)) for name in KNOBS}
    return {name: value[:PARAM_ROOM] for name, value in params.items()}


def knob_value(value: float | int | None) -> str:
    """As MLflow's parallel coordinates read it."""
    return "none" if value is None else str(value)


def setting_params(record: TrialRecord) -> dict[str, str]:
    """Of a setting in one regime: what decides its results.

    MLflow's compare page opens on the first three that differ: what is only measured beside, and by which
    design it came to be asked for, would stand before the knobs.
    """
    config, budget = record.config, record.config.budget
    decisive = config_params(config.changed(audits=AuditConfig()))
    return {**decisive, "regime": budget.regime, "budget": str(budget.amount)}


def trial_params(record: TrialRecord) -> dict[str, str]:
    """Of a trial."""
    place = {"design": record.plan.design, "seed": str(record.plan.seed)}
    return {**setting_params(record), **config_params(record.config), **place}


def setting_name(record: TrialRecord) -> str:
    """What a setting changes, as people read it."""
    plan = record.plan
    if "control" in plan.designs:
        return f"{record.method} (control), {plan.regime}"
    changed = ", ".join(f"{name}={shown_value(value)}" for name, value in plan.overrides.items())
    if not changed and record.config.uses_grit:
        knobs = ", ".join(f"{name}={knob_value(record.config.setting(name))}" for name in KNOBS)
        changed = f"default ({knobs})"
    return f"{record.method}, {changed or 'default'}, {plan.regime}"[:250]


def trial_name(record: TrialRecord) -> str:
    """The setting's name, the seed, and the beginning of the id."""
    return f"{setting_name(record)}, seed {record.plan.seed}, {record.trial_id[:6]}"


def setting_tags(study: StudyFile, record: TrialRecord) -> dict[str, str]:
    """Of a setting in one regime."""
    plan = record.plan
    return {
        "kind": "setting",
        "study_id": study.study_id,
        "study": study.name,
        "point_id": plan.point_id,
        "regime": plan.regime,
        "design": plan.design,
        "task": record.config.task_title,
        "method": record.method,
    }


def trial_tags(study: StudyFile, record: TrialRecord) -> dict[str, str]:
    """Of a trial that has begun."""
    own = {"kind": "trial", "trial_id": record.trial_id, "seed": str(record.plan.seed)}
    return {**setting_tags(study, record), **own, "status": record.status}


def ending_tags(record: TrialRecord) -> dict[str, str]:
    """What is known of a trial once it has ended: how, where, and on what."""
    tags = {"status": record.status}
    optional = {
        "error": record.error,
        "worker": record.place.worker,
        "device": record.measured.device,
        "reused_from": record.place.reused_from,
        "forked_from": record.place.forked_from,
    }
    tags |= {name: value[:500] for name, value in optional.items() if value}
    admission = record.place.deliveries[-1].admission if record.place.deliveries else None
    return tags | {f"node.{name}": shown_value(value)[:500] for name, value in (admission or {}).items()}


def study_params(study: StudyFile) -> dict[str, str]:
    """What all trials begin from."""
    budgets = {f"budget_{regime}": str(amount) for regime, amount in study.budgets.items()}
    return {**config_params(study.config), **budgets, "seeds": " ".join(map(str, study.seeds))}


def study_tags(study: StudyFile) -> dict[str, str]:
    """Where the study comes from."""
    call = study.last_call
    tags = {
        "kind": "study",
        "study_id": study.study_id,
        "study": study.name,
        "fingerprint": study.fingerprint,
        "mlflow.source.name": " ".join(call.command_line)[:500],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": call.git_commit or "",
        "mlflow.source.git.dirty": "" if call.git_dirty is None else str(call.git_dirty).lower(),
        "python": call.python or "",
        "platform": call.platform or "",
        **{f"version.{name}": version for name, version in call.versions.items()},
    }
    return {name: value for name, value in tags.items() if value}


def mark_tags(marks: SettingMarks) -> dict[str, str]:
    """What an analysis marks a setting's run with, and those of its trials."""
    tags = {
        f"pareto.{marks.regime}": str(marks.on_front).lower(),
        "recommended": str(marks.recommended).lower(),
    }
    if marks.verdict is not None:
        tags["verdict"] = marks.verdict
        if marks.verdict in SAFETY:
            tags["safe"] = str(marks.verdict == "safe").lower()
    return tags


def setting_points(marks: SettingMarks, at: int) -> list[MetricPoint]:
    """A setting's means with their intervals, at its number of seeds.

    The compare page opens on the first.
    """
    numbers: dict[str, float | None] = {}
    for name, aggregate in marks.objectives.items():
        numbers |= {name: aggregate.mean, f"{name}.low": aggregate.low, f"{name}.high": aggregate.high}
    numbers |= {"n": marks.seeds, "front_probability": marks.front_probability}
    return [
        MetricPoint(name, float(value), at, marks.seeds)
        for name, value in numbers.items()
        if value is not None
    ]


def model_request(record: TrialRecord, folder: Path) -> dict[str, Any]:
    """What the model of a trial's adapter is logged with."""
    numbers = {name: getattr(record.measured, name) for name in OBJECTIVES}
    return {
        "folder": str(folder.absolute()),
        "params": trial_params(record),
        "numbers": {name: float(value) for name, value in numbers.items() if value is not None},
        "step": record.measured.steps or 0,
    }


def ending_points(
    record: TrialRecord, telemetry: Sequence[Row], shown: Collection[tuple[str, int]] = ()
) -> list[MetricPoint]:
    """Tracked quantities at the last step, and curves thinned to `CURVE_POINTS`.

    Of a stretch on which a curve does not change its ends are kept, which a line joins.

    Args:
        record: the trial.
        telemetry: a row of every step.
        shown: (metric, step) of what was delivered while it ran, which is not repeated.
    """
    measured, end = record.measured, record.measured.steps or 0
    start, ended_at = milliseconds(record.times.started_at), milliseconds(record.times.ended_at)
    numbers = {name: getattr(measured, name) for name in TRACKED if name not in CURVES}
    numbers |= {f"metric/{name}": entry["value"] for name, entry in (measured.metrics or {}).items()}
    numbers |= {f"probe/{name}": entry["accuracy"] for name, entry in (measured.probes or {}).items()}
    points = [
        MetricPoint(name, float(value), ended_at, end) for name, value in numbers.items() if value is not None
    ]
    on_the_way = [point for point in measured.curve or [] if point["step"] < end]
    thinned = [*telemetry[:: max(1, -(-len(telemetry) // CURVE_POINTS))], *telemetry[-1:]]
    for rows, names in ((on_the_way, ("quality", "answer_logprob", "retention")), (thinned, CURVES)):
        curves: list[MetricPoint] = []
        for row in rows:
            curves += row_points(row, names, start + int(1000 * row["train_seconds"]))
        points += _bends(curves)
    return [point for point in points if (point.name, point.step) not in shown]


def _bends(points: Sequence[MetricPoint]) -> list[MetricPoint]:
    """Without those that lie between two equal ones of their curve."""
    curves: dict[str, list[MetricPoint]] = {}
    for point in points:
        curve = curves.setdefault(point.name, [])
        if len(curve) > 1 and curve[-1].value == curve[-2].value == point.value:
            curve.pop()
        curve.append(point)
    return [point for curve in curves.values() for point in curve]


def row_points(row: Mapping[str, Any], names: Sequence[str], at: int) -> list[MetricPoint]:
    """The numbers of one step."""
    return [
        MetricPoint(name, float(row[name]), at, row["step"]) for name in names if row.get(name) is not None
    ]
