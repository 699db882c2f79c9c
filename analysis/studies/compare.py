"""Two studies side by side.

What differs in their settings, and how the settings that both measured compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.data.load import StudyData, load_study
from analysis.data.points import PointSummary, summarize_points
from analysis.page.render import render
from grit.errors import ConfigError
from grit.io.files import write_atomically

#: Objectives with their format, in the order of the table.
_SHOWN = (("quality", ".3f"), ("retention", ".3f"), ("overhead", ".1%"), ("footprint", ".0%"))
HEADER = (
    "regime",
    "method",
    "tau",
    "T",
    "lambda",
    "n",
    *(f"{name} {side}" for name, _ in _SHOWN for side in ("1", "2", "2 - 1")),
)


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """(name, first, second) of every setting in which two nested configurations differ."""
    rows = []
    for name in dict.fromkeys([*first, *second]):
        mine, theirs = first.get(name), second.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            rows += differences(mine, theirs, f"{prefix}{name}.")
        elif mine != theirs:
            rows.append([f"{prefix}{name}", str(mine), str(theirs)])
    return rows


def common_rows(first: StudyData, second: StudyData) -> list[list[str]]:
    """One row per setting (method and knobs) and regime that both studies measured."""
    mine, theirs = _by_setting(first), _by_setting(second)
    return [_row(mine[key], theirs[key]) for key in mine if key in theirs]


def _by_setting(data: StudyData) -> dict[tuple[Any, ...], PointSummary]:
    """The first of each.

    A setting that a study measured at several batch sizes counts as its design has it.
    """
    found: dict[tuple[Any, ...], PointSummary] = {}
    for p in summarize_points(data.records):
        if p.records and "small-batch" not in p.designs:
            # Q-GRIT is compared with GRIT, and QLoRA with LoRA: the backbone's form is among the differences
            # that the page lists.
            found.setdefault((p.regime, p.is_control, p.tau, p.T, p.lambda_), p)
    return found


def _row(a: PointSummary, b: PointSummary) -> list[str]:
    method = a.method if a.method == b.method else f"{a.method}, {b.method}"
    row = [a.regime, method, *a.knob_texts(), f"{len(a.seeds)}, {len(b.seeds)}"]
    for name, style in _SHOWN:
        x, y = a.mean(name), b.mean(name)
        row += [format(x, style), format(y, style), format(y - x, "+" + style)]
    return row


def build_comparison(first: Path, second: Path, page: Path) -> Path:
    """Writes the page and returns its path.

    Raises:
        ConfigError: a folder holds no study, or their qualities are different metrics.
    """
    one, two = load_study(first), load_study(second)
    metrics = {r.measured.quality_metric for data in (one, two) for r in data.records if r.measured.quality_metric}
    if len(metrics) > 1:
        raise ConfigError(
            "compare", f"{first} {second}", f"measure different qualities: {', '.join(sorted(metrics))}"
        )
    skipped = ("created", "command_line", "calls", "study_id", "fingerprint", "git_commit", "git_dirty")
    mine, theirs = ({k: v for k, v in data.study.items() if k not in skipped} for data in (one, two))
    paired = one.study.get("content") == two.study.get("content")
    write_atomically(
        page,
        render(
            "compare.html.j2",
            first=str(first),
            second=str(second),
            metric=next(iter(metrics), "quality"),
            header=HEADER,
            rows=common_rows(one, two),
            differences=differences(mine, theirs),
            same_content=paired,
        ),
    )
    return page
