"""What commands print, where it is read and where it is not any more."""

import subprocess
import sys

import pytest
from launching import environment

from grit.cli.one_line import EXIT_PIPE, ends_with_its_reader
from grit.cli.pasted import command_into
from grit.errors import ConfigError, reason

WRITES_ON = """
import sys
from grit.cli.one_line import ends_with_its_reader
@ends_with_its_reader
def main():
    for number in range(200_000):
        print(number)
    return 3
sys.exit(main())
"""


def _piped(command):
    """The exit codes of a command and of its reader, and what the command said on standard error."""
    writer = subprocess.Popen(
        [sys.executable, "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    reader = subprocess.run(["head", "-1"], stdin=writer.stdout, capture_output=True, text=True)
    writer.stdout.close()
    with writer.stderr:
        said = writer.stderr.read()
    return writer.wait(timeout=60), reader.stdout, said


def test_a_reader_that_has_enough_ends_a_command_quietly():
    code, read, said = _piped(WRITES_ON)
    assert (code, read, said) == (EXIT_PIPE, "0\n", "")


def test_a_command_that_is_done_keeps_its_code():
    """Also where nobody reads what it said last, or there is no standard output at all."""
    ends = WRITES_ON.replace("200_000", "1")
    buffered = {**environment(), "PYTHONUNBUFFERED": ""}
    unread = ["bash", "-c", '"$0" -c "$1" | true; exit ${PIPESTATUS[0]}', sys.executable, ends]
    without = ["bash", "-c", '"$0" -c "$1" >&-', sys.executable, ends.replace("print", "str")]
    writer, closed = (subprocess.run(command, env=buffered) for command in (unread, without))
    assert (writer.returncode, closed.returncode) == (3, 3)


def test_a_pipe_of_another_kind_that_breaks_is_no_reader_that_left():
    @ends_with_its_reader
    def main():
        raise BrokenPipeError("a server hung up")

    with pytest.raises(BrokenPipeError, match="a server hung up"):
        main()


def test_a_value_is_shown_as_it_was_typed():
    assert str(ConfigError("template", r"Q: {q}\nA:", "has no =>")) == r"template = 'Q: {q}\nA:': has no =>"
    assert str(ConfigError("name", "two\nlines", "is two lines")) == r"name = 'two\nlines': is two lines"
    assert str(ConfigError("tau", None, "must be given")) == "tau = None: must be given"


def test_why_a_file_cannot_be_read_does_not_name_it_again(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "none").read_text()
    assert reason(caught.value) == "no such file or directory"
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(ValueError()) == "ValueError"


def test_the_command_of_a_package_can_be_pasted(monkeypatch, tmp_path):
    """By the path of its `__main__.py` it once found a module of ours in the place of Python's own."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/grit/__main__.py", "train", "--output", "old", "--resume"])
    command = command_into(tmp_path, without=("--resume",), more=("--resume",))
    assert command.split()[1:] == ["-m", "grit", "train", "--resume", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["sweeps/tau_T_lambda.py", "--output", "old"])
    assert command_into(tmp_path).split()[1:] == ["sweeps/tau_T_lambda.py", "--output", str(tmp_path)]
