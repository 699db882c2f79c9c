"""What a person sees while a study runs.

A bar and one live line per running trial on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from grit.cli.phases import stamped
from grit.training.measurements import QUANTITIES
from ray_jobs.execution.running_file import RunningTrial
from ray_jobs.records.describe import describe, outcome
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.schedule.scheduler import StudyScheduler

#: Seconds between looks at the board, and between plain lines about running trials where there is no
#: terminal.
REFRESH_SECONDS, PLAIN_SECONDS = 1.0, 60.0
#: Seconds between lines that say what an interrupted study waits for.
STOPPING_SECONDS = 2.0
#: Longest description of the best trial so far, in characters.
POSTFIX = 60

#: Told of every running job's progress, by its id.
Heard = Callable[[Mapping[str, Mapping[str, Any]]], None]


class StudyDisplay:
    """Progress of a study on standard error.

    Trials ended, time left, and what each running trial is doing.
    """

    def __init__(self, scheduler: StudyScheduler, slots: int) -> None:
        self._scheduler, self._terminal = scheduler, sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=scheduler.expected,
            initial=scheduler.ended,
            unit="trial",
            desc="starting workers",
            smoothing=0,
            file=sys.stderr,
            disable=not self._terminal,
            dynamic_ncols=True,
        )
        self._lines: list[Any] = [
            tqdm(
                total=0,
                position=1 + i,
                bar_format="{desc}",
                leave=False,
                file=sys.stderr,
                disable=not self._terminal,
                dynamic_ncols=True,
            )
            for i in range(slots)
        ]
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._slots, self._ready, self._phases = slots, 0, set[str]()
        self._best: TrialRecord | None = None
        self._one_has_ended = False
        self._stopping_said: float | None = None
        left = scheduler.expected - scheduler.ended
        workers = "1 worker loads" if slots == 1 else f"{slots} workers load"
        self._say(stamped(f"{scheduler.expected} trials, {left} to run: {workers} torch and the model"))

    def _say(self, line: str) -> None:
        if self._terminal:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def watch(self, board: Any, heard: Heard) -> None:
        """From now on shows what is on `board`, and tells `heard` of it."""
        self._thread = threading.Thread(target=self._follow, args=(board, heard), daemon=True)
        self._thread.start()

    def _follow(self, board: Any, heard: Heard) -> None:
        import ray

        last_line = time.monotonic()
        while not self._stop.wait(REFRESH_SECONDS):
            self._say_what_stops()
            try:
                seen = ray.get(board.snapshot.remote(), timeout=5)
            except (ray.exceptions.RayError, TimeoutError):
                continue
            heard(seen["running"])
            self._tell_once(seen)
            running = [running_line(name, progress) for name, progress in seen["running"].items()]
            if self._terminal:
                self._bar.set_description_str(self._workers(seen["ready"]))
                for line, text in zip(self._lines, [*running, *[""] * len(self._lines)], strict=False):
                    line.set_description_str(text)
            elif time.monotonic() - last_line >= PLAIN_SECONDS:
                last_line = time.monotonic()
                for text in running:
                    self._say(text)

    def _say_what_stops(self) -> None:
        """What an interrupted study still waits for, every few seconds."""
        if self._stopping_said is not None and time.monotonic() - self._stopping_said >= STOPPING_SECONDS:
            self._stopping_said = time.monotonic()
            self._say(stamped("waiting for the running trials to stop"))

    def _workers(self, ready: int) -> str:
        """Ray's own engine has no slots that become ready, only workers that train."""
        return f"{ready} of {self._slots} workers ready" if ready < self._slots else f"{ready} workers"

    def _tell_once(self, seen: Mapping[str, Any]) -> None:
        """Workers that have become ready, and what the first trials do before they train, as it comes."""
        if self._ready < seen["ready"] <= self._slots:
            self._ready = seen["ready"]
            if not self._one_has_ended:  # what is left follows from trials, not from their workers' start
                self._bar.start_t = time.time()
            self._say(stamped(f"{self._ready} of {self._slots} workers are ready"))
        for progress in seen["running"].values():
            phase = progress.get("phase")
            if phase is not None and phase not in self._phases and not self._one_has_ended:
                self._phases.add(phase)
                self._say(stamped(f"first trials: {phase}"))

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended."""
        self._one_has_ended = True
        self._bar.total = self._scheduler.expected
        self._bar.update(1)
        self._say(f"{self._count()} {describe(record)}  {outcome(record)}")
        if self._is_best(record):
            self._best = record
            quality = QUANTITIES["quality"].shown(record.measured.quality)
            self._bar.set_postfix_str(f"best trial {quality}: {describe(record)}"[:POSTFIX])

    def taken_over(self, record: TrialRecord) -> None:
        """A trial that another study has run, planned on the way."""
        self._bar.total = self._scheduler.expected
        self._bar.update(1)
        source = f"taken over from {record.place.reused_from}:"
        self._say(f"{self._count()} {source} {describe(record)}  {outcome(record)}")

    def _count(self) -> str:
        return f"[{self._scheduler.ended}/{self._scheduler.expected}]"

    def _is_best(self, record: TrialRecord) -> bool:
        quality = record.measured.quality
        if record.status != "completed" or quality is None:
            return False
        best = None if self._best is None else self._best.measured.quality
        return best is None or quality > best

    def interrupted(self) -> None:
        """Says so at once, and where things stand."""
        self._stopping_said = time.monotonic()
        ended, expected = self._scheduler.ended, self._scheduler.expected
        self._say(
            stamped(
                f"interrupted: no further trial is started; {ended} of {expected} have ended and are kept "
                "(once more ends at once)"
            )
        )

    def close(self) -> None:
        """Ends the display."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for line in self._lines:
            line.close()
        self._bar.close()


def running_line(trial_id: str, progress: Mapping[str, Any]) -> str:
    """One running trial: who it is, and where it stands."""
    trial = RunningTrial(trial_id=trial_id, **progress)
    return f"  {trial_id} {trial.method} {trial.regime} seed {trial.seed}: {trial.standing()}"
