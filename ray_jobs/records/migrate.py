"""What version 0.1 wrote (schema 1), as this version has it."""

from __future__ import annotations

import copy
from typing import Any

from grit.config.declared_knobs import ALIASES
from grit.config.registry import METHODS
from grit.config.run_config import nested_from_flat
from grit.errors import ConfigError
from grit.training.measurements import Measurements

_CALL = (
    "created",
    "command_line",
    "python",
    "platform",
    "cpu_count",
    "versions",
    "git_commit",
    "git_dirty",
    "search_points",
    "sampler",
    "caps",
    "execution",
    "seconds",
)
_PLACE = ("worker", "attempts", "reused_from", "forked_from", "forked_at_step")
_TIMES = ("queued_at", "started_at", "ended_at", "setup_seconds", "fork_seconds", "fork_eval_seconds")


def study_from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """The first call's fields also lay beside the study's own."""
    config = values.get("config")
    if not isinstance(config, dict):
        raise ConfigError("study folder", "study.json", "is malformed: it holds no configuration")
    first = {name: values[name] for name in _CALL if name in values}
    own = ("study_id", "fingerprint", "name", "budgets", "seeds", "content", "task_metric", "sizes")
    study = {name: values[name] for name in own if name in values}
    study.setdefault("study_id", str(values.get("fingerprint")))
    return {**study, "config": nested_from_flat(config), "calls": values.get("calls") or [first]}


def trial_from_version_1(values: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
    """A flat record; its configuration is the study's with what the trial changed.

    Args:
        values: of the record.
        study: the study's values, as this version has them.

    Raises:
        KeyError, TypeError: something is missing, or of another type.
    """
    measured = {name: values[name] for name in Measurements.model_fields if name in values}
    regime = values["regime"]
    amount = study["budgets"][regime]
    if regime == "step" and values["status"] == "completed" and values.get("steps"):
        amount = values["steps"]  # a point may have stretched the study's budget
    return {
        "trial_id": values["trial_id"],
        "plan": {
            name: values[name]
            for name in ("point_id", "design", "also_designs", "regime", "seed", "overrides")
        },
        "config": _config(values, study["config"], {"regime": regime, "amount": amount}),
        "status": values["status"],
        "error": values.get("error"),
        "measured": measured,
        "place": {name: values[name] for name in _PLACE if name in values},
        "times": {name: values[name] for name in _TIMES if name in values},
    }


def _config(values: dict[str, Any], base: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(base)
    config |= {"method": values["method"], "seed": values["seed"], "budget": budget}
    if not METHODS[values["method"]].geometry:
        config["audits"] = {**config["audits"], "stability": False, "truncations": []}
    overrides = {ALIASES.get(name, name): value for name, value in values["overrides"].items()}
    for section, changes in nested_from_flat(overrides).items():
        config[section] = {**config[section], **changes}
    return config
