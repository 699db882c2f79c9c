"""The audits of a trained run, each declared once: who asks for it, its table, and how its rows are made.

Reading the declarations needs no torch: functions import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grit.config.run_config import RunConfig
from grit.io.files import Row
from grit.io.tables import TableSpec

if TYPE_CHECKING:
    from grit.audits.factor_stability import StabilityMonitor
    from grit.geometry.handle import GritHandle


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that has ended, as audits see it.

    Attributes:
        model: with its trained adapter.
        handle: GRIT's; None for a method without it.
        monitor: what watched the factors; None where nothing did.
        score: scores the model as it is now on the run's own examples and documents, one row each.
    """

    config: RunConfig
    model: Any
    handle: GritHandle | None
    monitor: StabilityMonitor | None
    score: Callable[[], list[Row]]


@dataclass(frozen=True, kw_only=True)
class AuditSpec:
    """One audit.

    Attributes:
        setting: of `AuditConfig`, that asks for it.
        table: what its rows hold.
        rows: makes them.
        of_lost_runs: whether a run that did not spend its budget has them too.
    """

    setting: str
    table: TableSpec
    rows: Callable[[Trained], list[Row]]
    of_lost_runs: bool = False

    def asked_by(self, config: RunConfig) -> bool:
        """Whether a run asks for it."""
        return bool(getattr(config.audits, self.setting))


def _stability(trained: Trained) -> list[Row]:
    assert trained.handle is not None and trained.monitor is not None
    return trained.monitor.rows(trained.handle.modules_by_stack())


def _truncated(trained: Trained) -> list[Row]:
    from grit.audits.truncation import truncation_rows
    from grit.methods.makers import maker_of

    return truncation_rows(
        trained.model.eval(),
        trained.handle,
        trained.config.audits.truncations,
        trained.score,
        prefix_scale=maker_of(trained.config.spec).prefix_scale,
    )


def _ladder(trained: Trained) -> list[Row]:
    from grit.audits.ladder import ladder_rows

    assert trained.handle is not None
    return ladder_rows(trained.model, trained.handle, trained.config.audits.ladder, trained.score)


def _scaled(trained: Trained) -> list[Row]:
    from grit.audits.scales import scale_rows

    return scale_rows(trained.model, trained.config.audits.scales, trained.score)


#: Every audit that has a table, by the table's name.
AUDITS: dict[str, AuditSpec] = {
    "stability": AuditSpec(
        setting="stability",
        table=TableSpec(what="how steady a factor or the updates are over time", columns={"kind": "word"}),
        rows=_stability,
        of_lost_runs=True,
    ),
    "truncated": AuditSpec(
        setting="truncations",
        table=TableSpec(
            what="an example or document of the adapter truncated in one way",
            columns={
                "way": "word",
                "k": "word",
                "kind": "word",
                "value": "finite",
                "loss": "finite?",
                "parameters": "count",
                "bytes": "count",
            },
        ),
        rows=_truncated,
    ),
    "ladder": AuditSpec(
        setting="ladder",
        table=TableSpec(
            what="an example or document of the adapter as a smaller tau, or a fixed k, would leave it",
            columns={
                "rung": "finite",
                "footprint": "finite",
                "kind": "word",
                "value": "finite",
                "loss": "finite?",
            },
        ),
        rows=_ladder,
    ),
    "scales": AuditSpec(
        setting="scales",
        table=TableSpec(
            what="an example or document of the adapter with its update multiplied by less than one",
            columns={"scale": "finite", "kind": "word", "value": "finite", "loss": "finite?"},
        ),
        rows=_scaled,
    ),
}
