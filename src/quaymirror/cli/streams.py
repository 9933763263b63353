"""Standard streams that may be closed, full, without a reader, or in a legacy encoding."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path


class _Forgiving(io.TextIOWrapper):
    """A stream that ignores errors: a failing terminal must not end a run."""

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            super().write(text)

        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Ignore errors on stderr, and escape characters that an encoding lacks.

    Writing results to stdout still raises OSError.
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
    """Discard the buffer of stdout: Python would try to write it again at its exit, and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nowhere() -> io.TextIOWrapper:
    return Path(os.devnull).open("w", encoding="utf-8")
