"""Where the time went, worked out by hand."""

import pytest
from builders import ended, planned, study, study_file

from analysis.evidence.compute import compute_of, compute_sentences
from ray_jobs.records.trunk_record import TrunkRecord, write_trunks


def _timed(record, **times):
    values = {"train_seconds": 10.0, "eval_seconds": 1.0, "setup_seconds": 0.5}
    return ended(record, started_at=100.0, **{"ended_at": 112.0, **values, **times})


@pytest.fixture
def records(tmp_path):
    """One trial taken over, two that go on from a trunk, and others that ran whole."""
    first, second, third, *rest = planned(study())
    forked = {"fork_seconds": 4.0, "fork_eval_seconds": 1.0, "ended_at": 107.0}
    trunk = TrunkRecord(
        trunk_id="trunk-a", parent=None, members=(), steps=5, train_seconds=4.5, eval_seconds=1.0
    )
    write_trunks(tmp_path, [trunk])
    return [
        _timed(first, reused_from="other", train_seconds=7.0),
        _timed(second, forked_from="trunk-a", forked_at_step=5, **forked),
        _timed(third, forked_from="trunk-a", forked_at_step=5, **forked),
        *(_timed(record) for record in rest),
    ]


def test_the_report_says_where_the_time_went_and_what_was_saved(records, tmp_path):
    file = study_file(study(), seconds=60.0)
    file = file.model_copy(update={"calls": (file.made_by, file.made_by)})
    compute, ran = compute_of(file, records, tmp_path), len(records) - 1
    assert compute.shared == 2 * 4.0 - 4.5
    assert compute.training == ran * 10.0 - compute.shared
    assert compute.evaluation == ran - 2
    assert compute.setup == ran * 0.5
    assert compute.dispatch == ran * 0.5
    assert compute.orchestration == max(0.0, 1 - (compute.training + compute.evaluation) / (120 * 2))
    text = " ".join(compute_sentences(compute))
    assert "1 trials were taken over" in text
    assert "training seconds saved" in text


def test_a_call_that_was_killed_leaves_no_share_of_its_time(records, tmp_path):
    assert compute_of(study_file(study()), records, tmp_path).orchestration is None
