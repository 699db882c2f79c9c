"""Command lines made of dataclasses: every option is a field, written once, with its help beside its default.

transformers' `HfArgumentParser` reads the fields; what it does otherwise than our users know it is changed
here: switches take no value, options have dashes only, may not be abbreviated, and what is wrong is said in
one line.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from transformers.hf_argparser import HfArgumentParser

from grit.cli.one_line import OneLineErrors

Options = TypeVar("Options")


def flag(default: Any, help: str, **more: Any) -> Any:
    """An option.

    A field with its help and whatever else argparse should know of it (metavar, choices, nargs, action).

    A field `lambda_` is called `--lambda`; a switch that is on by default is turned off by `--no-<name>`.
    """
    metadata = {"help": help, **more}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class OneLineParser(OneLineErrors, HfArgumentParser):
    """A parser whose options are the fields of dataclasses."""

    def __init__(self, dataclass_types: Any = None, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(dataclass_types, **settings)

    @staticmethod
    def _parse_dataclass_field(parser: Any, field: Any) -> None:
        settings = dict(field.metadata)
        if field.type is bool:
            switch = f"--no-{_dashed(field.name)}" if field.default else f"--{_dashed(field.name)}"
            action = "store_false" if field.default else "store_true"
            parser.add_argument(
                switch, *settings.pop("aliases", ()), action=action, dest=field.name, **settings
            )
            return
        before = set(parser._option_string_actions)
        HfArgumentParser._parse_dataclass_field(parser, field)
        action = next(item for item in parser._actions if item.dest == field.name)
        short = [name for name in settings.get("aliases", ()) if not name.startswith("--")]
        for name in action.option_strings:
            if name not in before:
                del parser._option_string_actions[name]
        action.option_strings = [*short, f"--{_dashed(field.name)}"]
        for name in action.option_strings:
            parser._option_string_actions[name] = action


def _dashed(name: str) -> str:
    return name.strip("_").replace("_", "-")


def option_names(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass of options."""
    return tuple(item.name for item in dataclasses.fields(kind))


def taken(kind: type[Options], namespace: argparse.Namespace) -> Options:
    """The dataclass of options that a parsed command line fills."""
    return kind(**{name: getattr(namespace, name) for name in option_names(kind)})


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def given(kind: type[Any], options: object, names: Sequence[str]) -> list[str]:
    """Which of some options were set to something else than their default."""
    defaults = {item.name: _default(item) for item in dataclasses.fields(kind)}
    return [name for name in names if name in defaults and getattr(options, name) != defaults[name]]
