"""Pages of the lab: one HTML file each that needs nothing else, all in one style."""

from __future__ import annotations

import base64
from importlib.resources import files
from importlib.resources.abc import Traversable

import jinja2
from markupsafe import Markup


def page(template: Traversable, **values: object) -> str:
    """Return a template filled with values; every text is escaped, and the style sheet goes in as `style`."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"megabytes": _megabytes, "png": _inline}
    style = Markup(files("rsfed.lab").joinpath("report.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file
    return environment.from_string(template.read_text(encoding="utf-8")).render(style=style, **values)


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def _inline(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
