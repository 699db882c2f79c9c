"""SIGTERM to a worker: heard where something is left before the end, and deadly otherwise."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ray_jobs.execution.per_trial.termination import TERMINATED_EXIT, Termination

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def termination():
    """With a tenth of a second's grace; what would end the process notes the code."""
    before, ended = signal.getsignal(signal.SIGTERM), []
    made = Termination(grace_seconds=0.1, end=ended.append)
    made.ended = ended
    yield made
    signal.signal(signal.SIGTERM, before)


def _await(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_an_attempt_hears_it_and_has_its_grace(termination):
    said = []
    termination.listen()
    termination.expect(lambda: said.append("farewell"))
    assert not termination.heard
    os.kill(os.getpid(), signal.SIGTERM)
    _await(lambda: termination.heard)
    termination.expect(None)  # it has left its checkpoint
    time.sleep(0.3)
    assert (said, termination.ended) == ([], [])


def test_one_that_is_late_says_so_and_ends(termination):
    said = []
    termination.listen()
    termination.expect(lambda: said.append(threading.current_thread().name))
    os.kill(os.getpid(), signal.SIGTERM)
    _await(lambda: termination.ended)
    assert termination.ended == [TERMINATED_EXIT]
    assert len(said) == 1 and said != ["MainThread"]


@pytest.mark.parametrize("expecting, sent", [(False, 1), (True, 2)])
def test_where_nothing_is_left_or_at_the_second_time_it_ends_at_once(expecting, sent):
    program = (
        "import time\n"
        "from ray_jobs.execution.per_trial.termination import TERMINATION\n"
        "TERMINATION.listen()\n"
        f"TERMINATION.expect({'print' if expecting else None})\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    for _ in range(sent):
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM


def test_one_whose_farewell_nobody_hears_ends_all_the_same(termination):
    def unheard():
        raise ConnectionError

    termination.listen()
    termination.expect(unheard)
    before, threading.excepthook = threading.excepthook, lambda _: None
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        _await(lambda: termination.ended)
    finally:
        threading.excepthook = before
    assert termination.ended == [TERMINATED_EXIT]
