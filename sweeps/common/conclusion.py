"""The end of a call: report, adapters, MLflow's last words, and what the terminal shows."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.evidence.model_cards import card_of_trial
from analysis.evidence.study_marks import kept_trials
from grit.adapters.kept_adapter import read_kept_adapter
from grit.cli.model_card import write_card
from grit.cli.one_line import EXIT_INTERRUPTED
from grit.cli.pasted import command_into, goes_on, pasted
from grit.cli.phases import phase
from grit.errors import ConfigError
from grit.secrets import without_secrets
from ray_jobs.execution.runner import StudyOutcome, StudyRunner
from ray_jobs.records.kept_adapters import ADAPTERS, INDEX_FILE, adapter_folder, has_adapter, write_index
from ray_jobs.records.sequential import MOST_SEEDS
from ray_jobs.records.study_file import StudyFile, read_study
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_status import STATUSES
from ray_jobs.tracking.marks import StudyMarks
from ray_jobs.tracking.tracker import Tracker
from sweeps.common.study_options import ExecutionOptions

#: Of a call. 0: every trial has ended, whatever it measured. Broken: it could not go on (a full disk, trials
#: that fail alike). Lost: it has ended, and trials failed.
EXIT_BROKEN, EXIT_LOST = 1, 3
#: What a finished study leaves with MLflow.
ARTIFACTS = (
    "report.html",
    "report.md",
    "pareto.csv",
    "recommendation.json",
    "study.json",
    "study.yaml",
    "trials.jsonl",
    "figures",
    "tables",
)


def conclude(
    output: Path,
    outcome: StudyOutcome,
    runner: StudyRunner,
    tracker: Tracker,
    execution: ExecutionOptions,
    *,
    decides: bool,
) -> int:
    """Writes the report, keeps adapters, closes MLflow's run, and says how it went.

    Args:
        output: the study's folder.
        outcome: of the runner's call.
        runner: what ran it.
        tracker: its mirror.
        execution: what was asked for.
        decides: whether its script can grow a study until it is decided.

    Returns:
        The exit code.
    """
    from analysis.report import rebuild

    if outcome.broken is not None:
        tracker.finish(StudyMarks(), [], interrupted=True)
        print(
            f"error: {outcome.broken}; what was recorded before is whole: once that is mended, "
            f"{goes_on(output)}",
            file=sys.stderr,
        )
        return EXIT_BROKEN
    completed = any(record.status == "completed" for record in outcome.records)
    marks, kept = StudyMarks(), dict[str, tuple[str, ...]]()
    if completed:
        # under the caps of this call, which study.json holds
        phase("writing the report")
        report = rebuild(output, records=outcome.records)
        marks = report.marks()
        print("\n" + report.terminal())
    # what is still owed may change which setting is recommended
    if not any(STATUSES[record.status].runs_again for record in outcome.records):
        kept = _keep(output, outcome.records, runner, marks)
    phase("completing MLflow's record")
    artifacts = [output / name for name in ARTIFACTS if (output / name).exists()]
    tracker.finish(marks, artifacts, interrupted=outcome.interrupted)
    registered = _log_adapters(output, kept, outcome.records, tracker, execution.register)
    if tracker.failure:
        print(
            f"warning: MLflow lost contact: {without_secrets(tracker.failure)}; the same command with "
            f"--output {output} delivers what is missing",
            file=sys.stderr,
        )
    print(f"\n{_counts_in_words(outcome)}")
    if completed:
        print(f"report:  {pasted('xdg-open', output / 'report.html')}\n{address_lines(tracker)}")
        _print_adapters(output, kept, registered)
    if decides and not outcome.interrupted:
        _print_deciding_command(output, marks, len(outcome.records))
    return _exit_code(output, outcome)


def _counts_in_words(outcome: StudyOutcome) -> str:
    """How many trials ended how, what the search still had to ask for, and how long training took."""
    counts = Counter(record.status for record in outcome.records)
    words = [f"{count} {_in_words(status)}" for status, count in counts.items()]
    if to_ask := outcome.expected - len(outcome.records):
        words.append(f"{to_ask} of the search to be asked for")
    reused = f"; {outcome.reused} reused" if outcome.reused else ""
    ran = (
        f"{outcome.ran} run by this call in {outcome.seconds:.0f} s"
        if outcome.ran
        else "none run by this call"
    )
    return f"{', '.join(words)}{reused}; {ran}"


def address_lines(tracker: Tracker) -> str:
    """How to look at the study in MLflow."""
    first, *rest = tracker.address()
    return "\n         ".join([f"MLflow:  {first}", *rest])


def _print_deciding_command(output: Path, marks: StudyMarks, trials: int) -> None:
    """What decides more, if anything does.

    This study with more trials; of a fixed design, a growing one beside it, which takes its trials over.
    """
    study = read_study(output)
    limits = ("--max-trials", "--max-hours", "--max-gpu-hours")
    if study.sequential is not None:
        more = ["--max-trials", str(2 * trials)]
        command, is_open = command_into(output, without=limits, more=more), marks.open > 0
    else:
        command, is_open = _growing_command(output, study, limits), bool(marks.undecided)
        is_open = is_open and len(study.seeds) < MOST_SEEDS
    if is_open:
        print(f"decide:  {without_secrets(command)}")


def _growing_command(output: Path, study: StudyFile, limits: Sequence[str]) -> str:
    """The command of a growing study beside a fixed one: with its seeds first, and its seconds."""
    further = range(max(study.seeds) + 1, max(study.seeds) + 1 + MOST_SEEDS - len(study.seeds))
    more = ["--decide", "--seeds", *map(str, (*study.seeds, *further))]
    if "time" in study.budgets:  # measured anew it would be another budget, and nothing could be taken over
        more += ["--budget-seconds", str(study.budgets["time"])]
    beside = output.resolve()
    beside = beside.with_name(f"{beside.name}-decided")
    fixed = (*limits, "--seeds", "--resume", "--no-reuse", "--budget-seconds")
    return command_into(beside, without=fixed, more=more)


def _in_words(status: str) -> str:
    return status if STATUSES[status].ended else STATUSES[status].meaning


def _exit_code(output: Path, outcome: StudyOutcome) -> int:
    lost = sum(record.status == "failed" for record in outcome.records)
    if outcome.interrupted:
        print(f"interrupted: {goes_on(output)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if lost:
        print(
            f"{lost} trial(s) were lost: the same command with --output {output} runs them again",
            file=sys.stderr,
        )
    return EXIT_LOST if lost else 0


def _keep(
    output: Path, records: Sequence[TrialRecord], runner: StudyRunner, marks: StudyMarks
) -> dict[str, tuple[str, ...]]:
    """Keeps what this call asks for and removes the rest; the trials that are kept, with what for."""
    kept = kept_trials(records, marks, runner.keeps)
    try:
        runner.keep_adapters(kept)
        _write_cards(output, kept, records, marks)
        write_index(output, kept, records)
    except (OSError, ConfigError) as error:
        print(f"warning: adapters: {error}", file=sys.stderr)
    return kept


def _write_cards(
    output: Path, kept: Mapping[str, tuple[str, ...]], records: Sequence[TrialRecord], marks: StudyMarks
) -> None:
    study = read_study(output)
    for record in records:
        folder = adapter_folder(output, record.trial_id)
        if record.trial_id in kept and has_adapter(output, record.trial_id):
            card = card_of_trial(study, record, kept[record.trial_id], marks)
            write_card(folder, read_kept_adapter(folder), card)


def _is_sound(output: Path, trial_id: str) -> bool:
    """Whether an adapter is there, as it was written, and computes what was scored."""
    try:
        return read_kept_adapter(adapter_folder(output, trial_id)).reloaded.agrees
    except ConfigError:
        return False


def chosen_one(kept: Mapping[str, tuple[str, ...]], output: Path) -> str | None:
    """The adapter to use: the first seed of the recommended setting, or of the default if that was not run.

    Not the best-scoring seed: that would be chosen on the examples that score it.
    """
    there = [trial_id for trial_id in kept if _is_sound(output, trial_id)]
    for role in ("recommended", "default"):
        holders = [trial_id for trial_id in there if role in kept[trial_id]]
        if holders:
            return holders[0]
    return None


def _log_adapters(
    output: Path,
    kept: Mapping[str, tuple[str, ...]],
    records: Sequence[TrialRecord],
    tracker: Tracker,
    register: str | None,
) -> dict[str, str]:
    folders = {name: adapter_folder(output, name) for name in kept if has_adapter(output, name)}
    own = {record.trial_id for record in records if record.place.reused_from is None}
    one = chosen_one(kept, output)
    logged = {name: folder for name, folder in folders.items() if name in own or name == one}
    if register is not None and one is None:
        print(f"warning: {register} is not registered: there is no adapter to register", file=sys.stderr)
    return tracker.log_adapters(logged, {one: register} if one is not None and register is not None else {})


def _print_adapters(output: Path, kept: Mapping[str, tuple[str, ...]], registered: Mapping[str, str]) -> None:
    one = chosen_one(kept, output)
    if one is None:
        return
    count = sum(has_adapter(output, trial_id) for trial_id in kept)
    print(f"adapter: {output / ADAPTERS / one} ({', '.join(kept[one])}; {count} kept, see {INDEX_FILE})")
    for address in registered.values():
        print(f"model:   {address}")
