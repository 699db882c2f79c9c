"""Keeps credentials out of whatever is shown or written down."""

from __future__ import annotations

import re

#: User and password before a host, and what follows a question mark: keys and tokens are put in either.
_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'\"]+@")
_QUERY = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"]*)\?[^\s'\"]*")


def without_secrets(text: str) -> str:
    """Any text, with the users, passwords and queries of the addresses in it left out."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))
