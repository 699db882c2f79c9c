"""The page of `sweeps/compression.py`, with its figure against k."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from analysis.evidence.load import StudyData
from analysis.evidence.point_summary import of_one_regime, summarize_points
from analysis.page.bars import Bars
from analysis.page.document import Page, Section, WrittenPage, write_page
from analysis.page.figure_spec import FigureSpec
from analysis.page.style import SHADES, STROKES, new_figure
from analysis.stats.estimates import estimate
from analysis.studies.compression.arms import AT_K, Arm, BestArms, all_arms
from analysis.studies.compression.rank_areas import area_table
from analysis.studies.compression.tables import compression_answer, compression_table, rank_table
from grit.training.measurements import QUANTITIES


@dataclass(frozen=True, kw_only=True)
class WayCurve:
    """One way over k: means with 95% intervals; answer loss has none."""

    way: str
    quality: Bars
    answer_loss: tuple[float, ...]
    forgetting: Bars


@dataclass(frozen=True, kw_only=True)
class WaysOverK:
    """All ways; the least seeds that a mean is over."""

    ks: tuple[int, ...]
    curves: tuple[WayCurve, ...]
    seeds: int


def ways_over_k(best: BestArms) -> WaysOverK | None:
    """None where nothing was measured at a fixed k."""
    by_way: dict[str, list[Arm]] = {}
    for arm in (arm for k in best.sizes() for arm in best.at(k)):
        by_way.setdefault(arm.way, []).append(arm)
    if not by_way:
        return None
    ways = sorted(by_way, key=lambda way: (way != AT_K, way))
    curves = []
    for number, way in enumerate(ways):
        aside = 1 + 0.02 * (number - len(ways) / 2)
        curves.append(_way_curve(by_way[way], way, aside))
    return WaysOverK(
        ks=tuple(int(k) for k in best.sizes()),
        curves=tuple(curves),
        seeds=min(len(arm.quality) for arm in best.all()),
    )


def _way_curve(arms: list[Arm], way: str, aside: float) -> WayCurve:
    places = [int(arm.k) * aside for arm in arms]
    return WayCurve(
        way=way,
        quality=Bars.of_intervals(places, [estimate(arm.quality[:, 1::2]) for arm in arms]),
        answer_loss=tuple(arm.answer_loss for arm in arms),
        forgetting=Bars.of_intervals(places, [estimate(arm.forgetting, arm.weights) for arm in arms]),
    )


def draw_ways_over_k(ways: WaysOverK) -> Figure:
    """One line a way."""
    figure, (quality, loss, forgetting) = new_figure(3, width=3.1, height=3.2)
    for number, curve in enumerate(ways.curves):
        colour, line = SHADES[number % len(SHADES)], STROKES[number % len(STROKES)]
        marker = "so^vDPX*"[number % 8]
        style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4}
        curve.quality.draw(quality, elinewidth=0.6, label=curve.way, **style)
        loss.plot(
            curve.quality.x, curve.answer_loss, color=colour, linestyle=line, marker=marker, markersize=4
        )
        curve.forgetting.draw(forgetting, elinewidth=0.6, **style)
    labels = {
        "quality (test half)": quality,
        QUANTITIES["answer_loss"].axis: loss,
        QUANTITIES["forgetting"].axis: forgetting,
    }
    for label, axis in labels.items():
        axis.set_xscale("log", base=2)
        axis.set_xticks(ways.ks, [str(k) for k in ways.ks])
        axis.set_xlabel("directions k that are exported")
        axis.set_ylabel(label)
    handles, names = quality.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncol=3, frameon=False, fontsize=6)
    means = f"means over n = {ways.seeds} seeds with 95% intervals"
    figure.suptitle(f"each at its own learning rate; {means}", fontsize=8)
    return figure


def _areas(best: BestArms) -> Section:
    return Section(
        name="areas",
        title="Over all k, as one number",
        sentences=[
            "AURAC (Modoranu et al., 2026): the area under quality over log2 k between the smallest and "
            "the largest k, as a share of that range; each k at its own learning rate. On the test half."
        ],
        table=area_table(best),
    )


def build(data: StudyData, folder: Path) -> WrittenPage:
    """Writes the page, its tables and figures in the study's folder."""
    best = BestArms(all_arms(data))
    rank = data.study.config.adapter.rank
    sections = [
        Section(
            name="compression",
            title="At equal exported parameters",
            sentences=[
                f"Trained at k: LoRA of rank k. Reprojected: rank {rank}, cut to k directions from the "
                f"middle of the run on. Truncated after: LoRA of rank {rank}, cut once it is trained; svd "
                "is the best approximation of the update itself (what LoRA-Squeeze keeps), prefix its first "
                "k directions, the others choose by curvature. PEFT's own conversion at a fixed rank is svd, "
                f"number for number. Trained nested: MatryoshkaLoRA of rank {rank}, which trains its first "
                "1, 2, 4, ... directions to work alone, cut likewise.",
                "File sizes are those of PEFT adapters as written to disk.",
            ],
            table=compression_table(best),
        ),
        _areas(best),
        Section(
            name="against_k",
            title="Against k",
            figure=FigureSpec(
                name="against_k",
                caption="Quality, answer loss and forgetting against k, each way at its own learning rate.",
                compute=partial(ways_over_k, best),
                draw=draw_ways_over_k,
            ),
        ),
        Section(
            name="ranks",
            title="At the ranks that GRIT's rule finds",
            sentences=[
                "GRIT as it is, with its own ranks per module; and LoRA truncated after training to the "
                "ranks that the same rule (tau) finds in its own curvature. peft: PEFT's conversion, which "
                "keeps the share tau of each update's energy."
            ],
            table=rank_table(best),
        ),
    ]
    page = Page(
        title="Compression: train at k, or train at r and keep k?",
        answer=compression_answer(best) or ["No way has all its trials yet."],
        sections=sections,
        limits=[
            *of_one_regime(summarize_points(data.records))[1],
            "A learning rate at the edge of the grid (marked *) means that a better one may lie beyond; "
            "some of many comparisons come out by chance.",
            "Reprojection to k begins in the middle of the run, at the study's cadence: other schedules "
            "may do better or worse.",
        ],
    )
    return write_page(page, [data], folder)
