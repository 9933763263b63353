"""Pages from templates. The only importer of jinja2; import it only where a page is made.

Everything is escaped: for HTML, and control characters as on a terminal. A template is a file of a package, called
`NAME.html.j2`.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from .text import counted, escape_controls, human_bytes, human_duration, human_rate


def render(package: str, name: str, **values: Any) -> str:
    """Return the page that the template `name` of `package` makes of `values`."""
    environment = Environment(
        autoescape=True,
        finalize=_printable,
        keep_trailing_newline=True,
        loader=FunctionLoader(lambda path: file_of(package, path)),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "bytes": human_bytes,
        "counted": counted,
        "duration": human_duration,
        "number": "{:,}".format,
        "rate": human_rate,
    }
    environment.globals["file"] = lambda path: Markup(file_of(package, path))  # noqa: S704 - a file of our own
    return environment.get_template(f"{name}.html.j2").render(values)


def file_of(package: str, path: str) -> str:
    """Return the text of a file of `package`."""
    return resources.files(package).joinpath(path).read_text(encoding="utf-8")


def _printable(value: Any) -> Any:
    return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value
