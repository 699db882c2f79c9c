"""Writes docs/results/claims.md: what the paper claims, number by number, and what was measured of it here.

    python docs/write_claims.py

The ledger is docs/results/claims.jsonl, a claim a line; a test compares.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "docs" / "results" / "claims.jsonl"
PAGE = LEDGER.with_suffix(".md")
#: What may be said of a claim, and what that means.
VERDICTS = {
    "confirmed": "measured here, within the tolerance",
    "in part": "measured here; one part of it holds",
    "refuted": "measured here: the opposite is shown, or that there is no such difference within a tolerance",
    "not told": "measured here, and the data cannot tell",
    "not tested": "needs a model, data or a machine that were not at hand",
    "no result": "a definition, a setting, or a table that the paper leaves unfilled",
}
INTRODUCTION = """# The claims ledger

Every number of the paper's tables 1, 2, 8, 11, 13 to 15, J1 and J2, and every checkable sentence of A.11 and A.12, with the tolerance within which it would count as confirmed, and what we measured. What was measured is of small models
(the embedded backbone of 0.9 million parameters, SmolLM2-135M): a verdict here says how the method behaves there, and nothing of Llama at 3B or 8B. Which command measured it, and when, stands beside each.
"""  # noqa: E501 - a paragraph of a page
READING = """## What the printed numbers say of each other

No run is needed for these:

- Overhead over QLoRA: the text says 6 to 10%, the rows of Table 8 say 3.0 to 3.6%, Table 14 says 3.5%.
- The budget of "200k tokens" is 202 to 207 thousand *steps*, by hours over mean step in all 21 rows.
- Table 11 permutes precision, recall and F1 against Table 2 for QNLI and BoolQ; 2PR/(P + R) says that Table 2 is labelled rightly.
- "Nearly identical" parameters (A.12) hold in 7 of 10 cells of Table 11; in the others they differ by -23 to +12%. One-sided is ahead in all four classification accuracies.
- A.12 calls two-sided the default; the configuration of A.10 prints `use_two_sided_reprojection = False`.
- "Table J1" exists twice with different numbers for the same settings. That of appendix H follows closed formulas to the printed digits (Var_F = c 32/B, drift = 2 CV), under the heading "Ready to Fill With Sweep Logs".
- Table 2's caption says 30 to 68% fewer parameters; its cells say 19.5 to 80%.
- Table 13 is unfilled.
"""  # noqa: E501


def ledger() -> list[dict[str, Any]]:
    """All claims, in the paper's order."""
    return [json.loads(line) for line in LEDGER.read_text(encoding="utf8").splitlines()]


def _row(*cells: str) -> str:
    words = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(words)} |"


def _printed(claim: dict[str, Any]) -> str:
    """Its numbers; one that the text has lost is a question mark."""
    return "; ".join(f"{name} {value or '?'}" for name, value in claim.get("numbers", {}).items())


def _measured(claim: dict[str, Any]) -> str:
    parts = [claim.get("measured"), claim.get("by")]
    return ". ".join(part for part in parts if part) or f"needs: {claim['needs']}"


def page() -> str:
    """The page, in Markdown."""
    claims = ledger()
    counts = Counter(claim["verdict"] for claim in claims)
    numbers = sum(len(claim.get("numbers", {})) for claim in claims)
    lines = [INTRODUCTION, f"{len(claims)} claims with {numbers} numbers:", ""]
    lines += [f"- **{counts[word]} {word}**: {meaning}" for word, meaning in VERDICTS.items()]
    lines += ["", READING]
    for where, group in groupby(claims, key=itemgetter("where")):
        lines += [f"## {where}", "", _row("claim", "as printed", "tolerance", "verdict", "measured here")]
        lines.append(_row(*["---"] * 5))
        for claim in group:
            verdict = f"**{claim['verdict']}**"
            lines.append(_row(claim["claim"], _printed(claim), claim["tolerance"], verdict, _measured(claim)))
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
    print(PAGE.relative_to(ROOT))
