"""The configuration of Sphinx: `nox -s docs` builds these pages."""

from __future__ import annotations

import builtins

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

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


def _unlink_builtins(_app: Sphinx, document: nodes.document) -> None:
    """Show names of Python itself as text: attributes of several classes may have the same name, such as `bytes`."""
    for node in list(document.findall(pending_xref)):
        if node.get("refdomain") == "py" and hasattr(builtins, str(node.get("reftarget", ""))):
            node.replace_self(node.children)


def setup(app: Sphinx) -> None:
    """Change documents before Sphinx resolves their references."""
    app.connect("doctree-read", _unlink_builtins)
