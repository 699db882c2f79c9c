"""Trials and durations in a few words, as people read them."""

from __future__ import annotations

from typing import Any

from grit.config.declared_knobs import ALIASES, KNOBS
from grit.training.measurements import OBJECTIVES
from ray_jobs.records.trial_record import TrialRecord


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def shown_value(value: Any) -> str:
    """A setting's value as people write it."""
    if value is None or value in ((), []):
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def changes(record: TrialRecord) -> dict[str, str]:
    """What a trial's setting changes against the study's base, beside the three knobs, as people write it."""
    own = {*ALIASES, *ALIASES.values()}
    return {name: shown_value(value) for name, value in record.plan.overrides.items() if name not in own}


def changes_in_words(record: TrialRecord) -> str:
    """The same as `field=value`, one after the other; empty where only knobs are changed."""
    return " ".join(f"{name}={value}" for name, value in changes(record).items())


def knobs_of(record: TrialRecord) -> dict[str, str]:
    """A trial's three knobs as people write them; empty where its method has none."""
    if not record.config.uses_grit:
        return {}
    return {name: knob.shown(record.config.setting(name)) for name, knob in KNOBS.items()}


def describe(record: TrialRecord) -> str:
    """A trial in a few words."""
    plan = record.plan
    knobs = " ".join(f"{name}={value}" for name, value in knobs_of(record).items())
    words = [record.method, plan.regime, f"seed {plan.seed}", plan.design, knobs, changes_in_words(record)]
    return " ".join(word for word in words if word)


def outcome(record: TrialRecord) -> str:
    """What came of a trial, in a line: its objectives, or why it has none."""
    measured = record.measured
    if record.status != "completed":
        return f"{record.status}: {record.error}"
    scores = [f"{name} {quantity.shown(getattr(measured, name))}" for name, quantity in OBJECTIVES.items()]
    return f"{'  '.join(scores)}  {measured.steps} steps in {_took(record)}"


def _took(record: TrialRecord) -> str:
    """Seconds of training, on the clock that its budget was spent on."""
    spent = record.measured.cpu_seconds
    if record.plan.regime == "time" and record.config.execution.clock == "cpu" and spent is not None:
        return f"{spent:.1f} s of processor time"
    return f"{record.measured.train_seconds:.1f} s"
