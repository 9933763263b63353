"""A fact about this process that only its entry point knows."""

from __future__ import annotations

from typing import ClassVar


class Process:
    """The process that runs this code."""

    is_command: ClassVar[bool] = False
    """True if it is the command line, so that no other code uses the libraries that it imports."""
