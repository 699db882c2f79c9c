"""Writes docs/reference/vocabulary.md: every setting, method, metric, quantity, status and sampler there is.

    python docs/write_vocabulary.py

Read off the declarations; a test compares.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from grit.audits.audit_specs import AUDITS  # noqa: E402
from grit.config.method import KNOBS  # noqa: E402
from grit.config.registry import METHODS  # noqa: E402
from grit.config.run_config import RUN_SECTIONS  # noqa: E402
from grit.config.settings import declared  # noqa: E402
from grit.tasks.metrics import METRICS  # noqa: E402
from grit.training.measurements import OBJECTIVES, QUANTITIES  # noqa: E402
from grit.training.result import TABLES  # noqa: E402
from ray_jobs.records.status import STATUSES  # noqa: E402
from ray_jobs.schedule.search import SAMPLERS  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "vocabulary.md"


def _row(*cells: object) -> str:
    words = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(words)} |"


def _table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    return [_row(*header), _row(*["---"] * len(header)), *[_row(*row) for row in rows], ""]


def _value(value: Any) -> str:
    return f"`{'none' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def _settings() -> list[str]:
    lines = ["## Settings of a run", ""]
    short = {knob.field: name for name, knob in KNOBS.items()}
    for section, kind in RUN_SECTIONS.items():
        rows: list[tuple[object, ...]] = []
        hints = get_type_hints(kind)
        for item, declaration in declared(kind):
            name = f"`{item.name}`" + (f" (`{short[item.name]}`)" if item.name in short else "")
            words = get_args(hints[item.name])
            allowed = "" if declaration.allowed is None else declaration.allowed.words
            if words and all(isinstance(word, str) for word in words):
                allowed = f"must be one of {', '.join(words)}"
            first = " or ".join(sorted(declaration.waits_for))
            rows.append((name, _value(item.default), declaration.help, allowed, first))
        lines += [f"### {section}", ""]
        lines += _table(("setting", "default", "what it does", "allowed", "waits for the first"), rows)
    return lines


def page() -> str:
    """The whole page."""
    lines = [
        "# Vocabulary",
        "",
        "Everything that is declared, read off the declarations by `python docs/write_vocabulary.py`. Any "
        "setting can be given as `--set name=value` for all trials, or in a `--point`.",
        "",
        *_settings(),
        "## Methods",
        "",
        *_table(
            ("name", "title", "source", "backbone in 4 bits", "GRIT acts"),
            [
                (f"`{name}`", m.title, m.source, "yes" * m.quantized, "yes" * m.geometry)
                for name, m in METHODS.items()
            ],
        ),
        "## Metrics of tasks",
        "",
        *_table(
            ("name", "label", "tolerance", "lowest", "highest"),
            [(f"`{name}`", m.label, f"{m.tolerance:g}", m.low, m.high) for name, m in METRICS.items()],
        ),
        "## Measured quantities",
        "",
        "Objectives have a reference point; what is in MLflow is a metric of its trial's run.",
        "",
        *_table(
            ("name", "label", "better", "objective", "in MLflow"),
            [
                (f"`{name}`", q.label, q.direction or "", "yes" * (name in OBJECTIVES), "yes" * q.tracked)
                for name, q in QUANTITIES.items()
            ],
        ),
        "## Statuses of a trial",
        "",
        *_table(
            ("name", "meaning", "run again on resume", "another study may take it over", "in MLflow"),
            [
                (f"`{name}`", s.meaning, "yes" * s.runs_again, "yes" * s.reusable, s.mlflow)
                for name, s in STATUSES.items()
            ],
        ),
        "## Samplers",
        "",
        *_table(("name", "what it is"), [(f"`{name}`", s.help) for name, s in SAMPLERS.items()]),
        "## Tables of a trial",
        "",
        *_table(
            ("folder", "a row is", "asked for by", "columns that readers rely on"),
            [
                (
                    f"`{name}/`",
                    spec.what,
                    f"`{AUDITS[name].setting}`" if name in AUDITS else "",
                    ", ".join(f"`{column}`" for column in spec.columns),
                )
                for name, spec in TABLES.items()
            ],
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
    print(PAGE.relative_to(ROOT))
