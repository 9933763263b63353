"""The standard streams, such as they may be: closed, full, without a reader, in an encoding of another century."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path


class _Forgiving(io.TextIOWrapper):
    """Writes what can be written. What is only told must not decide what becomes of a run."""

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            super().write(text)

        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Let what is told on stderr fail silently, and what an encoding can't say be escaped.

    Results, which go to stdout, still raise OSError when they can't be written.
    """
    if sys.stdout is None:
        sys.stdout = _nowhere()
    elif isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")

    if sys.stderr is None:
        sys.stderr = _nowhere()
    elif isinstance(sys.stderr, io.TextIOWrapper):
        encoding = sys.stderr.encoding
        sys.stderr = _Forgiving(sys.stderr.detach(), encoding, "backslashreplace", line_buffering=True)


def drop_output() -> None:
    """Let what stdout still holds go nowhere: Python tries to write it once more at its end, and would complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nowhere() -> io.TextIOWrapper:
    return Path(os.devnull).open("w", encoding="utf-8")
