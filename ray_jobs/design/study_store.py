"""A study's folder, and by what one that holds another study differs."""

from __future__ import annotations

from pathlib import Path

from grit.config.differences import difference, in_few_words, setting_differences
from ray_jobs.design.plan import Study
from ray_jobs.records.store import StudyStore
from ray_jobs.records.study_file import StudyFile


def store_of(study: Study, folder: Path, *, resume: bool) -> StudyStore:
    """The folder of a study.

    Raises:
        ConfigError: it is no folder for it (`StudyStore`); of another study's it is named what differs.
    """
    return StudyStore(
        folder,
        study.fingerprint(),
        resume=resume,
        differences=lambda earlier: in_few_words(_differences(earlier, study)),
    )


def _differences(earlier: StudyFile, study: Study) -> list[str]:
    budgets = {budget.regime: budget.amount for budget in study.budgets}
    parts: dict[str, tuple[object, object]] = {
        "design": (earlier.name, study.name),
        "seeds": (_listed(earlier.seeds), _listed(study.seeds)),
        "regimes": (_listed(tuple(earlier.budgets)), _listed(tuple(budgets))),
        "adding seeds": (_grows(earlier.sequential), _grows(study.sequential)),
    }
    amounts = {
        f"{regime} budget": (f"{earlier.budgets[regime]:g}", f"{amount:g}")
        for regime, amount in budgets.items()
        if regime in earlier.budgets
    }
    apart = [difference(name, *pair) for name, pair in (parts | amounts).items() if pair[0] != pair[1]]
    if earlier.content != study.content:
        apart.append("the content of its data or its model")
    settings = setting_differences(earlier.config, study.base)
    return [*apart, *settings] or ["its points, its search or how it grows"]


def _listed(values: tuple[object, ...]) -> str:
    return ",".join(str(value) for value in values)


def _grows(sequential: object) -> str:
    return "no" if sequential is None else "yes"
