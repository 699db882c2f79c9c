"""One small study, mirrored and reported, in a copy of the project that has every toy of CONTRIBUTING.md.

python tests/recipes_driver.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from trained import trained_study  # noqa: E402

from analysis.report import rebuild  # noqa: E402
from grit.config.method import GritConfig  # noqa: E402
from grit.config.run_config import RunConfig  # noqa: E402
from grit.config.sections import Budget, TaskSource  # noqa: E402
from grit.training.workbench import Workbench  # noqa: E402
from ray_jobs.design.points import Point  # noqa: E402
from ray_jobs.design.search_space import Search, SearchRange  # noqa: E402
from ray_jobs.records.study_file import read_study  # noqa: E402
from ray_jobs.records.trial_tables import read_rows  # noqa: E402
from ray_jobs.records.trials_file import write_trials  # noqa: E402
from ray_jobs.schedule.search import OptunaSearch  # noqa: E402
from ray_jobs.tracking.marks import StudyMarks  # noqa: E402
from ray_jobs.tracking.mlflow_tracker import MlflowTracker  # noqa: E402
from sweeps.common.request import resolve  # noqa: E402
from sweeps.tau_T_lambda import SCRIPT  # noqa: E402


def _task(folder: Path) -> TaskSource:
    """Words to repeat, scored by exact match and by the toy metric."""
    template = {"prompt": "Say {word}:", "answer": " {word}", "metrics": ["exact_match", "brevity"]}
    (folder / "template.json").write_text(json.dumps(template))
    rows = "".join(json.dumps({"word": word}) + "\n" for word in ("stone", "door", "fish", "road") * 4)
    for name in ("train", "eval"):
        (folder / f"{name}.jsonl").write_text(rows)
    (folder / "general.txt").write_text("Some text about a town.\n\nMore of it, about a door.\n")
    return TaskSource(
        name="custom",
        template=str(folder / "template.json"),
        train_file=str(folder / "train.jsonl"),
        eval_file=str(folder / "eval.jsonl"),
        retention_file=str(folder / "general.txt"),
    )


def _base(folder: Path) -> RunConfig:
    grit = GritConfig(cov_update_freq=1, kfac_update_freq=2, reprojection_freq=4, kfac_min_samples=8)
    return RunConfig.of(
        task=_task(folder),
        budget=Budget(regime="step", amount=6),
        rank=8,
        micro_batch=4,
        max_length=32,
        eval_examples=4,
        retention_documents=2,
        max_new_tokens=4,
        norms=True,
        grit=grit,
    )


def _asked(arguments: list[str]) -> dict[str, list[str]]:
    """The values of each knob in the one-at-a-time design of a command line."""
    request = resolve(SCRIPT.read(arguments)[0], SCRIPT.presets, SCRIPT.regimes)
    return {name: [str(value) for value in values] for name, values in request.preset.oat.items()}


def _proposed() -> dict[str, float]:
    search = Search(space={"lambda": SearchRange(low=1e-4, high=1e-1)}, points=1, sampler="brute")
    return OptunaSearch(search).ask()[1]


def main(folder: Path) -> None:
    """Leaves a study with its report and its mirror in `folder`, and says what came of the toys."""
    folder.mkdir(parents=True)
    study = folder / "study"
    center = {"tau": 0.99, "T": 4, "lambda": 1e-3}
    points = [
        Point.of("oat", center),
        Point.of("list", {**center, "gradient_gain": 2.0}),
        Point.of("oat", {**center, "rho": 0.5}),
        Point.of("list", {}, "gaussian"),
    ]
    records = trained_study(study, "tau_T_lambda", _base(folder), points, Workbench(), seeds=(41,))
    records[0] = records[0].changed(status="preempted")
    write_trials(study, records)
    tracker = MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}", read_study(study))
    for record in records:
        tracker.log_trial(record, lambda: [])
    tracker.finish(StudyMarks(), [], interrupted=False)
    assert tracker.failure is None, tracker.failure
    rebuild(study)
    tables = {kind: read_rows(study, kind, records[1].trial_id) for kind in ("norms", "predictions")}
    said = {
        "ids": [record.trial_id for record in records],
        "asked": _asked(["--rho", "0.5", "0.9"]),
        "proposed": _proposed(),
        "tables": tables,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
