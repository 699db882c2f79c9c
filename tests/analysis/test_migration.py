"""A folder that version 0.1 wrote, kept as it was: read with the same numbers, and gone on with."""

import json
import shutil
from pathlib import Path

import pytest
from builders import without_drawing

from analysis.evidence.load import load_study
from analysis.report import rebuild
from grit.errors import ConfigError
from grit.geometry.events import Reprojection
from grit.io.versions import SCHEMA_VERSION

FOLDER = Path(__file__).parent / "folder_of_version_1"


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """The folder with the report of this version."""
    folder = tmp_path_factory.mktemp("old") / "study"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("expected"))
    with pytest.MonkeyPatch.context() as patch:
        without_drawing(patch)  # tests/analysis/test_fuzz.py draws it
        return folder, rebuild(folder)


@pytest.mark.parametrize("name", ["recommendation.json", "pareto.csv"])
def test_the_report_is_what_it_was(migrated, name):
    assert (migrated[0] / name).read_text() == (FOLDER / "expected" / name).read_text()


def test_nothing_of_it_is_damaged(migrated):
    assert migrated[1].result.data.damage == []


def test_events_are_found_where_they_lay(migrated):
    data = migrated[1].result.data
    trial = next(record for record in data.records if record.config.uses_grit)
    events = [event for event in data.events(trial) if isinstance(event, Reprojection)]
    assert len(events) >= trial.measured.reprojections > 0


def test_it_is_read_as_the_method_that_trained_it(migrated):
    """Versions 1 and 2 of the method had no word for which tokens Sigma_g counts, and no other way."""
    data = migrated[1].result.data
    assert data.study.config.grit.gradient_tokens == "labelled"
    assert {record.config.grit.gradient_tokens for record in data.records} == {"labelled"}


def test_every_record_has_its_whole_configuration(migrated):
    for record in migrated[1].result.data.records:
        assert record.config.seed == record.plan.seed
        assert record.config.budget.regime == record.plan.regime
        if record.config.uses_grit and "T" in record.plan.overrides:
            assert record.T == record.plan.overrides["T"]


@pytest.mark.parametrize("name", ["study.json", "trials.jsonl"])
def test_what_a_newer_version_wrote_is_refused_in_one_line(tmp_path, name):
    shutil.copytree(FOLDER, tmp_path / "s")
    path = tmp_path / "s" / name
    lines = path.read_text().split("\n") if name == "trials.jsonl" else [path.read_text()]
    lines[0] = json.dumps({**json.loads(lines[0]), "schema_version": SCHEMA_VERSION + 1})
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=rf"version {SCHEMA_VERSION + 1}|schema {SCHEMA_VERSION + 1}"):
        load_study(tmp_path / "s")
