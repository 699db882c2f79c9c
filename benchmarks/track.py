"""Whether anything has become slower: the other benchmarks, small, beside what they gave when last recorded.

    python benchmarks/track.py [--only NAME ...] [--output track.json] [--record]

Ratios are taken as they are; seconds are divided by those of a loop of fixed work, timed before and after in
the same run, so that a slow hour of the machine does not count as a slow program. The table shows what was
recorded (`benchmarks/recorded/track.json`; `--record` writes it anew), what it is now, and what moved by more
than 15%. Ends in one line of JSON, which `--output` keeps as a file. Exit code 1: something became slower.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "recorded" / "track.json"
#: A figure that changed by less may have done so by chance.
MOVED = 0.15


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a benchmark's line.

    Attributes:
        path: its keys in the line. higher_is_better: whether more is faster. timed: seconds, not a ratio.
    """

    path: tuple[str, ...]
    higher_is_better: bool = True
    timed: bool = False

    def of(self, line: Mapping[str, Any]) -> float:
        """Its value in that line."""
        value: Any = line
        for key in self.path:
            value = value[key]
        return float(value)


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """One benchmark, as small as says something, and its figures by name."""

    arguments: tuple[str, ...]
    figures: Mapping[str, Figure]


TRACKED: dict[str, Tracked] = {
    "training_speed": Tracked(
        arguments=("--model", "embedded", "--steps", "8"),
        figures={
            "lean step, LoRA": Figure(path=("lora", "speedup")),
            "lean step, GRIT": Figure(path=("grit", "speedup")),
        },
    ),
    "evaluation": Tracked(
        arguments=("--model", "embedded", "--steps", "20", "--examples", "100"),
        figures={"a run's evaluations": Figure(path=("run", "ratio"))},
    ),
    "grit_overhead": Tracked(
        arguments=("--model", "embedded", "--steps", "60", "--cadence", "20"),
        figures={"GRIT / LoRA step": Figure(path=("mean_ratio",), higher_is_better=False)},
    ),
    "rank_space_linalg": Tracked(
        arguments=("--ranks", "8"),
        figures={"batched inversion": Figure(path=("ranks", "8", "inversion", "ratio"))},
    ),
    "trunks": Tracked(
        arguments=("--steps", "32", "--values", "1"),
        figures={"with trunks / alone": Figure(path=("ratio",), higher_is_better=False)},
    ),
    "analysis_scale": Tracked(
        arguments=("--records", "300", "--resumed", "5000"),
        figures={
            "report of 300": Figure(path=("report", "seconds"), higher_is_better=False, timed=True),
            "5,000 resumed": Figure(path=("resumed", "open_seconds"), higher_is_better=False, timed=True),
        },
    ),
}


def reference_seconds() -> float:
    """Seconds of a loop of fixed work: products of matrices, and dictionaries."""
    matrix = torch.ones(256, 256) / 256
    began = time.perf_counter()
    for _ in range(400):
        matrix = matrix @ matrix
        _ = {str(number): number for number in range(500)}
    return time.perf_counter() - began


def measured(name: str) -> dict[str, float]:
    """The figures of one benchmark, run in a process of its own."""
    before = reference_seconds()
    command = [sys.executable, str(HERE / f"{name}.py"), *TRACKED[name].arguments]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    line = json.loads(done.stdout.splitlines()[-1])
    reference = (before + reference_seconds()) / 2
    values = {}
    for title, figure in TRACKED[name].figures.items():
        value = figure.of(line)
        values[title] = value / reference if figure.timed else value
    return values


def changes(now: Mapping[str, float], recorded: Mapping[str, float]) -> dict[str, float]:
    """By figure that has a record: how many times as fast as then."""
    figures: dict[str, Figure] = {}
    for tracked in TRACKED.values():
        figures |= tracked.figures
    faster = {}
    for title, value in now.items():
        if title in recorded:
            ratio = value / recorded[title]
            faster[title] = ratio if figures[title].higher_is_better else 1 / ratio
    return faster


def table(now: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """One line per figure."""
    lines = [f"{'figure':24s} {'recorded':>9s} {'now':>9s}"]
    faster = changes(now, recorded)
    for title, value in now.items():
        then = f"{recorded[title]:9.3f}" if title in recorded else "        -"
        lines.append(f"{title:24s} {then} {value:9.3f}  {_in_words(faster.get(title))}".rstrip())
    return lines


def _in_words(faster: float | None) -> str:
    if faster is None or abs(faster - 1) <= MOVED:
        return ""
    return f"{faster:.2f} times as fast"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, compares, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description="Whether anything has become slower.")
    parser.add_argument("--only", nargs="+", choices=tuple(TRACKED), metavar="NAME", help="of the benchmarks")
    parser.add_argument("--output", type=Path, help="where the line of JSON goes as well")
    parser.add_argument("--record", action="store_true", help="write benchmarks/recorded/track.json")
    options = parser.parse_args(argv)
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    now: dict[str, float] = {}
    for name in options.only or TRACKED:
        now |= measured(name)
    slower = {title: ratio for title, ratio in changes(now, recorded).items() if ratio < 1 - MOVED}
    print("\n".join(table(now, recorded)))
    line = json.dumps({"benchmark": "track", "figures": now, "slower": slower})
    if options.output is not None:
        options.output.write_text(line + "\n")
    if options.record:
        RECORDED.write_text(json.dumps({**recorded, **now}, indent=1) + "\n")
    print(line)
    return 1 if slower and not options.record else 0


if __name__ == "__main__":
    sys.exit(main())
