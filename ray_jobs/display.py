"""What a person sees while a study runs: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from typing import Any

from tqdm import tqdm

from ray_jobs.records import TrialRecord
from ray_jobs.scheduler import StudyScheduler

#: Seconds between looks at the board.
REFRESH_SECONDS = 1.0


class StudyDisplay:
    """Progress of a study on standard error: trials ended, time left, and what each running trial is doing."""

    def __init__(self, scheduler: StudyScheduler) -> None:
        self._scheduler, self._terminal = scheduler, sys.stderr.isatty()
        self._bar: Any = tqdm(total=scheduler.expected, initial=scheduler.ended, unit="trial", desc="starting workers", file=sys.stderr,
                              disable=not self._terminal, dynamic_ncols=True)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if not self._terminal:
            self._say(f"{scheduler.expected} trials, {scheduler.expected - scheduler.ended} to run; starting workers")

    def _say(self, line: str) -> None:
        if self._terminal:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def watch(self, board: Any) -> None:
        """From now on shows what is on `board`."""
        if self._terminal:
            self._thread = threading.Thread(target=self._follow, args=(board,), daemon=True)
            self._thread.start()

    def _follow(self, board: Any) -> None:
        import ray

        while not self._stop.wait(REFRESH_SECONDS):
            try:
                seen = ray.get(board.snapshot.remote(), timeout=5)
            except (ray.exceptions.RayError, TimeoutError):
                continue
            running = [f"{p['method']} step {p['step']} {p['share']:.0%} loss {p['loss']:.2f} rank {p['rank']:.1f}" for p in seen["running"].values()]
            self._bar.set_description_str(f"{seen['ready']} workers")
            self._bar.set_postfix_str(" | ".join(running))

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended."""
        self._bar.total = self._scheduler.expected
        self._bar.update(1)
        count = f"[{self._scheduler.ended}/{self._scheduler.expected}]"
        if record.status == "completed":
            if not self._terminal:
                self._say(f"{count} {describe(record)}  quality {record.quality:.3f}  retention {record.retention:.3f}  "
                          f"overhead {record.overhead:.1%}  footprint {record.footprint:.0%}  {record.steps} steps in {record.train_seconds:.1f} s")
            return
        self._say(f"{count} {describe(record)}  {record.status}: {record.error}")

    def close(self) -> None:
        """Ends the display."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._bar.close()


def describe(record: TrialRecord) -> str:
    """A trial in a few words."""
    if record.tau is None:
        knobs = "control"
    else:
        knobs = f"tau={record.tau:.4g} T={record.T if record.T is not None else 'none'} lambda={record.lambda_:.3g}"
    return f"{record.method:5} {record.regime} seed {record.seed} {record.design:7} {knobs}"
