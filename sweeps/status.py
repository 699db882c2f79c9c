"""Where a study stands: what runs, where and since when, what is decided, what remains, what it has cost.

    python -m sweeps.status results/mine            # once
    python -m sweeps.status results/mine --watch    # again and again, until it has ended
    python -m sweeps.status results/mine --json     # for machines

Reads the study's folder alone, from any machine that reaches it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python sweeps/x.py` puts sweeps/ there

from grit.cli.one_line import EXIT_BAD_INPUT, EXIT_INTERRUPTED, OneLineErrors, ends_with_its_reader
from grit.errors import ConfigError
from sweeps.common.study_status import StudyStatus, study_status

#: Seconds between looks: on a terminal, and elsewhere.
WATCH_SECONDS, PLAIN_SECONDS = 2.0, 30.0
#: To a terminal's first line, and whatever stands below it gone.
_HOME = "\033[H\033[J"


def parser() -> argparse.ArgumentParser:
    """`DIR [--watch] [--json]`."""
    assert __doc__ is not None
    made = OneLineErrors(
        prog="python -m sweeps.status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("folder", type=Path, metavar="DIR", help="a study's folder")
    made.add_argument("--watch", action="store_true", help="look again and again until the study has ended")
    made.add_argument("--json", action="store_true", help="one JSON object per look, a line each")
    return made


@ends_with_its_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 2 for a folder that holds no study, 130 where watching was interrupted."""
    arguments = parser().parse_args(argv)
    try:
        while True:
            status = study_status(arguments.folder)
            _show(status, as_json=arguments.json, watching=arguments.watch)
            if not arguments.watch or status.state not in ("starting", "running"):
                return 0
            time.sleep(WATCH_SECONDS if sys.stdout.isatty() else PLAIN_SECONDS)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _show(status: StudyStatus, *, as_json: bool, watching: bool) -> None:
    if as_json:
        print(json.dumps(status.as_dict()), flush=True)
        return
    above = _HOME if watching and sys.stdout.isatty() else ""
    print(above + "\n".join(status.lines()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
