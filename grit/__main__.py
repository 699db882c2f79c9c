"""`python -m grit train | eval | export` (see `--help` of each)."""

import os
import sys

from grit.cli.main import main

if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
