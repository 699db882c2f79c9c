"""The knobs of the sensitivity study: their names, what they are of `GritConfig`, how they are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One of the knobs of the sensitivity study.

    Attributes:
        field: of `GritConfig`.
        title: in sentences.
        axis: the label of a figure's axis, with its symbol.
        style: how its values are formatted.
    """

    field: str
    title: str
    axis: str
    style: str

    def shown(self, value: float | int | None) -> str:
        """A value as people write it; `none` for a cadence that never comes."""
        return "none" if value is None else format(value, self.style)


#: The knobs by their names in records, tables and on command lines, in the order of tables.
KNOBS: dict[str, Knob] = {
    "tau": Knob(
        field="rank_adaptation_threshold",
        title="energy threshold tau",
        axis="energy threshold τ",
        style=".4g",
    ),
    "T": Knob(
        field="reprojection_freq",
        title="reprojection cadence T",
        axis="reprojection cadence T (steps)",
        style="d",
    ),
    "lambda": Knob(field="kfac_damping", title="damping lambda", axis="damping λ", style=".3g"),
}
#: Their names by field.
KNOB_OF: dict[str, str] = {knob.field: name for name, knob in KNOBS.items()}
#: `GritConfig` takes either name. A trailing underscore is allowed, since `lambda` is a word of the language:
#: GritConfig(tau=0.9, T=100, lambda_=3e-3).
ALIASES = {**{name: knob.field for name, knob in KNOBS.items()}, "lambda_": KNOBS["lambda"].field}
