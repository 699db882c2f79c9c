"""What mirroring a study to MLflow costs.

Seconds to log all its trials into a fresh store, as a share of the study's.

    python benchmarks/mlflow_overhead.py STUDY_FOLDER

The writer is one thread beside the study, so this is an upper bound of what it adds to the wall time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from analysis.evidence.study_marks import marks_of
from ray_jobs.records.study_file import read_study
from ray_jobs.records.trial_tables import read_rows
from ray_jobs.records.trials_file import read_trials
from ray_jobs.tracking.mlflow_tracker import MlflowTracker


def main(folder: Path) -> None:
    """Logs the study in `folder` once more."""
    took = sum(call.seconds or 0.0 for call in read_study(folder).calls)
    records = [record for record in read_trials(folder) if record.ended]
    with tempfile.TemporaryDirectory() as store:
        began = time.perf_counter()
        tracker = MlflowTracker(
            f"sqlite:///{store}/mlflow.db", read_study(folder), artifacts=Path(store) / "artifacts"
        )
        opened = time.perf_counter() - began
        for record in records:
            tracker.log_trial(record, partial(read_rows, folder, "telemetry", record.trial_id))
        tracker.finish(marks_of(records), [folder / "report.html"], interrupted=False)
        logged = time.perf_counter() - began - opened
    print(
        f"{len(records)} trials in {logged:.1f} s, {logged / max(took, 1e-9):.1%} of the study's "
        f"{took:.0f} s "
        f"(and {opened:.1f} s once, to make the store)"
    )
    summary = {
        "benchmark": "mlflow_overhead",
        "trials": len(records),
        "seconds": logged,
        "study_seconds": took,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
