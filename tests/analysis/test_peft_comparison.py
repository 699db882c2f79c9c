"""PEFT's published results beside a study: read, placed, drawn, and refused where they cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
from builders import ended, planned, study, study_folder, without_drawing

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import summarize_points
from analysis.report import main
from analysis.studies.peft_comparison.figures import frontier_planes
from analysis.studies.peft_comparison.placed import placed
from analysis.studies.peft_comparison.published import read_results


def _file(name, accuracy, forgetting, *, parameters=1000, seconds=900.0, status="success"):
    """A result file with what theirs have, and with more that is not read."""
    train = {
        "model_id": "meta-llama/Llama-3.2-3B",
        "dtype": "bfloat16",
        "max_seq_length": 768,
        "batch_size": 4,
        "max_steps": 5000,
        "seed": 0,
        "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1},
        "compile": False,
    }
    metrics = [{"step": 250, "valid accuracy": 0.3}, {"test accuracy": accuracy, "forgetting": forgetting}]
    return {
        "run_info": {
            "experiment_name": name,
            "created_at": "2026",
            "train_config": train,
            "peft_config": None,
        },
        "train_info": {
            "status": status,
            "train_time": seconds,
            "num_trainable_params": parameters,
            "accelerator_memory_max": 20 << 30,
            "metrics": metrics if status == "success" else [],
        },
        "meta_info": {"system_info": {"accelerator": "NVIDIA L40S"}},
    }


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    files = {
        "lora": _file("lora/llama-3.2-3B-rank32", 0.48, 0.05),
        "better": _file("better", 0.60, 0.01, parameters=10, seconds=10.0),
        "worse": _file("worse", 0.1, 1.7),
        "ended": _file("ended", 0, 0, status="canceled"),
    }
    for name, file in files.items():
        (folder / f"{name}.json").write_text(json.dumps(file))
    return folder


@pytest.fixture
def folder(tmp_path):
    records = [ended(record, quality=0.5, forgetting=0.1) for record in planned(study(seeds=(41, 42, 43)))]
    study_folder(tmp_path / "study", records, seeds=(41, 42, 43))
    return tmp_path / "study"


def test_runs_are_read_by_falling_accuracy_and_what_did_not_end_is_named(results):
    read = read_results(results)
    assert [run.name for run in read.runs] == ["better", "lora/llama-3.2-3B-rank32", "worse"]
    assert read.unfinished == ("ended",)
    assert read.reference.settings["learning_rate"] == 1e-4


def test_ours_stands_among_theirs_with_its_interval_and_theirs_with_one_seed(folder, results):
    data = load_study(folder)
    points = [p for p in summarize_points(data.records) if p.regime == "step"]
    everything = placed(data, points, read_results(results))
    ours = [item for item in everything if item.ours]
    theirs = {item.name: item for item in everything if not item.ours}
    assert len(ours) == len(points)
    assert all(item.accuracy_interval.low <= item.accuracy <= item.accuracy_interval.high for item in ours)
    assert all(item.accuracy_interval is None and item.seeds == 1 for item in theirs.values())
    assert theirs["better"].fronts == ("forgetting", "parameters", "seconds") or ours[0].seconds < 10
    assert theirs["worse"].fronts == ()
    assert theirs["better"].beats(ours[0])
    assert ours[0].beats(theirs["worse"])
    assert not ours[0].beats(theirs["better"])


def test_the_front_of_theirs_is_what_no_other_beats(folder, results):
    data = load_study(folder)
    points = [p for p in summarize_points(data.records) if p.regime == "step"]
    planes = frontier_planes(placed(data, points, read_results(results)))
    np.testing.assert_array_equal(planes.fronts["forgetting"], [[0.01, 0.60]])


def test_the_page_says_first_that_it_is_another_cell(folder, results, capsys, monkeypatch):
    without_drawing(monkeypatch)
    assert main(["peft", str(folder), str(results)]) == 0
    page = capsys.readouterr().out.strip()
    text = Path(page).read_text()
    assert page == str(folder / "peft_comparison/report.html")
    assert "not of their cell" in text
    assert "(theirs meta-llama/Llama-3.2-3B)" in text
    assert "2 are less accurate" not in text  # of three, one is less accurate and forgets more
    assert "of 3 published runs 1 are more accurate and forget less, and 1 are less accurate" in text


def _without_metrics(file):
    file["train_info"]["metrics"] = [{"step": 1}]


def _without_time(file):
    del file["train_info"]["train_time"]


@pytest.mark.parametrize(
    "damage, message",
    [(_without_metrics, "lack the number 'test accuracy'"), (_without_time, "train_info.train_time")],
)
def test_a_file_that_is_none_of_theirs_is_refused_by_name(folder, results, capsys, damage, message):
    file = _file("broken", 0.4, 0.1)
    damage(file)
    (results / "broken.json").write_text(json.dumps(file))
    assert main(["peft", str(folder), str(results)]) == 2
    error = capsys.readouterr().err
    assert "broken.json" in error
    assert message in error
    assert error.count("\n") == 1


def test_what_cannot_be_compared_is_refused(folder, results, tmp_path, capsys):
    assert main(["peft", str(folder), str(tmp_path)]) == 2
    assert "must be a folder with result files" in capsys.readouterr().err
    assert main(["peft", str(folder)]) == 2
    assert "needs a study's folder" in capsys.readouterr().err
    records = [ended(r, quality=-0.5, quality_metric="answer_logprob") for r in planned(study(seeds=(41,)))]
    likelihood = tmp_path / "likelihood"
    study_folder(likelihood, records, seeds=(41,))
    assert main(["peft", str(likelihood), str(results)]) == 2
    assert "share of right answers" in capsys.readouterr().err


def test_all_of_their_published_files_are_read(shared_data):
    read = read_results(shared_data / "data/peft_metamathqa")
    assert len(read.runs) == 63
    assert read.unfinished == ()
    lora = read.reference
    assert (round(lora.accuracy, 3), round(lora.forgetting, 3), lora.parameters) == (0.478, 0.050, 9175040)
    better = [run for run in read.runs if run.accuracy > lora.accuracy and run.forgetting < lora.forgetting]
    assert len(better) == 3  # LoRA on the MLP, BD-LoRA on the MLP, OFT
