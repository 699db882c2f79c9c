"""What earlier versions of the method wrote into records, as this version has it."""

from __future__ import annotations

from typing import Any

#: Switches that are gone, and the section where they stood. Every record of method version 2 or before holds
#: them all; nothing that this version writes does.
RETIRED = {"dequantized_refresh": "grit"}


def of_this_method(values: Any) -> Any:
    """The section `grit` of a record, whichever version wrote it; anything else as it is.

    Method versions 1 and 2 summed Sigma_g over labelled positions alone, and had no word for it.
    `dequantized_refresh` computed whole steps in float32, their gradients too, where it spoke of statistics.
    """
    if not isinstance(values, dict) or not RETIRED.keys() & values.keys():
        return values
    kept = {name: value for name, value in values.items() if name not in RETIRED}
    return {"gradient_tokens": "labelled", **kept}
