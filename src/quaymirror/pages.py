"""Templates of pages. The only importer of jinja2; import it only where a page is made.

Everything is escaped: for HTML, and control characters as on a terminal. Templates are in the directory
`templates` of a package.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .text import counted, escape_controls, human_bytes, human_duration

__all__ = ["Environment", "Markup", "environment"]


def environment(package: str) -> Environment:
    """Return the environment of the templates of `package`, with filters for numbers, sizes and durations."""
    templates = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= {
        "counted": counted,
        "duration": human_duration,
        "number": lambda value: f"{value:,}",
        "size": human_bytes,
    }
    files = resources.files(package)
    # Files of our own.
    templates.globals["file"] = lambda path: Markup(files.joinpath(path).read_text(encoding="utf-8"))  # noqa: S704
    return templates


def _printable(value: Any) -> Any:
    """Escape control characters; `Markup` is HTML already."""
    return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value
