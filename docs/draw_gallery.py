"""Writes docs/gallery.md and docs/images/gallery/: the figures of a finished study, with their captions.

    python docs/draw_gallery.py DIR

Figures are redrawn from the study's records. Not run by a test: which study is shown is chosen by hand.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from analysis.evidence.load import load_study  # noqa: E402
from analysis.report import rebuild  # noqa: E402
from analysis.studies.sensitivity.figures.all_figures import sensitivity_figures  # noqa: E402
from analysis.studies.sensitivity.results import analyse  # noqa: E402

PAGE, PICTURES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "images" / "gallery"


def gallery(study: Path) -> str:
    """The page; the pictures are copied beside it."""
    rebuild(study)
    data = load_study(study)
    result = analyse(data)
    trials, seeds = len(data.records), max(len(point.seeds) for point in result.points)
    lines = [
        "# Gallery",
        "",
        f"Every figure of one report: `{data.study.name}` on `{data.study.config.backbone.model}` / "
        f"`{data.study.config.task.name}`, {trials} trials, up to {seeds} seeds a setting. A report writes "
        "each as SVG, PNG and PDF into `figures/`; numbers come from an object of its own "
        "(`FigureSpec.compute`), which tests look at. Made by `python docs/draw_gallery.py DIR`.",
        "",
    ]
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    for figure in sensitivity_figures(data, result.points, result.bands, result.ladders):
        drawn = study / "figures" / f"{figure.name}.png"
        if drawn.exists():
            Image.open(drawn).convert("RGB").quantize(64).save(PICTURES / drawn.name, optimize=True)
            lines += [f"## {figure.name}", "", figure.caption, ""]
            lines += [f"![{figure.name}](images/gallery/{drawn.name})", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(gallery(Path(sys.argv[1])), encoding="utf8")
    print(PAGE)
