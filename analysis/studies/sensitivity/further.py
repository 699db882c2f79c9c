"""What was measured beside the four objectives.

The task's further metrics and the zero-shot probes, per setting.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from analysis.data.points import PointSummary

#: Shown where a value could not be computed.
MISSING = "not computed"


def further_rows(points: Sequence[PointSummary]) -> tuple[list[str], list[list[str]], list[str]]:
    """(header, rows, notes): the untuned model first, then every setting's means over seeds.

    Notes say what could not be computed, and why.

    All empty where a study measured nothing further.
    """
    usable = [p for p in points if p.records]
    metrics = list(dict.fromkeys(name for p in usable for r in p.records for name in r.measured.metrics or {}))
    probes = list(dict.fromkeys(name for p in usable for r in p.records for name in r.measured.probes or {}))
    if not metrics and not probes:
        return [], [], []
    first = usable[0].records[0]
    base = [_shown([(first.measured.metrics or {}).get(name, {}).get("base_value")]) for name in metrics]
    base += [_shown([(first.measured.probes or {}).get(name, {}).get("base_accuracy")]) for name in probes]
    rows = [["untuned", "-", "-", "-", "-", *base, "-"]]
    problems: dict[str, str] = {}
    for p in usable:
        for r in p.records:
            problems |= {
                name: str(found["problem"])
                for name, found in (r.measured.metrics or {}).items()
                if found.get("problem")
            }
        values = [_shown([_value(r.measured.metrics, name, "value") for r in p.records]) for name in metrics]
        values += [_shown([_value(r.measured.probes, name, "accuracy") for r in p.records]) for name in probes]
        rows.append([p.regime, p.method, *p.knob_texts(), *values, str(len(p.seeds))])
    header = ["regime", "method", "tau", "T", "lambda", *metrics, *(f"probe {name}" for name in probes), "n"]
    return header, rows, [f"{name}: {problem}" for name, problem in problems.items()]


def _value(found: dict[str, dict[str, Any]] | None, name: str, key: str) -> float | None:
    value = (found or {}).get(name, {}).get(key)
    return None if value is None else float(value)


def _shown(values: Sequence[float | None]) -> str:
    """The mean; never of fewer values than there are seeds."""
    numbers = [value for value in values if value is not None]
    return f"{statistics.fmean(numbers):.3f}" if len(numbers) == len(values) else MISSING
