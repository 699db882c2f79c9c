"""What mirroring a study to MLflow costs.

Seconds to log all its trials into a fresh store, as a share of the seconds the study took.

    python benchmarks/mlflow_overhead.py STUDY_FOLDER

The writer is one thread beside the study, so this is an upper bound of what it adds to the wall time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow.parquet as pq

from ray_jobs.records.study_file import read_study
from ray_jobs.records.trials_file import read_trials
from ray_jobs.tracking.mlflow_tracker import MlflowTracker


def main(folder: Path) -> None:
    took = sum(call["seconds"] for call in read_study(folder)["calls"])
    records = [record for record in read_trials(folder) if record.ended]
    rows = {
        record.trial_id: pq.read_table(folder / "telemetry" / f"{record.trial_id}.parquet").to_pylist()
        for record in records
    }
    with tempfile.TemporaryDirectory() as store:
        began = time.perf_counter()
        tracker = MlflowTracker(
            f"sqlite:///{store}/mlflow.db", "benchmark", "one", params={}, artifacts=Path(store) / "artifacts"
        )
        opened = time.perf_counter() - began
        for record in records:
            tracker.log_trial(record, rows[record.trial_id])
        tracker.finish([], [folder / "report.html"], interrupted=False)
        logged = time.perf_counter() - began - opened
    print(
        f"{len(records)} trials in {logged:.1f} s, {logged / took:.1%} of the study's {took:.0f} s (and "
        f"{opened:.1f} s once, to make the store)"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
