"""Whether a folder's study is the one that is asked for, and by what it is another."""

from __future__ import annotations

from pathlib import Path

from grit.config.differences import difference, in_few_words, setting_differences
from ray_jobs.design.plan import Study
from ray_jobs.records.store import another_study
from ray_jobs.records.study_file import STUDY_FILE, StudyFile, read_study


def check_same_study(folder: Path, study: Study) -> None:
    """Refuses a folder that holds another study.

    Raises:
        ConfigError: it does; by what they differ is named.
    """
    if not (folder / STUDY_FILE).exists():
        return
    earlier = read_study(folder)
    if earlier.fingerprint != study.fingerprint():
        raise another_study(folder, earlier, in_few_words(_differences(earlier, study)))


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
