"""A real pseudo-terminal of a given width, with a process in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time

#: What moves the cursor or clears a line.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs a command in a terminal of `columns`, in a session of its own.

    Attributes:
        text: all that it has shown, as it came.
    """

    def __init__(self, command, *, columns, cwd, env):
        mine, its = os.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._mine, self.text = mine, ""
        self.process = subprocess.Popen(
            command, stdin=its, stdout=its, stderr=its, cwd=cwd, env=env, preexec_fn=_own_terminal
        )
        os.close(its)

    def until(self, words, seconds=240):
        """Reads until `words` have been shown.

        Raises:
            AssertionError: the process ended, or time was up, before that.
        """
        deadline = time.time() + seconds
        while words not in self.text:
            assert time.time() < deadline and self._read(), f"{words!r} was not shown:\n{self.text[-3000:]}"

    def press(self, key):
        """As a person does."""
        os.write(self._mine, key)

    def to_the_end(self, seconds=300):
        """Reads all there is; returns the exit code."""
        deadline = time.time() + seconds
        while self._read():
            assert time.time() < deadline, self.text[-3000:]
        return self.process.wait(timeout=60)

    def lines(self):
        """What was shown, line by line, without what moves the cursor; a redrawn line counts each time."""
        plain = _CONTROL.sub("\n", self.text).replace("\r", "\n")
        return [line.rstrip() for line in plain.split("\n") if line.strip()]

    def close(self):
        """Ends what is left."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._mine)

    def _read(self):
        """Takes what there is; False once nothing will come."""
        if not select.select([self._mine], [], [], 1.0)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self._mine, 65536)
        except OSError:  # the other side has been closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)


def _own_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
