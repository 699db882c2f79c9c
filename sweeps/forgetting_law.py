"""Does geometry change the law of forgetting?

Runs over unique tokens, rank and reprojection cadence, and a two-stage fit (paper D.4, appendix J).

    python sweeps/forgetting_law.py                                   # embedded backbone
    python sweeps/forgetting_law.py --models embedded PATH --task gsm8k ...    # alpha can be told
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.cli.options import ModelOptions
from grit.cli.parser import flag
from grit.config.registry import Method
from ray_jobs.design.points import Point
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.request import StudyRequest
from sweeps.common.script import StudyScript
from sweeps.common.series import Member, in_turn

#: Budgets, and so unique tokens, as multiples of the study's; the last one is held out of the fit.
BUDGETS = (0.25, 0.5, 1.0, 2.0)
#: LoRA with its curvature watched: what has no geometry acting, and still can be measured.
WATCHED = {"preconditioner": "none", "T": None}


@dataclass(frozen=True)
class LawOptions:
    """Several backbones."""

    _argument_group_name = "this study"

    models: list[str] | None = flag(
        None,
        "runs all of it on several backbones, each in a folder of its own, and fits one law",
        metavar="ID_OR_PATH",
    )


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The small presets with two seeds and quality as the likelihood of answers.

    What is asked for is forgetting.
    """
    usual = preset(name, method, steps, task)
    if not usual.small:
        return replace(usual, base=usual.base.changed(evaluations=1))
    base = usual.base.changed(evaluations=1, quality="answer_logprob")
    return replace(usual, base=base, seeds=usual.seeds[:2])


def points(request: StudyRequest) -> list[Point]:
    """Per budget: LoRA, and GRIT over rank and cadence.

    Each budget is one pass over its own share of the data.
    """
    base = request.base
    every = base.grit.reprojection_freq or max(1, int(base.budget.amount) // 10)
    often, rank = max(1, every // 4), base.adapter.rank
    ranks = [r for r in (rank // 2, rank) if r >= base.grit.min_lora_rank]
    designed: list[Point] = []
    for budget in BUDGETS:
        for r in ranks:
            size = {"rank": r, "alpha": base.adapter.alpha * r / rank}
            designed.append(Point.of("law", {**size, **WATCHED}, budget=budget))
            designed += [Point.of("law", {**size, "T": T}, budget=budget) for T in (often, every)]
        designed.append(Point.of("law", {"T": often, "tau": 0.9}, budget=budget))
    return designed


SCRIPT = StudyScript(
    name="forgetting_law", description=__doc__, points=points, regimes=("step",), designs=(), presets=presets
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study once, or once per backbone of `--models`, and then one fit over all of them."""
    line, (series,) = SCRIPT.read(argv, LawOptions)
    assert isinstance(series, LawOptions)
    if series.models is None:
        return SCRIPT.run(line)
    members = [
        Member(
            label=model,
            place=f"{number}-{Path(model).name}",
            script=SCRIPT,
            line=replace(line, model=ModelOptions(model=model)),
        )
        for number, model in enumerate(dict.fromkeys(series.models), 1)
    ]
    return in_turn("forgetting_law", "backbone", members, _conclude)


def _conclude(folder: Path) -> None:
    from analysis.studies.forgetting_law.page import build_joint

    print("\n" + build_joint(folder).terminal())
    print(f"report:  xdg-open {folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
