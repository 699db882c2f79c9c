"""The figures of the sensitivity study, each declared once, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import REGIMES, PointSummary
from analysis.page.figure_spec import FigureSpec
from analysis.studies.knob_axes.ladder_figure import draw_ladders, ladder_paths
from analysis.studies.knob_axes.rungs import Ladder
from analysis.studies.sensitivity.bands import Band
from analysis.studies.sensitivity.figures import (
    crossings,
    front_figures,
    knobs,
    over_time,
    prices,
    ranks,
    strip_figure,
    update_maps,
    updates,
)
from grit.config.declared_knobs import KNOBS


def sensitivity_figures(
    data: StudyData, points: Sequence[PointSummary], bands: Sequence[Band], ladders: Sequence[Ladder] = ()
) -> list[FigureSpec[Any]]:
    """All of them; those that the records cannot support compute to None."""
    strips = FigureSpec(
        name="strips",
        caption="The answer: every setting's difference with its 95% interval, in units of its tolerance; "
        "what lies right of the black line is good enough. Verdicts keep their error rate over all settings "
        "and all looks, so that they ask for more than one interval does; with one seed nothing is that "
        "depends on how seeds differ.",
        compute=partial(strip_figure.strips_of, bands),
        draw=strip_figure.draw_strips,
    )
    ladder = FigureSpec(
        name="ladder",
        caption="Thresholds from one training: the least truncated adapter as smaller thresholds (and fixed "
        "numbers of directions) would leave it at its end, beside the settings that were trained with each "
        "threshold. Differences from the whole adapter, with 95% intervals.",
        compute=partial(ladder_paths, ladders),
        draw=draw_ladders,
    )
    others = [*_objectives(data, points), *_interactions(points), *_mechanism(data, points)]
    return [strips, ladder, *others]


def _objectives(data: StudyData, points: Sequence[PointSummary]) -> list[FigureSpec[Any]]:
    front = FigureSpec(
        name="front",
        caption="Every setting: task quality against forgetting.",
        compute=partial(front_figures.front_panels, points),
        draw=front_figures.draw_front,
    )
    capacity = FigureSpec(
        name="capacity",
        caption="F1: quality against footprint over tau; retention as colour, rank changes as numbers.",
        compute=partial(front_figures.capacity_panels, points),
        draw=front_figures.draw_capacity,
    )
    retention = FigureSpec(
        name="retention_footprint",
        caption="What is kept of general text against the parameters that act.",
        compute=partial(prices.retention_by_footprint, points),
        draw=prices.draw_prices,
    )
    hours = FigureSpec(
        name="quality_hours",
        caption="F2: quality against time of training by the wall clock (one worker's; evaluation left "
        "out). On a busy machine it holds what others took.",
        compute=partial(prices.quality_by_hours, points),
        draw=prices.draw_prices,
    )
    curves = []
    for name, knob in KNOBS.items():
        curves.append(
            FigureSpec(
                name=f"knob_{name}",
                caption=f"The {knob.title} alone, all else at the default.",
                compute=partial(knobs.knob_curves, data, points, name),
                draw=knobs.draw_knob,
            )
        )
    return [front, capacity, retention, hours, *curves]


def _interactions(points: Sequence[PointSummary]) -> list[FigureSpec[Any]]:
    crossed: list[FigureSpec[Any]] = []
    parallel: list[FigureSpec[Any]] = []
    for regime in REGIMES:
        crossed.append(
            FigureSpec(
                name=f"interactions_{regime}",
                caption=f"F4: each objective over T and lambda at the default tau, {regime}-matched.",
                compute=partial(crossings.crossing_of, points, regime),
                draw=crossings.draw_crossing,
            )
        )
        parallel.append(
            FigureSpec(
                name=f"parallel_{regime}",
                caption=f"Every setting's knobs and objectives, {regime}-matched.",
                compute=partial(crossings.parallel_lines, points, regime),
                draw=crossings.draw_parallel,
            )
        )
    return [*crossed, *parallel]


def _mechanism(data: StudyData, points: Sequence[PointSummary]) -> list[FigureSpec[Any]]:
    """Why: of one trial, or means over modules, said on each."""
    return [
        FigureSpec(
            name="ranks",
            caption="Rank over training for each tau.",
            compute=partial(ranks.rank_curves, data, points),
            draw=ranks.draw_ranks,
        ),
        FigureSpec(
            name="rank_map",
            caption="Where capacity is kept and used: layers by kind of module.",
            compute=partial(ranks.rank_map, data, points),
            draw=ranks.draw_rank_map,
        ),
        *_over_time(data, points),
        FigureSpec(
            name="spectra",
            caption="Curvature spectra in rank space at the end of training.",
            compute=partial(ranks.spectra_of, data, points),
            draw=ranks.draw_spectra,
        ),
        FigureSpec(
            name="updates",
            caption="Where the weights change: by layer, against the first-order control.",
            compute=partial(updates.update_sizes, data, points),
            draw=updates.draw_update_sizes,
        ),
        FigureSpec(
            name="update_map",
            caption="Where the weights change, layer by kind of module: the control's update and GRIT's.",
            compute=partial(update_maps.update_map, data, points),
            draw=update_maps.draw_update_map,
        ),
        FigureSpec(
            name="update_energy",
            caption="Along which of the inputs' directions the update acts: eigenvectors of their second "
            "moment in the adapter's row space.",
            compute=partial(update_maps.update_energy, data, points),
            draw=update_maps.draw_update_energy,
        ),
        FigureSpec(
            name="exposure",
            caption="Which layers forget: how far the update moves what general text is sensitive to. To "
            "second order, forgetting is the sum over modules of slope + exposure / 2, cross terms left out.",
            compute=partial(updates.exposed_layers, data, points),
            draw=updates.draw_update_sizes,
        ),
        FigureSpec(
            name="update_plane",
            caption="Weight updates of GRIT and of the control in one plane, with the untuned backbone.",
            compute=partial(updates.update_plane, data, points),
            draw=updates.draw_update_plane,
        ),
        *_step_times(data, points),
    ]


def _over_time(data: StudyData, points: Sequence[PointSummary]) -> list[FigureSpec[Any]]:
    """What reprojections saw."""
    return [
        FigureSpec(
            name="rank_history",
            caption="Directions kept at every reprojection, and over how many activations' energy is spread: "
            "mean and range over modules.",
            compute=partial(over_time.rank_history, data, points),
            draw=over_time.draw_rank_history,
        ),
        FigureSpec(
            name="update_history",
            caption="How large the update is at every reprojection: its entries above 0.01, and its norm.",
            compute=partial(over_time.update_history, data, points),
            draw=over_time.draw_update_history,
        ),
        FigureSpec(
            name="module_ranks",
            caption="Every module's rank at every reprojection.",
            compute=partial(over_time.module_ranks, data, points),
            draw=over_time.draw_module_ranks,
        ),
        FigureSpec(
            name="energy_curves",
            caption="How many directions hold how much of the activations' energy, early and late.",
            compute=partial(over_time.energy_curves, data, points),
            draw=over_time.draw_energy_curves,
        ),
    ]


def _step_times(data: StudyData, points: Sequence[PointSummary]) -> list[FigureSpec[Any]]:
    return [
        FigureSpec(
            name="step_times",
            caption="Step times, reprojection steps on their own.",
            compute=partial(updates.step_times, data, points),
            draw=updates.draw_step_times,
        ),
        FigureSpec(
            name="step_windows",
            caption="Step times over training: means and tails in equal windows, other load of the machine "
            "included.",
            compute=partial(over_time.step_windows, data, points),
            draw=over_time.draw_step_windows,
        ),
    ]
