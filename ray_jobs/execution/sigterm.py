"""SIGTERM ends a study as Ctrl-C does: `ray job stop` sends it, and kills after three seconds."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_by_sigterm(at_once: Callable[[], None]) -> Iterator[None]:
    """Within the block SIGTERM is an interrupt; `at_once` is done beside: there may be no time for more."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=at_once, daemon=True).start()
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
