"""Does geometry change the law of forgetting?

Runs over unique tokens, rank and reprojection cadence, and a two-stage fit (paper D.4, appendix J).

python sweeps/forgetting_law.py                              # embedded backbone python
sweeps/forgetting_law.py --models embedded ../shared/backbone --task gsm8k ...    # backbones of several
sizes: alpha can be told
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python sweeps/x.py` puts sweeps/ there, not the repository

from grit.cli.options import OneLineParser
from grit.config.registry import Method
from ray_jobs.design.study import Point
from ray_jobs.design.study_presets import Preset, preset
from sweeps.common.command import main
from sweeps.common.options import SweepOptions
from sweeps.common.series import Member, in_turn

#: Budgets, and so unique tokens, as multiples of the study's; the last one is held out of the fit.
BUDGETS = (0.25, 0.5, 1.0, 2.0)
#: LoRA with its curvature watched: what has no geometry acting, and still can be measured.
WATCHED = {"preconditioner": "none", "T": None}


def presets(name: str, method: Method, steps: int | None, task: str | None) -> Preset:
    """The small presets with two seeds and quality as the likelihood of answers.

    What is asked for is forgetting.
    """
    small = not preset(name, method, None).resources.gpus
    found = preset(name, method, steps, task)
    base = found.base.changed(evaluations=1)
    return replace(
        found,
        base=base.changed(quality="answer_logprob") if small else base,
        seeds=found.seeds[:2] if small else found.seeds,
    )


def points(preset: Preset, _options: SweepOptions) -> list[Point]:
    """Per budget: LoRA, and GRIT over rank and cadence.

    Each budget is one pass over its own share of the data.
    """
    base = preset.base
    every = base.grit.reprojection_freq or max(1, int(base.budget.amount) // 10)
    ranks = [r for r in (base.adapter.rank // 2, base.adapter.rank) if r >= base.grit.min_lora_rank]
    found: list[Point] = []
    for budget in BUDGETS:
        for rank in ranks:
            size = {"rank": rank, "alpha": base.adapter.alpha * rank / base.adapter.rank}
            found.append(Point.of("law", {**size, **WATCHED}, budget=budget))
            found += [Point.of("law", {**size, "T": T}, budget=budget) for T in (max(1, every // 4), every)]
        found.append(Point.of("law", {"T": max(1, every // 4), "tau": 0.9}, budget=budget))
    return found


def run(argv: Sequence[str]) -> int:
    """Runs the study once, or once per backbone of `--models`, each in a folder of its own.

    And then one fit over all of them.
    """
    own = OneLineParser(add_help=False, allow_abbrev=False)
    own.add_argument("--models", nargs="+")
    own.add_argument("--output", type=Path)
    arguments, rest = own.parse_known_args(list(argv))
    output = [] if arguments.output is None else ["--output", str(arguments.output)]
    if arguments.models is None:
        if "-h" in rest or "--help" in rest:
            print(
                "--models NAME [NAME ...] runs all of it on several backbones, and fits one law; all else "
                "is as in the other sweeps:\n"
            )
        return main(
            "forgetting_law",
            __doc__ or "",
            points,
            argv=[*rest, *output],
            regimes=("step",),
            designs=(),
            presets=presets,
        )

    def study(model: str) -> Callable[[list[str]], int]:
        return lambda options: main(
            "forgetting_law",
            __doc__ or "",
            points,
            argv=[*options, "--model", model],
            regimes=("step",),
            designs=(),
            presets=presets,
        )

    members = [
        Member(model, f"{number}-{Path(model).name}", study(model))
        for number, model in enumerate(dict.fromkeys(arguments.models), 1)
    ]
    return in_turn("forgetting_law", "backbone", members, arguments.output, rest, _conclude)


def _conclude(folder: Path) -> None:
    from analysis.studies.forgetting_law import build_joint

    print("\n" + build_joint(folder).terminal())
    print(f"report:  xdg-open {folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
