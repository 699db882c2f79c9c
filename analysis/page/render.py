"""Pages from templates.

One environment for all of them, in which HTML is escaped and a name that is not given is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def render(template: str, **context: Any) -> str:
    """The template of that name (`templates/`) with these values."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("html.j2",)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["knob"] = lambda value: "none" if value is None else f"{value:.4g}"
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    return environment.get_template(template).render(**context)
