"""315 seeded mutations of a real folder: each gives a report that says what is missing, or one line."""

import shutil
from pathlib import Path

import pytest
from builders import without_drawing
from mutations import KINDS, Mutation

from analysis.evidence.load import load_study
from analysis.report import main
from ray_jobs.records.trial_tables import write_rows
from ray_jobs.records.trials_file import write_trials

REAL = Path(__file__).parent / "folder_of_version_1"
MUTATIONS, PER_TEST = 315, 15
#: Figures of every so-manieth mutation are drawn as well: drawing takes ten times as long as all the rest.
DRAWN = 105


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The step-matched half of a real study, as version 1 wrote it and as this version does."""
    base = tmp_path_factory.mktemp("real")
    shutil.copytree(REAL, base / "old", ignore=shutil.ignore_patterns("expected"))
    data = load_study(base / "old")
    records = [record for record in data.records if record.plan.regime == "step"]
    shutil.copytree(base / "old", base / "new")
    data.study.write(base / "new")
    write_trials(base / "new", records)
    for record in records:
        events = [event.row() for event in data.events(record)]
        write_rows(base / "new", "events", record.trial_id, events)
    kept = {record.trial_id for record in records}
    for folder in (base / "old", base / "new"):
        for path in [path for kind in KINDS for path in (folder / kind).glob("*.parquet")]:
            if path.stem not in kept:
                path.unlink()
    lines = (base / "old" / "trials.jsonl").read_text().split("\n")
    lines = [line for line in lines if any(trial_id in line for trial_id in kept)]
    (base / "old" / "trials.jsonl").write_text("\n".join(lines) + "\n")
    return base


def _copy(folders, seed, to):
    shutil.rmtree(to, ignore_errors=True)
    outside = to / "outside"
    outside.mkdir(parents=True)
    (outside / "precious.txt").write_text("precious")
    shutil.copytree(folders / ("old" if seed % 5 == 0 else "new"), to / "study")
    return to / "study"


def _check(folder, mutation, code, said):
    if code == 2:
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1, said.err
    else:
        assert code == 0
        page, text = ((folder / name).read_text() for name in ("report.html", "report.md"))
        assert "<script" not in page + text
        assert all(name in text for name in mutation.names), text[-1500:]
    outside = folder.parent / "outside"
    assert {path.name for path in outside.iterdir()} == {"precious.txt"}
    assert (outside / "precious.txt").read_text() == "precious"


#: Two of three parts are slow: they take minutes.
PARTS = [
    first if first // PER_TEST % 3 == 0 else pytest.param(first, marks=pytest.mark.slow)
    for first in range(0, MUTATIONS, PER_TEST)
]


@pytest.mark.parametrize("first", PARTS)
def test_damage_is_named_or_refused(folders, tmp_path, capsys, monkeypatch, first):
    for seed in range(first, first + PER_TEST):
        folder = _copy(folders, seed, tmp_path / "work")
        mutation = Mutation(seed).apply(folder)
        with monkeypatch.context() as patch:
            if seed % DRAWN:
                without_drawing(patch)
            try:
                code = main([str(folder)])
            except Exception as error:
                raise AssertionError(f"seed {seed}, {mutation.said}") from error
        _check(folder, mutation, code, capsys.readouterr())
