"""A study as a file.

YAML that `--save-study` writes and `--study` runs, and that every result folder holds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, with_config

from grit.config.registry import Method
from grit.config.run_config import RunConfig
from grit.config.sections import Budget, Regime
from grit.errors import ConfigError, reason
from grit.io.files import write_atomically
from grit.io.validation import validated
from grit.io.versions import SCHEMA_VERSION
from ray_jobs.design.plan import Study
from ray_jobs.design.points import Point
from ray_jobs.design.resources import Costs, TrialResources
from ray_jobs.design.search_space import Search
from ray_jobs.records.sequential import SequentialDesign

#: In the result folder.
SPEC_FILE = "study.yaml"


@dataclass(frozen=True, kw_only=True)
class PointSpec:
    """A point with its changes as a mapping, as people write them."""

    design: str
    changes: dict[str, Any]
    method: Method | None = None
    budget: float = 1.0
    regime: Regime | None = None
    seeds: int | None = None
    audits: dict[str, Any] = field(default_factory=dict)

    def point(self) -> Point:
        """With lists as the tuples that settings have."""
        point = Point.of(
            self.design,
            _with_tuples(self.changes),
            self.method,
            budget=self.budget,
            regime=self.regime,
            seeds=self.seeds,
        )
        return replace(point, audits=tuple(sorted(_with_tuples(self.audits).items())))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Lists as the tuples that settings have."""
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return {**values, **lists}


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """Everything that is to be measured, and what a trial holds while it runs.

    Attributes:
        name: of the script whose study it is, which decides the report.
        preset: that it started from.
        points: settings beside the control, which every study has.
    """

    name: str
    preset: str
    base: RunConfig
    seeds: tuple[int, ...]
    budgets: tuple[Budget, ...]
    points: tuple[PointSpec, ...]
    search: Search | None
    resources: TrialResources
    costs: Costs
    sequential: SequentialDesign | None = None
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, study: Study, *, preset: str, resources: TrialResources, costs: Costs) -> StudySpec:
        """A study as it stands."""
        points = []
        for point in study.points:
            values = {**asdict(point), "changes": dict(point.overrides), "audits": dict(point.audits)}
            values.pop("overrides")
            points.append(PointSpec(**values))
        return cls(
            name=study.name,
            preset=preset,
            base=study.base,
            seeds=study.seeds,
            budgets=study.budgets,
            points=tuple(points),
            search=study.search,
            resources=resources,
            costs=costs,
            sequential=study.sequential,
        )

    def study(self, content: dict[str, str]) -> Study:
        """The study, with the hashes of what its names stand for."""
        return Study(
            name=self.name,
            base=self.base,
            points=tuple(point.point() for point in self.points),
            seeds=self.seeds,
            budgets=self.budgets,
            content=content,
            search=self.search,
            sequential=self.sequential,
        )

    def write(self, path: Path) -> None:
        """As YAML.

        Raises:
            ConfigError: it cannot be written.
        """
        plain = TypeAdapter(StudySpec).dump_python(self, mode="json")
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
        try:
            write_atomically(path, text)
        except OSError as error:
            raise ConfigError("save-study", str(path), f"cannot be written: {error.strerror}") from error


def read_spec(path: Path) -> StudySpec:
    """A study from a file.

    Raises:
        ConfigError: it cannot be read, was written by a newer version, or holds a value that is not allowed.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("study", str(path), f"cannot be read: {reason(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            "study", str(path), "holds no study: it must be a mapping, as --save-study writes it"
        )
    version = values.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError("study", str(path), f"has schema {version!r}; this version reads {SCHEMA_VERSION}")
    spec: StudySpec = validated(TypeAdapter(StudySpec), values, "study")
    return spec


for _kind in (StudySpec, PointSpec, Costs, TrialResources, Search):
    with_config(ConfigDict(extra="forbid"))(_kind)
