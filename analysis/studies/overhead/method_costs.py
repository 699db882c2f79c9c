"""What the session of all methods shows.

Step times, memory, the paper's tables, and where a step's time goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from analysis.page.table import Column, Table
from analysis.stats.estimates import Interval
from analysis.stats.step_times import WINDOWS, Tail, amortized, ratio_interval, tail
from analysis.studies.overhead.published import TABLE_8, TABLE_14
from analysis.studies.overhead.session import (
    EVENT_SECTIONS,
    Session,
    event_ms,
    geometry_share,
    memory_delta,
    plain_twin,
    shown_megabytes,
    tokens_per_second,
)
from grit.config.registry import METHODS, Method
from grit.runtime.step_sections import SECTIONS

#: The methods of the paper's Table 14, each GRIT beside its twin.
TABLE_14_METHODS: tuple[Method, ...] = ("lora", "grit", "qlora", "qgrit")


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """What every table here says of one method."""

    method: Method

    @property
    def title(self) -> str:
        """As tables have it."""
        return METHODS[self.method].title


@dataclass(frozen=True, kw_only=True)
class StepTimesRow(MethodRow):
    """One method in one window, milliseconds; what is None is told of the steady window alone.

    Attributes:
        against: mean step over LoRA's.
        tokens: per second.
        reprojections: per 1,000 steps.
    """

    window: str
    times: Tail
    against: Interval | None
    tokens: float | None
    reprojections: float | None


def step_rows(session: Session) -> list[StepTimesRow]:
    """Every method in every window."""
    return [_step_row(session, method, window) for method in session.runs for window in WINDOWS]


def _step_row(session: Session, method: Method, window: str) -> StepTimesRow:
    times = session.times(method, window)
    steady = window == "steady"
    compared = steady and "lora" in session.runs and method != "lora"
    rate = None
    if steady and METHODS[method].geometry:
        rows = session.steady(method)
        rate = 1000 * sum(row["reprojected"] for row in rows) / len(rows)
    return StepTimesRow(
        method=method,
        window=window,
        times=tail(times),
        against=ratio_interval(times, session.times("lora")) if compared else None,
        tokens=tokens_per_second(session, method) if steady else None,
        reprojections=rate,
    )


def step_table(session: Session) -> Table[StepTimesRow]:
    """One row per method and window."""
    columns: list[Column[StepTimesRow]] = [
        Column(header="method", value=lambda row: row.title, terminal=True),
        Column(header="window", value=lambda row: row.window, terminal=True),
        Column(header="n", value=lambda row: row.times.n),
        Column(header="mean (ms)", value=lambda row: row.times.mean, style=".1f", terminal=True),
        Column(header="P50", value=lambda row: row.times.p50, style=".1f"),
        Column(header="P95", value=lambda row: row.times.p95, style=".1f", terminal=True),
        Column(header="P99", value=lambda row: row.times.p99, style=".1f", terminal=True),
        Column(header="against LoRA [95%]", value=lambda row: row.against, terminal=True),
        Column(header="tokens/s", value=lambda row: row.tokens, style=",.0f"),
        Column(header="reprojections per 1,000", value=lambda row: row.reprojections, style=".1f"),
    ]
    return Table(name="steps", columns=columns, rows=step_rows(session))


@dataclass(frozen=True, kw_only=True)
class MethodCostRow(MethodRow):
    """Memory in bytes, overhead as a share of a step, and the mean step over QLoRA's."""

    memory: float | None
    delta: float | None
    share: float | None
    against_qlora: float | None

    @property
    def published(self) -> str | None:
        """The paper's Table 8."""
        printed = TABLE_8.get(self.method)
        return None if printed is None else printed.shown()

    @property
    def published_ratio(self) -> float | None:
        """The paper's mean step over QLoRA's."""
        printed = TABLE_8.get(self.method)
        return None if printed is None else printed.mean / TABLE_8["qlora"].mean


def method_cost_rows(session: Session, memory: dict[str, float]) -> list[MethodCostRow]:
    """Every method."""
    qlora = session.times("qlora").mean() if "qlora" in session.runs else None
    rows = []
    for method in session.runs:
        rows.append(
            MethodCostRow(
                method=method,
                memory=memory.get(method),
                delta=memory_delta(method, memory),
                share=session.share(method) if METHODS[method].geometry else None,
                against_qlora=None if qlora is None else float(session.times(method).mean() / qlora),
            )
        )
    return rows


def method_cost_table(session: Session, memory: dict[str, float]) -> Table[MethodCostRow]:
    """One row per method."""
    columns: list[Column[MethodCostRow]] = [
        Column(header="method", value=lambda row: row.title, terminal=True),
        Column(
            header="peak memory (MB)",
            value=lambda row: row.memory,
            show=lambda value: f"{value / 1e6:.0f}",
            terminal=True,
        ),
        Column(
            header="against the same without GRIT (MB)",
            value=lambda row: row.delta,
            show=shown_megabytes,
            terminal=True,
        ),
        Column(header="geometry, share of a step", value=lambda row: row.share, style=".1%", terminal=True),
        Column(header="paper's Table 8: mean, P99, GB, per 1,000", value=lambda row: row.published),
        Column(
            header="paper: mean against QLoRA",
            value=lambda row: row.published_ratio,
            style=".3f",
            terminal=True,
        ),
        Column(
            header="here: mean against QLoRA", value=lambda row: row.against_qlora, style=".3f", terminal=True
        ),
    ]
    return Table(name="costs", columns=columns, rows=method_cost_rows(session, memory))


