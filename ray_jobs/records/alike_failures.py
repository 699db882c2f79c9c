"""When most trials fail alike, a study pauses instead of eating its plan."""

from __future__ import annotations

import re
from collections import Counter, deque

from ray_jobs.records.trial_record import TrialRecord

#: Of the last `LOOKED_AT` trials that ended, so many that failed alike end a study's call.
LOOKED_AT, TOO_MANY = 6, 4


class AlikeFailures:
    """The last trials that ended in one call of a study."""

    def __init__(self) -> None:
        self._causes: deque[str | None] = deque(maxlen=LOOKED_AT)
        self._last: dict[str, str] = {}

    def add(self, record: TrialRecord) -> None:
        """A trial has ended."""
        cause = None
        if record.status == "failed":
            cause = re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", record.error or "")
            self._last[cause] = record.error or "no reason is on record"
        self._causes.append(cause)

    def reason(self) -> str | None:
        """Why the study should pause; None where it should not."""
        counted = Counter(cause for cause in self._causes if cause is not None)
        if not counted:
            return None
        cause, count = counted.most_common(1)[0]
        if count < TOO_MANY:
            return None
        return f"paused: {count} of the last {len(self._causes)} trials failed alike ({self._last[cause]})"
