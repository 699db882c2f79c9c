"""Every preset of a run by its name."""

from __future__ import annotations

from collections.abc import Callable

from grit.backbone.smollm2 import SMOLLM2
from grit.config.registry import Method
from grit.config.run_config import RunConfig
from grit.errors import ConfigError, among
from grit.presets.paper import PAPER_DEPARTURES, PAPER_MODELS, paper
from grit.presets.peft_metamath import PEFT_DEPARTURES, PEFT_METAMATH, peft_metamath
from grit.presets.small import embedded, smoke, smollm2
from grit.tasks.loading import NAMES

#: A run by method, task and steps; the last two are the preset's own where they are None.
ConfigurationOf = Callable[[Method, str | None, int | None], RunConfig]

CONFIGURATIONS: dict[str, ConfigurationOf] = {
    "smoke": smoke,
    "embedded": embedded,
    SMOLLM2: smollm2,
    **{name: paper(name) for name in PAPER_MODELS},
    PEFT_METAMATH: peft_metamath,
}
#: Rows (setting, source, here, why) of the presets that claim to follow a source.
DEPARTURES: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    **dict.fromkeys(PAPER_MODELS, PAPER_DEPARTURES),
    PEFT_METAMATH: PEFT_DEPARTURES,
}


def configuration(
    name: str, method: Method, *, task: str | None = None, steps: int | None = None
) -> RunConfig:
    """A run's configuration by name.

    `task` and `steps` replace the preset's own, and cadences that are shares of the steps follow.

    Raises:
        ConfigError: there is no preset or no task of that name.
    """
    if name not in CONFIGURATIONS:
        raise ConfigError("preset", name, among(name, CONFIGURATIONS))
    if task is not None and task not in NAMES:
        raise ConfigError("task", task, among(task, NAMES))
    made = CONFIGURATIONS[name](method, task, steps)
    rate = made.optimization.learning_rate * made.spec.rate_multiple
    return made.changed(learning_rate=rate) if made.spec.rate_multiple != 1 else made


def departures(name: str) -> list[list[str]]:
    """Rows (setting, source, here, why) in which a preset differs from its source.

    None for a preset that does not claim to follow one.
    """
    return [list(row) for row in DEPARTURES.get(name, ())]
