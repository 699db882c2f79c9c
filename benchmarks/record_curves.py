"""Records what a search over tau, T and lambda would see: settings with their objectives at four rungs.

    python benchmarks/record_curves.py [--points 256] [--processes 2]

Trains the embedded default at settings that fill the search's space evenly (a scrambled Sobol sequence), one
seed each, and writes benchmarks/recorded/curves.json, which benchmarks/search.py replays. Ends in one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from grit.config.overrides import with_overrides
from grit.presets.run_presets import configuration
from grit.runtime.allocator import keep_freed_memory
from grit.training.hooks import Hooks, Interim
from grit.training.trainer import train
from grit.training.workbench import Workbench
from ray_jobs.design.search_space import Search
from ray_jobs.schedule.search import even_points
from sweeps.tau_T_lambda import SCRIPT

FILE = Path(__file__).parent / "recorded" / "curves.json"
RUNGS = 4
Knobs = dict[str, float]


def searched_space() -> Search:
    """The search of the embedded default."""
    search = SCRIPT.study([]).search
    assert search is not None
    return search


@cache
def _bench() -> Workbench:
    keep_freed_memory()
    return Workbench()


def recorded(knobs: Knobs, steps: int | None = None) -> dict[str, Any]:
    """One training: its knobs, seconds, and its objectives at each rung, the last of them its end."""
    config = configuration("embedded", "grit", steps=steps).changed(evaluations=RUNGS)
    config = replace(with_overrides(config, knobs), seed=41)
    costs: list[tuple[float, float]] = []

    def evaluated(interim: Interim) -> bool:
        costs.append((interim.overhead, interim.footprint))
        return False

    result = train(config, _bench(), hooks=Hooks(evaluated=evaluated))
    measured = result.measured
    assert result.status == "completed"
    assert measured.curve is not None
    assert measured.overhead is not None
    assert measured.footprint is not None
    costs.append((measured.overhead, measured.footprint))
    rungs = [
        {"quality": at["quality"], "retention": at["retention"], "overhead": overhead, "footprint": footprint}
        for at, (overhead, footprint) in zip(measured.curve[-RUNGS:], costs, strict=True)
    ]
    return {
        "knobs": knobs,
        "train_seconds": measured.train_seconds,
        "eval_seconds": measured.eval_seconds,
        "base_quality": measured.base_quality,
        "rungs": rungs,
    }


def main() -> None:
    """Trains and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2, help="at once; 0 for none but this one")
    parser.add_argument("--steps", type=int, help="of every training (default: the preset's)")
    parser.add_argument("--output", type=Path, default=FILE)
    arguments = parser.parse_args()
    began = time.time()
    wanted, one = (
        even_points(searched_space().space, arguments.points, 0),
        partial(recorded, steps=arguments.steps),
    )
    if arguments.processes == 0:
        rows = list(map(one, wanted))
    else:
        with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
            rows = list(tqdm(pool.imap(one, wanted), total=len(wanted), unit="setting"))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(_rounded(row)) for row in rows)
    arguments.output.write_text(f"[\n{lines}\n]\n", encoding="utf8")
    print(
        json.dumps(
            {"benchmark": "record_curves", "settings": len(rows), "seconds": round(time.time() - began, 1)}
        )
    )


def _rounded(value: Any) -> Any:
    """Six significant digits are more than a measurement has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
