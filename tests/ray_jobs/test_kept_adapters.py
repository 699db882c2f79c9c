"""Whose adapters stay in a study's folder, under both engines, and what the index says of the others."""

import json

from builders import ended, planned, study, study_file

from analysis.evidence.model_cards import card_of_trial
from analysis.evidence.study_marks import kept_trials, marks_of
from analysis.page.adapter_rows import adapters_table
from grit.adapters.kept_adapter import KeptAdapter, Reloading, file_hashes
from ray_jobs.execution.engines import FolderFiles
from ray_jobs.execution.nodes.storage import StudyStorage
from ray_jobs.execution.per_trial.stored_files import StoredFiles, counted_adapter, stored_adapter
from ray_jobs.records.kept_adapters import adapter_folder, copy_adapter, has_adapter, write_index


def _leave(folder, record, difference=0.0):
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(record.trial_id.encode())
    KeptAdapter(
        config=record.config,
        content={"task": "t"},
        parameters=5,
        bytes=16,
        files=file_hashes(folder),
        reloaded=Reloading(tokens=9, difference=difference, allowed=1e-3),
    ).write(folder)


def _records():
    records = [ended(record) for record in planned(study(regimes=("step",)))]
    best = records[2].plan.point_id
    return [
        ended(r, quality=0.9, footprint=0.1, overhead=0.0) if r.plan.point_id == best else r for r in records
    ]


def test_default_and_control_are_kept_and_the_front_on_request():
    records = _records()
    marks = marks_of(records)
    recommended = kept_trials(records, marks, "recommended")
    assert {roles for roles in recommended.values()} == {("control",), ("default",)}
    assert len(recommended) == 4  # two settings with two seeds
    front = kept_trials(records, marks, "front")
    assert any("front" in roles for roles in front.values())
    assert set(recommended) < set(front) < set(kept_trials(records, marks, "all"))
    assert len(kept_trials(records, marks, "all")) == len(records)
    assert kept_trials(records, marks, "none") == {}
    lost = [ended(records[0], status="diverged", error="x"), *records[1:]]
    assert records[0].trial_id not in kept_trials(lost, marks_of(lost), "all")


def test_the_rest_goes_and_the_index_names_what_is_missing(tmp_path):
    records = _records()
    for record in records[:4]:
        _leave(adapter_folder(tmp_path, record.trial_id), record, difference=float(record is records[1]))
    adapter_folder(tmp_path, "half").mkdir()
    wanted = {records[i].trial_id: ("default",) for i in (0, 1, 5)}
    FolderFiles(tmp_path).keep(wanted)
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {r.trial_id for r in records[:2]}
    reused = records[5].changed(reused_from="other")
    write_index(tmp_path, wanted, [*records[:5], reused])
    first, second, third = json.loads((tmp_path / "adapters.json").read_text())
    assert first["problem"] is None and first["folder"] == f"adapters/{records[0].trial_id}"
    assert "differ by 1" in second["problem"]
    assert third["folder"] is None and "taken over from other" in third["problem"]
    FolderFiles(tmp_path).keep(())
    assert not (tmp_path / "adapters").exists()


def test_an_adapter_is_taken_over_from_another_study_once(tmp_path):
    record = _records()[0]
    copy_adapter(tmp_path / "a", tmp_path / "b", record.trial_id)
    _leave(adapter_folder(tmp_path / "a", record.trial_id), record)
    (tmp_path / "b").mkdir()
    for _ in range(2):
        copy_adapter(tmp_path / "a", tmp_path / "b", record.trial_id)
    assert has_adapter(tmp_path / "b", record.trial_id)
    assert [path.name for path in (tmp_path / "b" / "adapters").iterdir()] == [record.trial_id]


def test_the_ray_engine_brings_what_is_kept_and_only_whole_ones(tmp_path):
    """An attempt that was cut off in mid-upload lies beside the one that ended."""
    records = _records()[:3]
    storage = StudyStorage(str(tmp_path / "storage"))
    for record in records:
        _leave(tmp_path / "node" / record.trial_id, record)
        storage.write(f"{stored_adapter(record.trial_id, 'a-cut-off')}/adapter_model.safetensors", b"half")
        for path in (tmp_path / "node" / record.trial_id).iterdir():
            storage.upload(path, f"{stored_adapter(record.trial_id, 'b-whole')}/{path.name}")
        storage.write(counted_adapter(record.trial_id), b"b-whole")
    files = StoredFiles(storage.root, tmp_path / "study")
    (tmp_path / "study").mkdir()
    files.forget(records[0].trial_id)  # on record: its adapter stays until the end decides
    files.keep([records[0].trial_id, records[2].trial_id])
    kept = {path.name for path in (tmp_path / "study" / "adapters").iterdir()}
    assert kept == {records[0].trial_id, records[2].trial_id}
    weights = adapter_folder(tmp_path / "study", records[0].trial_id) / "adapter_model.safetensors"
    assert weights.read_bytes() == records[0].trial_id.encode()
    assert storage.names("adapters") == []
    files.keep([records[0].trial_id])
    assert [path.name for path in (tmp_path / "study" / "adapters").iterdir()] == [records[0].trial_id]


def test_page_and_card_say_what_is_kept(tmp_path):
    records = _records()
    made = study_file(study(regimes=("step",)), keep="recommended")
    table = adapters_table(tmp_path, made, records, marks_of(records))
    assert len(table.rows) == 4
    assert f"adapters/{table.rows[0].record.trial_id}" in table.markdown()
    unfinished = [*records[:-1], planned(study(regimes=("step",)))[-1]]
    assert adapters_table(tmp_path, made, unfinished, marks_of(unfinished)).rows == []
    record = table.rows[-1].record
    card = card_of_trial(made, record, ("default",), marks_of(records))
    quality = next(number for number in card.numbers if number.label == "quality")
    assert (quality.value, quality.over_seeds) == ("0.500", "0.500 [0.500, 0.500]")
    assert any("2 seed(s)" in sentence for sentence in card.limits)
