"""What is being waited for, and since when: a line each on standard error, as soon as it begins."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: When this process began, on the monotonic clock: what came before this import was computing.
_BEGAN = time.monotonic() - time.process_time()
#: To a line's beginning, and what stands there gone.
_CLEARED = "\r\033[K"


def phase(what: str) -> None:
    """Says that `what` begins now: `  12 s  starting Ray`."""
    print(stamped(what), file=sys.stderr, flush=True)


@contextmanager
def passing(what: str) -> Iterator[None]:
    """Shows `what` on a terminal while the block lasts: bad input gets its one line, and no other."""
    if not sys.stderr.isatty():
        yield
        return
    print(stamped(what), end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(_CLEARED, end="", file=sys.stderr, flush=True)


def stamped(what: str) -> str:
    """`what`, behind the seconds since the process began."""
    return f"{time.monotonic() - _BEGAN:4.0f} s  {what}"
