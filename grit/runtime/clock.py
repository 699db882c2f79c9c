"""Where a step's time goes: mutually exclusive sections, on the host's clock or on CUDA events.

A clock is told every change of section; each interval is charged to the section that was open. Sections may
nest: opening one closes the outer one's interval, so that no moment is counted twice. Source: paper appendix
F, "component breakdown".
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from grit.runtime.step_sections import GEOMETRY_SECTIONS, SECTIONS

__all__ = ["GEOMETRY_SECTIONS", "SECTIONS", "NoClock", "SectionTotals", "StepClock"]


class StepClock:
    """Times the sections of one optimizer step at a time; whatever is in no section is `misc`."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._open = ["misc"]
        self._marks: list[tuple[str, Any]] = []
        self._unread: list[list[tuple[str, Any]]] = []

    def _now(self) -> Any:
        return _event() if self._cuda else time.perf_counter()

    def _mark(self) -> None:
        self._marks.append((self._open[-1], self._now()))

    def start_step(self) -> None:
        """Begins a step; what was marked since the last `end_step` is dropped (evaluation, checkpoints)."""
        self._open = ["misc"]
        self._marks = []
        self._mark()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Charges the enclosed time to `name`."""
        self._open.append(name)
        self._mark()
        try:
            yield
        finally:
            self._open.pop()
            self._mark()

    def end_step(self) -> None:
        """Closes the step."""
        self._marks.append(("end", self._now()))
        self._unread.append(self._marks)
        self._marks = []

    def read(self) -> list[dict[str, float]]:
        """Milliseconds by section of each step since the last read.

        On CUDA this waits for the device: call it rarely.
        """
        if self._cuda:
            torch.cuda.synchronize()
        steps = []
        for marks in self._unread:
            spent = dict.fromkeys(SECTIONS, 0.0)
            for (name, begin), (_, end) in zip(marks, marks[1:], strict=False):
                spent[name] += begin.elapsed_time(end) if self._cuda else (end - begin) * 1e3
            steps.append(spent)
        self._unread = []
        return steps


class NoClock(StepClock):
    """A clock that measures nothing, for loops that do not ask."""

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Measures nothing."""
        yield


class SectionTotals:
    """Seconds spent in named sections since the beginning, on the host's clock or on CUDA events.

    Sections must not nest.
    """

    #: Events kept before they are read: a read waits for the device.
    _UNREAD = 512

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._pending: list[tuple[str, Any, Any]] = []

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Adds the enclosed time to `name`."""
        begin = _event() if self._cuda else time.perf_counter()
        try:
            yield
        finally:
            if self._cuda:
                self._pending.append((name, begin, _event()))
                if len(self._pending) >= self._UNREAD:
                    self._read()
            else:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begin

    def _read(self) -> None:
        torch.cuda.synchronize()
        for name, begin, end in self._pending:
            self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1e3
        self._pending = []

    def add(self, seconds: dict[str, float]) -> None:
        """Adds what was measured before (an earlier process of the same run)."""
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value

    def seconds(self) -> dict[str, float]:
        """Seconds by section. On CUDA this waits for the device."""
        if self._pending:
            self._read()
        return dict(self._seconds)


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
