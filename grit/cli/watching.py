"""What a person sees while one run trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from grit.cli.phases import stamped
from grit.training.hooks import Hooks

#: Where there is no terminal: a line whenever another such share of the budget is used.
PLAIN_SHARE = 0.1
#: Seconds between lines of `--live`.
LIVE_SECONDS = 1.0


class RunDisplay:
    """Shows one run on standard error.

    Args:
        title: of the bar. live: a line with loss and mean rank every second, wherever it is shown.
    """

    def __init__(self, title: str, *, live: bool) -> None:
        self._terminal = sys.stderr.isatty()
        self._live, self._lines, self._last = live, 0, 0.0
        self._bar: Any = tqdm(
            total=100,
            desc=title,
            unit="%",
            file=sys.stderr,
            disable=not self._terminal,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )

    def hooks(self) -> Hooks:
        """What tells this display."""
        return Hooks(progress=self._progress, phase=self._phase)

    def close(self) -> None:
        """Ends the display."""
        self._bar.close()

    def _phase(self, name: str) -> None:
        self._say(stamped(name))

    def _progress(self, step: int, share: float, loss: float, rank: float) -> None:
        words = f"step {step}, loss {loss:.3f}, rank {rank:.1f}"
        self._bar.n = round(100 * share, 1)
        self._bar.set_postfix_str(words)
        if self._is_due(share):
            self._say(stamped(f"{share:4.0%}  {words}"))

    def _is_due(self, share: float) -> bool:
        now = time.monotonic()
        if self._live:
            if now - self._last < LIVE_SECONDS and share < 1:
                return False
            self._last = now
            return True
        if self._terminal or share < self._lines * PLAIN_SHARE:
            return False
        self._lines = int(share / PLAIN_SHARE) + 1
        return True

    def _say(self, line: str) -> None:
        if self._terminal:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


@contextmanager
def evaluation_bar(what: str, count: int) -> Iterator[Any]:
    """A bar over a long evaluation, on a terminal."""
    with tqdm(total=count, desc=what, file=sys.stderr, leave=False, disable=not sys.stderr.isatty()) as bar:
        yield bar.update
