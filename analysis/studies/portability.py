"""Do the defaults travel?

One (tau, T, lambda) on every task against the best setting of each (paper H.8, default portability test).

The best of k settings looks better than it is, because it was chosen for its luck. So it is chosen on one
half of the examples, and compared with the default on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.data.load import StudyData, load_study
from analysis.data.points import PointSummary, paired_forgetting, quality_matrix, summarize_points
from analysis.page.render import render
from analysis.page.tables import shown, tables
from analysis.stats.estimates import Estimate, estimate
from analysis.studies.sensitivity.bands import EPSILON, default_point
from grit.errors import ConfigError
from grit.io.files import write_atomically

HEADER = (
    "task",
    "metric",
    "n",
    "settings",
    "default",
    "chosen on one half",
    "gain of tuning on the other [95%]",
    "forgetting of the chosen [95%]",
    "epsilon",
    "verdict",
)


@dataclass(frozen=True, kw_only=True)
class TaskPortability:
    """One task: what tuning gains over the default, on examples that did not choose the setting."""

    task: str
    metric: str
    default: PointSummary
    chosen: PointSummary
    settings: int
    gain: Estimate
    forgetting: Estimate | None

    @property
    def verdict(self) -> str:
        """`portable` where the gain is at most epsilon, `tuning-sensitive` where it is more.

        `undecided` where the interval holds epsilon.
        """
        epsilon = EPSILON[self.metric]
        return (
            "portable"
            if self.gain.high <= epsilon
            else "tuning-sensitive"
            if self.gain.low > epsilon
            else "undecided"
        )


def judge(data: StudyData, regime: str = "step") -> TaskPortability | None:
    """The verdict on one study's task; None where its default, or everything else, has no usable trial.

    Examples with an even number choose among the settings that have every seed of the default; those with an
    odd number judge.
    """
    points = summarize_points(data.records)
    default = default_point(points, regime)
    if default is None or not default.records:
        return None
    settings = [p for p in points if p.regime == regime and not p.is_control and p.seeds == default.seeds]
    values = {p.point_id: quality_matrix(data, p) for p in settings}
    chosen = max(settings, key=lambda p: float(values[p.point_id][:, ::2].mean()))
    gain = estimate(values[chosen.point_id][:, 1::2] - values[default.point_id][:, 1::2])
    return TaskPortability(
        task=str(data.study["config"]["task"]["name"]),
        metric=default.quality_metric,
        default=default,
        chosen=chosen,
        settings=len(settings),
        gain=gain,
        forgetting=paired_forgetting(data, chosen, default),
    )


def rows_of(found: Sequence[TaskPortability]) -> list[list[str]]:
    """The table, in the order of `HEADER`."""
    return [
        [
            t.task,
            t.metric,
            str(len(t.default.seeds)),
            str(t.settings),
            f"{t.default.mean('quality'):.3f}",
            t.chosen.label(),
            shown(t.gain),
            shown(t.forgetting),
            f"{EPSILON[t.metric]:g}",
            t.verdict,
        ]
        for t in found
    ]


def build(folder: Path) -> list[TaskPortability]:
    """Reads the studies below `folder`, one per task.

    And writes `portability.html` and `tables/portability.*` there.

    Raises:
        ConfigError: there is no study that can be judged.
    """
    studies = [load_study(path.parent) for path in sorted(folder.glob("*/study.json"))]
    found = [judged for data in studies if (judged := judge(data)) is not None]
    if not found:
        raise ConfigError("portability", str(folder), "holds no study whose default was measured")
    rows = rows_of(found)
    (folder / "tables").mkdir(exist_ok=True)
    for name, text in tables("portability", HEADER, rows).items():
        write_atomically(folder / "tables" / name, text)
    defaults = {t.default.label() for t in found}
    write_atomically(
        folder / "portability.html",
        render(
            "portability.html.j2",
            header=HEADER,
            rows=rows,
            defaults=sorted(defaults),
            counts={
                v: sum(t.verdict == v for t in found) for v in ("portable", "tuning-sensitive", "undecided")
            },
            studies=[str(data.folder.name) for data in studies],
            missing=len(studies) - len(found),
            seeds=float(np.mean([len(t.default.seeds) for t in found])),
        ),
    )
    return found
