"""The report of a study, rebuilt from its folder alone: `python -m analysis.report DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from analysis.evidence.load import StudyData, load_study
from analysis.studies import compare, joint_audits, portability
from analysis.studies.ablation import page as ablation
from analysis.studies.baselines import page as baselines
from analysis.studies.compression import page as compression
from analysis.studies.continual import page as continual
from analysis.studies.forgetting_law import page as forgetting_law
from analysis.studies.overhead import page as overhead
from analysis.studies.peft_comparison import page as peft_comparison
from analysis.studies.sensitivity import page as sensitivity
from analysis.studies.small_batch import page as small_batch
from grit.cli.one_line import EXIT_BAD_INPUT, OneLineErrors, ends_with_its_reader
from grit.cli.run_file import refuse_run
from grit.errors import ConfigError
from ray_jobs.records.study_file import STUDY_FILE, Caps, read_study
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import StudyMarks


class Report(Protocol):
    """What every report can be asked once it is written."""

    def terminal(self) -> str:
        """What stands on the terminal at the end of the study."""

    def marks(self) -> StudyMarks:
        """What its settings are marked with in MLflow."""


#: Studies that have a page of their own, by name; any other is a sensitivity study.
PAGES: dict[str, Callable[[StudyData, Path], Report]] = {
    "ablation": ablation.build,
    "baselines": baselines.build,
    "compression": compression.build,
    "continual": continual.build,
    "overhead": overhead.build,
    "small_batch": small_batch.build,
    "forgetting_law": forgetting_law.build,
}


def rebuild(
    folder: Path, caps: Caps | None = None, *, records: Sequence[TrialRecord] | None = None
) -> Report:
    """Writes the report that belongs to the study in `folder`, or to the studies below it.

    Args:
        folder: a study's, or that of several (portability, audits, one law for several backbones).
        caps: of the sensitivity study's front; those that are not given are its last call's.
        records: the study's, where the caller has them already.

    Raises:
        ConfigError: the folder holds no study, or a malformed one.
    """
    if not (folder / STUDY_FILE).exists():
        return _rebuild_joint(folder)
    data = load_study(folder, records)
    build = PAGES.get(data.study.name)
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged number may be beyond all measure: it shows
        return sensitivity.build(data, folder, caps) if build is None else build(data, folder)


def _rebuild_joint(folder: Path) -> Report:
    """One page over the studies below a folder."""
    members = sorted(path.parent for path in folder.glob(f"*/{STUDY_FILE}"))
    names = {read_study(member).name for member in members}
    if names == {"portability"}:
        return portability.build(folder)
    if names == {"forgetting_law"} and not (folder / "forgetting_law").exists():
        return forgetting_law.build_joint(folder)
    if names & set(joint_audits.PARTS):
        return joint_audits.build(folder)
    refuse_run(folder)
    raise ConfigError("study folder", str(folder), f"holds no {STUDY_FILE}")


def parser() -> argparse.ArgumentParser:
    """`DIR [--max-overhead S] [--max-footprint S]`, `compare DIR1 DIR2`, or `peft DIR RESULTS`."""
    made = OneLineErrors(
        prog="python -m analysis.report",
        description="Rebuilds the report and all it shows from the records in DIR. "
        "`python -m analysis.report compare DIR1 DIR2` lays two studies side by side; "
        "`python -m analysis.report peft DIR RESULTS` lays one on the frontier that PEFT publishes.",
        allow_abbrev=False,
    )
    made.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="a study's folder, or: compare DIR1 DIR2, or: peft DIR RESULTS",
    )
    overhead_help = "cap on the share of a step that geometry takes"
    footprint_help = "cap on the share of the full adapter's parameters"
    made.add_argument("--max-overhead", type=float, metavar="SHARE", help=overhead_help)
    made.add_argument("--max-footprint", type=float, metavar="SHARE", help=footprint_help)
    output_help = "where `compare` writes its page (default: DIR1/compare-<DIR2>.html)"
    made.add_argument("--output", type=Path, metavar="FILE", help=output_help)
    return made


@ends_with_its_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Command line: rebuild one report, or compare two; 2 for bad input."""
    arguments = parser().parse_args(argv)
    first, *others = arguments.folders
    try:
        if first == "compare":
            print("\n".join(_compare(others, arguments.output)))
            return 0
        if first == "peft":
            print(_beside_peft(others))
            return 0
        if others:
            raise ConfigError(
                "DIR",
                " ".join(arguments.folders),
                "must be one folder (or: compare DIR1 DIR2, or: peft DIR RESULTS)",
            )
        rebuild(Path(first), Caps(overhead=arguments.max_overhead, footprint=arguments.max_footprint))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:  # a folder or a file of another kind where the report belongs, or no room
        print(f"error: DIR = {first!r}: cannot be written: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(_page_of(Path(first)))
    return 0


def _compare(folders: Sequence[str], output: Path | None) -> list[str]:
    """What it comes to, and where the page lies."""
    if len(folders) != 2:
        raise ConfigError("compare", " ".join(folders), "needs two folders")
    first, second = Path(folders[0]), Path(folders[1])
    page = output or first / f"compare-{second.resolve().name}.html"
    return [f"1: {first}", f"2: {second}", *compare.build(first, second, page), f"page: {page}"]


def _beside_peft(folders: Sequence[str]) -> Path:
    if len(folders) != 2:
        raise ConfigError("peft", " ".join(folders), "needs a study's folder and one of PEFT's result files")
    return peft_comparison.build(Path(folders[0]), Path(folders[1]))


def _page_of(folder: Path) -> Path:
    """The newest page there: that which was just written."""
    return max(folder.glob("*.html"), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
