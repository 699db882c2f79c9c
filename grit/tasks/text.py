"""Text as the paper normalizes it (A.4: "UTF-8, strip control characters, collapse repeated whitespace")."""

from __future__ import annotations

import re
import unicodedata

_SPACES = re.compile(r"[^\S\n]+")
_BREAKS = re.compile(r" ?\n[ \n]*")


def normalize(text: str) -> str:
    """`text` without control characters.

    With runs of blanks as one blank and runs of line breaks as one line break, and bare ends.

    A single line break stays a line break: collapsing those too, as the paper's words could be read, would
    join the lines of a worked
    solution. Unpaired surrogates, which are not UTF-8, become U+FFFD.
    """
    text = (
        text.replace("\r\n", "\n")
        .replace("\r", "\n")
        .encode("utf8", "surrogatepass")
        .decode("utf8", "replace")
    )
    kept = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    return _BREAKS.sub("\n", _SPACES.sub(" ", kept)).strip()
