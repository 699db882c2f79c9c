"""Writes docs/reference/vocabulary.md: every setting, method, metric, quantity, status and sampler there is.

    python docs/write_vocabulary.py

Read off the declarations; a test compares.
"""

from __future__ import annotations

import sys
from itertools import groupby
from operator import attrgetter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from analysis.page.glossary import TERMS  # noqa: E402
from grit.audits.audit_specs import AUDITS  # noqa: E402
from grit.cli.fields import listed_settings  # noqa: E402
from grit.config.registry import METHODS  # noqa: E402
from grit.tasks.metrics import METRICS  # noqa: E402
from grit.training.measurements import OBJECTIVES, QUANTITIES  # noqa: E402
from grit.training.result import TABLES  # noqa: E402
from ray_jobs.records.trial_status import STATUSES  # noqa: E402
from ray_jobs.schedule.search import SAMPLERS  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "vocabulary.md"


def _row(*cells: object) -> str:
    words = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(words)} |"


def _table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    return [_row(*header), _row(*["---"] * len(header)), *[_row(*row) for row in rows], ""]


def _yes(holds: bool) -> str:
    return "yes" if holds else ""


def _settings() -> list[str]:
    lines = ["## Settings of a run", ""]
    for section, settings in groupby(listed_settings(), key=attrgetter("section")):
        rows: list[tuple[object, ...]] = []
        for setting in settings:
            name = f"`{setting.name}`" + (f" (`{setting.knob}`)" if setting.knob else "")
            rows.append((name, f"`{setting.default}`", setting.help, setting.allowed, setting.waits_for))
        lines += [f"### {section}", ""]
        lines += _table(("setting", "default", "what it does", "allowed", "waits for the first"), rows)
    return lines


def _methods() -> list[str]:
    rows: list[tuple[object, ...]] = []
    for name, method in METHODS.items():
        marks = (_yes(method.quantized), _yes(method.geometry))
        rows.append((f"`{name}`", method.title, method.source, method.role, *marks))
    return _table(("name", "title", "source", "role", "backbone in 4 bits", "GRIT acts"), rows)


def _metrics() -> list[str]:
    rows: list[tuple[object, ...]] = []
    for name, metric in METRICS.items():
        rows.append((f"`{name}`", metric.label, f"{metric.tolerance:g}", metric.low, metric.high))
    return _table(("name", "label", "tolerance", "lowest", "highest"), rows)


def _quantities() -> list[str]:
    rows: list[tuple[object, ...]] = []
    for name, quantity in QUANTITIES.items():
        better = quantity.direction or ""
        rows.append((f"`{name}`", quantity.label, better, _yes(name in OBJECTIVES), _yes(quantity.tracked)))
    return _table(("name", "label", "better", "objective", "in MLflow"), rows)


def _statuses() -> list[str]:
    rows: list[tuple[object, ...]] = []
    for name, status in STATUSES.items():
        again, elsewhere = _yes(status.runs_again), _yes(status.reusable)
        rows.append((f"`{name}`", status.meaning, again, elsewhere, status.mlflow))
    header = ("name", "meaning", "run again on resume", "another study may take it over", "in MLflow")
    return _table(header, rows)


def _samplers() -> list[str]:
    return _table(("name", "what it is"), [(f"`{name}`", sampler.help) for name, sampler in SAMPLERS.items()])


def _tables() -> list[str]:
    rows: list[tuple[object, ...]] = []
    for name, spec in TABLES.items():
        asked_for = f"`{AUDITS[name].setting}`" if name in AUDITS else ""
        columns = ", ".join(f"`{column}`" for column in spec.columns)
        rows.append((f"`{name}/`", spec.what, asked_for, columns))
    return _table(("folder", "a row is", "asked for by", "columns that readers rely on"), rows)


def _terms() -> list[str]:
    return _table(("term", "what it means"), [(name, words) for name, words in TERMS.items()])


INTRODUCTION = (
    "Everything that is declared, read off the declarations by `python docs/write_vocabulary.py`. Any "
    "setting can be given as `--set name=value` for all trials, or in a `--point`."
)
ABOUT_QUANTITIES = "Objectives have a reference point; what is in MLflow is a metric of its trial's run."


def page() -> str:
    """The whole page."""
    lines = ["# Vocabulary", "", INTRODUCTION, "", *_settings()]
    lines += ["## Methods", "", *_methods()]
    lines += ["## Metrics of tasks", "", *_metrics()]
    lines += ["## Measured quantities", "", ABOUT_QUANTITIES, "", *_quantities()]
    lines += ["## Statuses of a trial", "", *_statuses()]
    lines += ["## Samplers", "", *_samplers()]
    lines += ["## Tables of a trial", "", *_tables()]
    lines += ["## Terms of reports", "", "As headings explain themselves when pointed at.", "", *_terms()]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
    print(PAGE.relative_to(ROOT))
