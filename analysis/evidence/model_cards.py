"""The model card of a study's adapter: numbers with intervals over seeds, and what the study says of it."""

from __future__ import annotations

from grit.cli.model_card import Card, CardNumber, energy_in_words, ranks_in_words
from grit.training.measurements import OBJECTIVES, QUANTITIES
from ray_jobs.records.study_file import StudyFile
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.tracking.marks import Aggregate, StudyMarks

#: What the untuned model has of an objective, by field of the measurements.
_UNTUNED = {"quality": "base_quality"}


def card_of_trial(study: StudyFile, record: TrialRecord, roles: tuple[str, ...], marks: StudyMarks) -> Card:
    """What a study knows of one of its trials."""
    setting = marks.of(record.plan.point_id, record.plan.regime)
    numbers = []
    for name, quantity in OBJECTIVES.items():
        untuned = getattr(record.measured, _UNTUNED[name]) if name in _UNTUNED else None
        aggregate = None if setting is None else setting.objectives.get(name)
        numbers.append(
            CardNumber(
                label=quantity.label,
                value=quantity.shown(getattr(record.measured, name)),
                untuned=quantity.shown(untuned),
                over_seeds=_over_seeds(name, aggregate),
            )
        )
    config, call = record.config, study.last_call
    seeds = 0 if setting is None else setting.seeds
    limits = [
        f"One backbone ({config.backbone.model}) and one task ({config.task.name}): nothing here speaks of "
        "others.",
        f"{seeds} seed(s) of this setting; this adapter is one of them, and was not chosen by its score.",
    ]
    if setting is not None and setting.verdict is not None:
        limits.append(f"Against the study's tolerances this setting is {setting.verdict}.")
    return Card(
        kept_as=", ".join(roles),
        numbers=numbers,
        geometry=[ranks_in_words(record.measured)],
        energy=energy_in_words(record.measured),
        limits=limits,
        provenance={
            "study": f"{study.name} {study.study_id}",
            "trial": record.trial_id,
            "commit": str(call.git_commit),
            **call.versions,
        },
    )


def _over_seeds(name: str, aggregate: Aggregate | None) -> str:
    quantity = QUANTITIES[name]
    if aggregate is None:
        return quantity.shown(None)
    mean = quantity.shown(aggregate.mean)
    if aggregate.low is None:
        return mean
    return f"{mean} [{quantity.shown(aggregate.low)}, {quantity.shown(aggregate.high)}]"
