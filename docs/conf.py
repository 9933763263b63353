"""The configuration of Sphinx: `nox -s docs` builds these pages."""

from __future__ import annotations

from quaymirror import __version__

project = "quaymirror"
author = "The quaymirror developers"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "reference/*.head.md", "reference/*.tail.md"]
html_theme = "furo"
html_title = "quaymirror"
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
# Names of other libraries, and of modules that the reference does not show.
nitpick_ignore_regex = [("py:.*", r".*")]
