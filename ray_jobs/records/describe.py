"""Trials and durations in a few words, as people read them."""

from __future__ import annotations

from grit.config.method import ALIASES
from ray_jobs.records.trial_record import TrialRecord


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def describe(record: TrialRecord) -> str:
    """A trial in a few words."""
    if record.tau is None:
        knobs = "control"
    else:
        cadence = "none" if record.T is None else record.T
        knobs = f"tau={record.tau:.4g} T={cadence} lambda={record.lambda_:.3g}"
    other = "".join(
        f" {name}={value}"
        for name, value in record.overrides.items()
        if name not in ALIASES and name not in ALIASES.values()
    )
    return f"{record.method:5} {record.regime} seed {record.seed} {record.design:7} {knobs}{other}"
