"""A large study, made up: how long its report takes, how much memory, and how long until it goes on.

    python benchmarks/analysis_scale.py [--records 2000] [--resumed 20000]

Ends in one line of JSON: seconds and peak memory of a report over records with all their tables; seconds to
open
records for a resumed run, which reads no table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import builders  # noqa: E402 - the tests' maker of study folders

from ray_jobs.design.points import grid  # noqa: E402
from ray_jobs.records.store import StudyStore  # noqa: E402
from ray_jobs.records.trials_file import write_trials  # noqa: E402

SEEDS = (41, 42, 43)


def made_up(count: int) -> tuple[Any, list[Any]]:
    """A study of about so many trials, and their records."""
    taus = [0.5 + 0.49 * number / max(1, count // 96) for number in range(count // 96 + 1)]
    crossed = grid({"tau": taus, "T": (5, 10, 20, 40), "lambda": (1e-4, 1e-3, 1e-2, 1e-1)})
    study = builders.study(seeds=SEEDS)
    points = (*study.points, *crossed[: max(0, count // 6 - len(study.points) - 1)])
    study = replace(study, points=points)
    records = []
    for number, record in enumerate(builders.planned(study)):
        records.append(
            builders.ended(
                record,
                quality=0.4 + 0.3 * (number % 17) / 17,
                forgetting=0.05 + 0.1 * (number % 13) / 13,
                footprint=0.3 + 0.7 * (number % 11) / 11,
            )
        )
    return study, records


def report_of(count: int) -> dict[str, float]:
    """Seconds and peak memory of one report."""
    _, records = made_up(count)
    with tempfile.TemporaryDirectory() as folder:
        builders.study_folder(Path(folder), records, seeds=SEEDS)
        command = [sys.executable, "-m", "analysis.report", folder]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"records": len(records), "seconds": seconds, "peak_gib": peak}


def resumed(count: int) -> dict[str, float]:
    """Seconds from a folder with so many records to a study that is open again."""
    study, records = made_up(count)
    with tempfile.TemporaryDirectory() as folder:
        builders.study_file(study).write(Path(folder))
        write_trials(Path(folder), records)
        fingerprint = study.fingerprint()
        began = time.perf_counter()
        store = StudyStore(Path(folder), fingerprint, resume=True)
        read = time.perf_counter() - began
        store.open(builders.study_file(study))
        opened = time.perf_counter() - began
        store.release()
    return {"records": len(records), "read_seconds": read, "open_seconds": opened}


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description="Report and resumption of a large study.")
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--resumed", type=int, default=20000)
    options = parser.parse_args()
    report, going_on = report_of(options.records), resumed(options.resumed)
    print(
        f"report of {report['records']} records: {report['seconds']:.1f} s, peak {report['peak_gib']:.2f} GiB"
    )
    print(f"{going_on['records']} records are open for more after {going_on['open_seconds']:.1f} s")
    print(json.dumps({"benchmark": "analysis_scale", "report": report, "resumed": going_on}))


if __name__ == "__main__":
    main()
