"""How long a report of a large study takes, and how much memory.

Records with telemetry, made up, from a folder of their own.

python benchmarks/analysis_scale.py [RECORDS]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from builders import ended, study, study_folder  # noqa: E402 - the tests' builder of study folders

from ray_jobs.design.plan import plan  # noqa: E402
from ray_jobs.design.points import grid


def main(count: int) -> None:
    values = {
        "tau": [0.5 + 0.0049 * i for i in range(100)],
        "T": (5, 10, 20, 40),
        "lambda": (1e-4, 1e-3, 1e-2, 1e-1),
    }
    made = study(seeds=(41, 42, 43), regimes=("step", "time"))
    base = list(made.points)
    extra = grid(values)[: max(0, count // 6 - len(base))]
    from dataclasses import replace

    records = [
        ended(
            t.record,
            quality=0.4 + 0.3 * (i % 17) / 17,
            forgetting=0.05 + 0.1 * (i % 13) / 13,
            footprint=0.3 + 0.7 * (i % 11) / 11,
        )
        for i, t in enumerate(plan(replace(made, points=(*base, *extra))))
    ]
    with tempfile.TemporaryDirectory() as folder:
        study_folder(Path(folder), records, seeds=(41, 42, 43))
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "analysis.report", folder], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"{len(records)} records: {seconds:.1f} s, peak {peak:.2f} GiB (to be at most 60 s and 2 GB for "
        "2,000)"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
