"""Short names of values."""

from __future__ import annotations

import hashlib
import json


def digest(value: object) -> str:
    """Sixteen hex digits that name a JSON-serializable value.

    Equal values give equal digits on every machine.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