@dataclass(frozen=True, kw_only=True)
class ReportRow(MethodRow):
    """The paper's Report A: times in milliseconds, memory in bytes; events of GRIT methods alone."""

    tokens: float
    times: Tail
    events: Tail | None
    amortized: float | None
    share: float | None
    delta: float | None


def report_rows(session: Session, memory: dict[str, float]) -> list[ReportRow]:
    """Those of Table 14 that took part."""
    rows = []
    for method in TABLE_14_METHODS:
        if method in session.runs:
            steady, geometry = session.steady(method), METHODS[method].geometry
            rows.append(
                ReportRow(
                    method=method,
                    tokens=tokens_per_second(session, method),
                    times=tail(session.times(method)),
                    events=tail(event_ms(steady)) if geometry else None,
                    amortized=amortized(steady, EVENT_SECTIONS) if geometry else None,
                    share=geometry_share(steady) if geometry else None,
                    delta=memory_delta(method, memory) if geometry else 0.0,
                )
            )
    return rows


def report_table(session: Session, memory: dict[str, float]) -> Table[ReportRow]:
    """Table 14."""
    columns: list[Column[ReportRow]] = [
        Column(header="method", value=lambda row: row.title),
        Column(header="tokens/s", value=lambda row: row.tokens, style=",.0f"),
        Column(header="mean (ms)", value=lambda row: row.times.mean, style=".1f"),
        Column(header="P95", value=lambda row: row.times.p95, style=".1f"),
        Column(header="P99", value=lambda row: row.times.p99, style=".1f"),
        Column(header="reprojection event mean (ms)", value=_of_events("mean"), style=".1f"),
        Column(header="event P95", value=_of_events("p95"), style=".1f"),
        Column(header="amortized (ms/step)", value=lambda row: row.amortized, style=".2f"),
        Column(header="overhead", value=lambda row: row.share, style=".3f"),
        Column(header="memory delta (MB)", value=lambda row: row.delta, show=shown_megabytes),
        Column(header="paper's Table 14", value=lambda row: TABLE_14.get(row.method)),
    ]
    return Table(name="table14", columns=columns, rows=report_rows(session, memory))


def _of_events(name: str) -> Callable[[ReportRow], float | None]:
    return lambda row: None if row.events is None else getattr(row.events, name)


@dataclass(frozen=True, kw_only=True)
class ComponentRow(MethodRow):
    """Mean milliseconds by section, over `count` steps of one kind."""

    kind: str
    count: int
    sections: dict[str, float]
    share: float


def component_rows(session: Session) -> list[ComponentRow]:
    """Over all steady steps, and over those that reprojected."""
    rows = []
    for method in session.runs:
        steady = session.steady(method)
        kinds = {"all": steady, "reprojection steps": [row for row in steady if row["reprojected"]]}
        for kind, members in kinds.items():
            if members:
                sections = {name: amortized(members, (name,)) for name in SECTIONS}
                rows.append(
                    ComponentRow(
                        method=method,
                        kind=kind,
                        count=len(members),
                        sections=sections,
                        share=geometry_share(members),
                    )
                )
    return rows


def component_table(session: Session) -> Table[ComponentRow]:
    """One row per method and kind of step."""
    columns: list[Column[ComponentRow]] = [
        Column(header="method", value=lambda row: row.title),
        Column(header="steps", value=lambda row: row.kind),
        Column(header="n", value=lambda row: row.count),
    ]
    columns += [Column(header=f"{name} (ms)", value=_section(name), style=".2f") for name in SECTIONS]
    columns += [
        Column(header="step (ms)", value=lambda row: sum(row.sections.values()), style=".1f"),
        Column(header="geometry", value=lambda row: row.share, style=".1%"),
    ]
    return Table(name="components", columns=columns, rows=component_rows(session))


def _section(name: str) -> Callable[[ComponentRow], float]:
    return lambda row: row.sections[name]


def session_answer(session: Session) -> list[str]:
    """What GRIT adds to a step, against its twin beside it."""
    sentences = []
    for method in session.runs:
        twin = plain_twin(method)
        if not METHODS[method].geometry or twin not in session.runs:
            continue
        ratio = ratio_interval(session.times(method), session.times(twin))
        paper = "; the paper's text says 6 to 10% for Q-GRIT against QLoRA, its Table 8 3.5%"
        sentences.append(
            f"{METHODS[method].title}'s mean step takes {ratio.mean - 1:+.1%} [{ratio.low - 1:+.1%}, "
            f"{ratio.high - 1:+.1%}] against {METHODS[twin].title}'s beside it, and its own sections are "
            f"{session.share(method):.1%} of a step{paper if METHODS[method].quantized else ''}."
        )
    return sentences
