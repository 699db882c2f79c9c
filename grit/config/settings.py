"""How a setting is declared: once, with all that is known of it, beside its default.

A configuration is a frozen dataclass whose fields are made by `setting`. What is derived from the
declarations, and written
nowhere else: validation, a trial's identity, which settings may act late (so that trials share a beginning),
the key under which
the untuned model's scores are kept, and the help of command lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from grit.errors import ConfigError, among

#: What a setting may wait for: the first refresh of the inverses, or the first reprojection.
Moment = Literal["refresh", "reprojection"]
#: Whether a setting is part of a trial's identity: always, only where it is not the default, or never.
Identity = Literal["always", "changed", "never"]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers that a setting may take, and the words that refuse all others.

    An end is inside where its `_in` says so.
    """

    words: str
    low: float
    high: float = math.inf
    low_in: bool = True
    high_in: bool = False
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Whether `value` is such a number."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above = value >= self.low if self.low_in else value > self.low
        below = value <= self.high if self.high_in else value < self.high
        return above and below

    def check(self, name: str, value: object) -> None:
        """Raises ConfigError with the range's words unless it holds `value`."""
        if not self.holds(value):
            raise ConfigError(name, value, self.words)


def at_least(minimum: int) -> Range:
    """Whole numbers from `minimum` on."""
    return Range(words=f"must be a whole number of at least {minimum}", low=minimum, whole=True)


def within(low: float, high: float) -> Range:
    """Numbers in (low, high]."""
    return Range(words=f"must lie in ({low:g}, {high:g}]", low=low, high=high, low_in=False, high_in=True)


POSITIVE = Range(words="must be a finite number above 0", low=0, low_in=False)
NOT_NEGATIVE = Range(words="must be a finite number of at least 0", low=0)
SHARE = Range(words="must lie in [0, 1)", low=0, high=1)
DECAY = Range(words="must lie in (0, 1), or be none for the running mean", low=0, high=1, low_in=False)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of one setting.

    Attributes:
        help: one phrase, with the unit.
        label: what messages call it; None: its field's name.
        allowed: the numbers it may take; None where its type says enough. None as a value passes where the
            type has it.
        waits_for: it does not act before the first of these moments; empty: it may act from the first step.
        identity: whether a trial's identity has it.
        scores_untuned: whether the untuned model's scores depend on it.
        needs_statistics: it asks for what only a method with GRIT's statistics has.
        acts_with: other settings of its class, each with the values beside which this one acts; beside any
            other value it changes nothing.
        acts_if: a property of its class without which it changes nothing.
    """

    help: str
    label: str | None = None
    allowed: Range | None = None
    waits_for: frozenset[Moment] = frozenset()
    identity: Identity = "always"
    scores_untuned: bool = False
    needs_statistics: bool = False
    acts_with: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    acts_if: str | None = None


def setting(
    default: Any,
    help: str,
    *,
    label: str | None = None,
    allowed: Range | None = None,
    waits_for: Moment | tuple[Moment, ...] = (),
    identity: Identity = "always",
    scores_untuned: bool = False,
    needs_statistics: bool = False,
    acts_with: Mapping[str, tuple[Any, ...]] | None = None,
    acts_if: str | None = None,
) -> Any:
    """A dataclass field with its `Setting`."""
    moments = (waits_for,) if isinstance(waits_for, str) else waits_for
    declaration = Setting(
        help=help,
        label=label,
        allowed=allowed,
        waits_for=frozenset(moments),
        identity=identity,
        scores_untuned=scores_untuned,
        needs_statistics=needs_statistics,
        acts_with=acts_with or {},
        acts_if=acts_if,
    )
    return field(default=default, metadata={"setting": declaration})


def declared(kind: Any) -> Iterator[tuple[Field[Any], Setting]]:
    """The fields of a configuration class that are settings, each with its declaration, in order."""
    for item in fields(kind):
        if "setting" in item.metadata:
            yield item, item.metadata["setting"]


def waiting_for(kind: type, moment: Moment) -> tuple[str, ...]:
    """Names of the settings of a class that do not act before `moment`, in the order of their declaration."""
    return tuple(item.name for item, declaration in declared(kind) if moment in declaration.waits_for)


def decisive(config: object) -> dict[str, Any]:
    """The settings of a configuration that its identity has, by name."""
    values: dict[str, Any] = {}
    for item, declaration in declared(config):
        value = getattr(config, item.name)
        if declaration.identity == "always" or (declaration.identity == "changed" and value != item.default):
            values[item.name] = value
    return values


def check_settings(config: Any) -> None:
    """Checks every setting of a configuration against its type and its range.

    Raises:
        ConfigError: with the name, the value and what is allowed.
    """
    check_types(config)
    for name, label, allowed in _ranges(type(config)):  # type: ignore[arg-type]  # a class is hashable
        value = getattr(config, name)
        if value is not None:
            allowed.check(label, value)


@cache
def _ranges(kind: type) -> tuple[tuple[str, str, Range], ...]:
    """(name, label, range) of the settings of a class that have one."""
    bounded = [(item.name, declaration) for item, declaration in declared(kind)]
    return tuple(
        (name, declaration.label or name, declaration.allowed)
        for name, declaration in bounded
        if declaration.allowed is not None
    )


def check_types(config: Any) -> None:
    """Raises ConfigError for a value that is not of its field's type, or not one of its Literal."""
    for item in _typed_fields(type(config)):  # type: ignore[arg-type]  # a class is hashable
        value = getattr(config, item.name)
        if item.words:
            if value not in item.words:
                raise ConfigError(item.label, value, among(value, item.words))
        elif item.hint is bool:
            if not isinstance(value, bool):
                raise ConfigError(item.label, value, "must be true or false")
        elif item.hint is float or float in item.choices:
            _check_number(item.label, value, optional=item.hint is not float)
        elif item.hint is str and not isinstance(value, str):
            raise ConfigError(item.label, value, "must be a word")


class _TypedField(NamedTuple):
    """What is asked of a field's value; `words` are those of a Literal of words."""

    name: str
    label: str
    hint: Any
    choices: tuple[Any, ...]
    words: tuple[str, ...]


@cache
def _typed_fields(kind: type) -> tuple[_TypedField, ...]:
    """Of a configuration class: a study of thousands of records asks as often."""
    labels = {item.name: declaration.label for item, declaration in declared(kind)}
    typed = []
    for name, hint in get_type_hints(kind).items():
        choices = get_args(hint)
        only_words = all(isinstance(choice, str) for choice in choices)
        words = choices if only_words else ()
        typed.append(
            _TypedField(name=name, label=labels.get(name) or name, hint=hint, choices=choices, words=words)
        )
    return tuple(typed)


def words_of(kind: type) -> dict[str, tuple[str, ...]]:
    """The words that each setting of a class may take, by its name; empty for a setting of another type."""
    return {item.name: item.words for item in _typed_fields(kind)}


def _check_number(label: str, value: object, *, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(label, value, "must be a number")


def check_names(name: str, value: object, example: str) -> None:
    """Raises ConfigError unless `value` is a tuple of words; `example` shows what is meant."""
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise ConfigError(name, value, f"must be a list of {example}")
