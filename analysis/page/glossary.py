"""What headings and terms mean, each in a sentence: tooltips of tables, and a part of `vocabulary.md`."""

from __future__ import annotations

import html
import re
from functools import cache

from grit.config.declared_knobs import ALIASES
from grit.config.run_config import RUN_SECTIONS
from grit.config.settings import declared
from grit.tasks.metrics import METRICS
from grit.training.measurements import QUANTITIES

#: Terms of tables and sentences, by what they are called there.
TERMS: dict[str, str] = {
    "regime": "which budget was the same for all: optimizer steps, or seconds of training",
    "method": "how the adapter was trained",
    "setting": "a value of a knob, or whatever else a trial changes",
    "value": "the knob's value",
    "knob": "what is swept: tau, T or lambda",
    "tau": "energy threshold: the fewest directions that hold this share of the curvature's energy are kept",
    "T": "reprojection cadence: steps between projections onto the kept directions",
    "lambda": "damping of the curvature; large approaches plain LoRA",
    "n": "seeds that the row is a mean over",
    "seed": "of initialization, order and dropout",
    "steps": "optimizer steps taken",
    "quality": "the task's measure; higher is better",
    "forgetting": "rise of the held-out general loss in training, nats per token; lower is better",
    "retention": "exp(-forgetting): 1 where nothing is forgotten; higher is better",
    "overhead": "share of a training step spent on GRIT's own work; lower is better",
    "footprint": "adapter parameters that act, as a share of the full adapter's; lower is better",
    "verdict": "safe: passes every criterion at the stated error rate; unsafe: fails one; open: more seeds "
    "would decide; out of reach: no number of seeds here would",
    "why": "the criteria that it fails, or that are not decided",
    "criteria": "each with what it found: stability, near-best quality, retention, footprint, seed spread",
    "failure modes": "ways in which a setting goes wrong, each with its own test",
    "p (Holm)": "p-value, corrected for the number of settings judged by this criterion (Holm, 1979)",
    "against the default": "difference from the default setting in quality, with its interval",
    "quality vs rival": "quality minus that of the best other setting of the knob; | is the tolerance",
    "retention vs default": "forgetting against the default's; | is the tolerance",
    "quality vs control": "quality minus the control's, of the noise of all settings",
    "forgetting vs control": "forgetting minus the control's, of the noise of all settings",
    "quality vs whole": "quality minus that of the adapter before it is cut",
    "forgetting vs whole": "forgetting minus that of the adapter before it is cut",
    "vs default": "score minus the default's on the same seeds and examples",
    "forgetting vs default": "forgetting minus the default's on the same seeds and documents",
    "answers vs default (nats/token)": "loss of reference answers minus the default's",
    "this contrast alone": "what this pair says without the noise model that all settings share",
    "if this matters most": "what a reader may care for; the row names the setting to use then",
    "lead over the next": "whether it is ahead of the second best beyond noise",
    "P(on front)": "share of resampled studies in which no other setting is as good in every objective",
    "remarks": "knee, caps, and who dominates it",
    "objective": "one of quality, retention, overhead, footprint",
    "control's sd (quality)": "standard deviation over the seeds of LoRA or QLoRA: the task's own",
    "control's sd (forgetting)": "standard deviation over the seeds of LoRA or QLoRA",
    "median [range]": "over the settings of the knob",
    "task's own metric": "where quality is the likelihood of answers: the task's metric beside it",
    "score/h": "score per hour of training and evaluation",
    "mean rank": "directions kept, as a mean over modules at the end",
    "rank changes": "reprojections at which some module's rank changed",
    "settings": "how many settings the row is over",
    "one adapter at": "the ladder: one trained adapter, cut as a smaller tau, or a fixed k, would leave it",
    "trained in: footprint": "footprint of a run that was trained with that tau",
    "quality, trained less rung": "quality of the run trained so, minus that of the cut adapter",
    "forgetting, trained less rung": "forgetting of the run trained so, minus that of the cut adapter",
    "trial": "one training run: a setting with a seed and a budget; the first letters of its id",
    "design": "what asked for it: control, oat (one knob at a time), grid, search, list",
    "also set": "what it changes beside the knobs",
    "status": "completed, diverged, failed, stopped, or not run",
    "train s": "seconds of training, evaluation excluded",
    "disturbed": "share of the trial's core that others took: a time budget then buys fewer steps",
    "error": "why it has no result",
    "kept as": "what the adapter is kept for",
    "folder": "where it lies, below the study's",
    "1": "of the first study",
    "2": "of the second study",
    "oat": "one at a time: one knob moves, the others stay at their defaults (paper, H.3)",
    "trunk": "the beginning that several trials share until their settings first differ; trained once",
    "band": "the settings of a knob that are safe",
    "hypervolume": "volume that a front dominates, from each objective's reference point; larger is better",
    "front": "settings that no other beats in every objective (Pareto)",
    "knee": "the front's point nearest to the best of every objective, each in units of the front's range",
    "control": "the first-order method at the same budget: LoRA, or QLoRA",
    "rung": "one way of cutting a trained adapter",
    "±": "standard deviation over seeds",
    "[95%]": "95% interval",
}


def explanation(heading: str) -> str | None:
    """What a heading means; None where nobody has said it.

    A unit, an interval's mark and a study's number at its end are left aside, settings and measures have
    what is declared of them.
    """
    bare = re.sub(r" ?(\[95%\]|, paired|, alone|[12]|2 - 1)$", "", re.sub(r" ?\[95%\]$", "", heading)).strip()
    for name in (heading, bare, re.sub(r" \(.*\)$", "", bare)):
        words = TERMS.get(name) or _declared().get(name)
        if words is not None:
            return words
    return None


def heading(text: str) -> str:
    """A cell of a table's head, with its tooltip."""
    words = explanation(text)
    title = "" if words is None else f' title="{html.escape(words)}"'
    return f"<th{title}>{html.escape(text)}</th>"


@cache
def _declared() -> dict[str, str]:
    """Help of every setting by its name, and what measures are by their labels."""
    words: dict[str, str] = {}
    for kind in RUN_SECTIONS.values():
        words |= {item.name: declaration.help for item, declaration in declared(kind)}
    words |= {alias: words[field] for alias, field in ALIASES.items() if field in words}
    words |= {
        quantity.label: f"measured at the end of a run: {name}" for name, quantity in QUANTITIES.items()
    }
    return words | {metric.label: "the task's measure of quality" for metric in METRICS.values()}
