"""Pages from templates.

One environment for all of them, in which HTML is escaped and a name that is not given is an error.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.page.glossary import heading
from analysis.page.table import Table, markdown_text, shown


def _html_table(table: Table[Any]) -> Markup:
    return Markup(table.html())  # escaped by the table itself


def _heading(text: str) -> Markup:
    return Markup(heading(text))  # escaped there


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("html.j2",)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["table"] = _html_table
    environment.filters["heading"] = _heading
    environment.filters["md"] = markdown_text
    return environment


def render(template: str, **context: Any) -> str:
    """The template of that name (`templates/`) with these values."""
    return _environment().get_template(template).render(**context)
