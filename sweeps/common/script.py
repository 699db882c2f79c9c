"""A study script, declared: what it measures, what it starts from, which options mean something to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from grit.cli.fields import HelpFields
from grit.cli.one_line import EXIT_BAD_INPUT, EXIT_INTERRUPTED, ends_with_its_reader
from grit.cli.options import DataOptions, ModelOptions
from grit.cli.parser import OneLineParser, given, option_names, taken
from grit.cli.pasted import goes_on
from grit.config.run_config import RunConfig
from grit.config.sections import Regime
from grit.errors import ConfigError
from grit.tasks.loading import beyond_backbone
from ray_jobs.design.plan import Study
from ray_jobs.design.points import Point
from ray_jobs.design.search_space import Search
from ray_jobs.design.study_presets import PresetOf, preset
from ray_jobs.design.study_spec import StudySpec, read_spec
from sweeps.common.plan_forecast import PlanForecast, unheard
from sweeps.common.request import CommandLine, StudyRequest, check_points_act, idle_sentences, resolve
from sweeps.common.study_options import KNOB_OPTIONS, DesignOptions, ExecutionOptions, SearchOptions

#: Options that say which settings are measured or searched: a script that designs its points itself refuses
#: them.
DESIGN_OPTIONS = (
    *KNOB_OPTIONS,
    "grid",
    "point",
    "small_batch",
    "search_points",
    "sampler",
    "space",
    "stop_dominated",
)


#: Options of the search that a study's file has; the others say where it is kept and what is advised.
SEARCHED_IN_FILE = ("search_points", "sampler", "space", "stop_dominated")


def nothing(_request: StudyRequest) -> Search | None:
    """Nothing is searched: all points are designed."""
    return None


def asked_base(request: StudyRequest) -> RunConfig:
    """The configuration as it was asked for."""
    return request.base


@dataclass(frozen=True, kw_only=True)
class StudyScript:
    """One study.

    Attributes:
        name: of the study, of its folder and of its report.
        description: for `--help`.
        points: what is measured.
        search: what is searched after that.
        regimes: the budgets that are matched where none are named.
        designs: which of `DESIGN_OPTIONS` mean something here.
        presets: what the study starts from, by a preset's name: it may have its own idea of seeds and
            budgets.
        decides: whether it grows until its settings are decided, where seeds are not fixed.
        own: a dataclass of the script's own options, or None.
        design: the common options of what is measured, with other defaults where the script has its own.
        based_on: the configuration that all trials begin with, where the script's own options change it.
    """

    name: str
    description: str
    points: Callable[[StudyRequest], list[Point]]
    search: Callable[[StudyRequest], Search | None] = nothing
    regimes: tuple[Regime, ...] = ("step", "time")
    designs: tuple[str, ...] = DESIGN_OPTIONS
    presets: PresetOf = preset
    decides: bool = False
    own: type | None = None
    design: type[DesignOptions] = DesignOptions
    based_on: Callable[[StudyRequest], RunConfig] = asked_base

    def parser(self, *more: type) -> OneLineParser:
        """The command line; `more` are further dataclasses of options."""
        kinds = [self.design, ModelOptions, DataOptions, SearchOptions, ExecutionOptions]
        own = [] if self.own is None else [self.own]
        parser = OneLineParser([*own, *more, *kinds], description=self.description)
        parser.add_argument("--help-fields", action=HelpFields)
        return parser

    def read(self, argv: Sequence[str] | None, *more: type) -> tuple[CommandLine, list[object]]:
        """A command line as options, and those of `more`."""
        namespace = self.parser(*more).parse_args(argv)
        line = CommandLine(
            design=taken(self.design, namespace),
            search=taken(SearchOptions, namespace),
            execution=taken(ExecutionOptions, namespace),
            data=taken(DataOptions, namespace),
            model=taken(ModelOptions, namespace),
            own=None if self.own is None else taken(self.own, namespace),
        )
        return line, [taken(kind, namespace) for kind in more]

    @ends_with_its_reader
    def main(self, argv: Sequence[str] | None = None) -> int:
        """Runs the study by its command line; returns the exit code (see `run`)."""
        return self.run(self.read(argv)[0])

    def study(self, argv: Sequence[str]) -> Study:
        """The plan of a command line, for whoever wants to look at it without running it.

        A time budget that would be measured is the preset's guess.

        Raises:
            ConfigError: a value that cannot be used.
        """
        from sweeps.common.command import content_of

        request = self.request(self.read(argv)[0])
        guess = request.preset.costs.step_seconds * request.budget_steps
        content = content_of(request.base, ask_hub=False)
        return self._study(request, content.hashes, request.budget_seconds or guess)

    def request(self, line: CommandLine) -> StudyRequest:
        """What a command line asks for.

        Raises:
            ConfigError: a value that cannot be used.
        """
        asked = resolve(line, self.presets, self.regimes, decides=self.decides)
        return replace(asked, preset=replace(asked.preset, base=self.based_on(asked)))

    def run(self, line: CommandLine, planned: Callable[[PlanForecast], None] = unheard) -> int:
        """Runs the study; `planned` hears what a dry run predicts.

        Returns:
            Its exit code: 0 every trial has ended, 3 ended with trials lost, 130 interrupted, 1 it could not
            go on, 2 bad input (nothing was launched).
        """
        address = line.execution.address or os.environ.get("RAY_ADDRESS")
        line = replace(line, execution=replace(line.execution, address=address))
        try:
            self._refuse_what_says_nothing(line)
            asked = self.request(line) if line.execution.study is None else self._read_spec(line)
            # Heavy: what is no use has been refused by now.
            from sweeps.common.command import run_study

            if isinstance(asked, StudySpec):
                return run_study(asked.preset, line.execution, line.search, spec=asked, planned=planned)
            return run_study(
                asked.preset_name,
                line.execution,
                line.search,
                request=asked,
                make=self._study,
                planned=planned,
            )
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_BAD_INPUT
        except KeyboardInterrupt:
            output = line.execution.output
            further = "the same command with the same --output goes on" if output is None else goes_on(output)
            print(
                "interrupted before the first trial or after the last: what was recorded is whole; "
                + further,
                file=sys.stderr,
            )
            return EXIT_INTERRUPTED

    def _refuse_what_says_nothing(self, line: CommandLine) -> None:
        for kind, options in ((DesignOptions, line.design), (SearchOptions, line.search)):
            for name in given(kind, options, DESIGN_OPTIONS):
                if name not in self.designs:
                    raise ConfigError(
                        _dashed(name),
                        getattr(options, name),
                        "has no meaning here: this study's points are its own",
                    )

    def _read_spec(self, line: CommandLine) -> StudySpec:
        """The study of a file; what would change it is refused."""
        in_file = (
            (DesignOptions, line.design, option_names(DesignOptions)),
            (ModelOptions, line.model, option_names(ModelOptions)),
            (DataOptions, line.data, option_names(DataOptions)),
            (SearchOptions, line.search, SEARCHED_IN_FILE),
        )
        for kind, options, names in in_file:
            for name in given(kind, options, names):
                raise ConfigError(
                    _dashed(name),
                    getattr(options, name),
                    "cannot be given beside --study: change the file, or leave --study out",
                )
        assert line.execution.study is not None
        spec = read_spec(line.execution.study)
        if spec.name != self.name:
            raise ConfigError(
                "study",
                str(line.execution.study),
                f"is a study of sweeps/{spec.name}.py; this is sweeps/{self.name}.py",
            )
        return spec

    def _study(self, request: StudyRequest, content: dict[str, str], seconds: float) -> Study:
        points = self.points(request)
        check_points_act(request, points)
        if "tau" in self.designs:
            sentences = [*request.not_swept, *idle_sentences(request, points)]
            print("".join(f"{sentence}\n" for sentence in sentences), end="", file=sys.stderr)
        if (beyond := beyond_backbone(request.base)) is not None:
            print(beyond, file=sys.stderr)
        return Study(
            name=self.name,
            base=request.base,
            points=tuple(points),
            seeds=request.seeds,
            budgets=request.budgets(seconds),
            content=content,
            search=self.search(request),
            sequential=request.sequential,
        )


def _dashed(name: str) -> str:
    return name.strip("_").replace("_", "-")
