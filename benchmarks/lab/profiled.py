"""Run a command of quaymirror in this process, and attribute its CPU time.

python -P profiled.py FIGURES [--shares] -- sync …

FIGURES gets seconds of CPU: of the start (the interpreter and all imports before the first request), of the loop's
thread, and of all other threads. With --shares, the loop's thread runs under a profiler, which makes it slower, and
FIGURES gets the distribution of its time instead.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time
from collections import Counter
from pathlib import Path

_PACKAGES = ("aiohttp", "anyio", "tenacity", "asyncio", "ssl", "quaymirror")
# Built-in functions by their names in a profile.
_SYSTEM = ("'_socket.socket'", "'select.epoll'", "posix.", "_ssl.", "_io.", "'sqlite3.")


def main() -> None:
    """Run the command, and write the figures."""
    words = sys.argv[1 : sys.argv.index("--")]
    sys.argv = ["quaymirror", *sys.argv[sys.argv.index("--") + 1 :]]
    import click

    from quaymirror.cli.main import entry, main

    main.get_command(click.Context(main), sys.argv[1])  # which imports all that it needs
    started = time.process_time()
    profile = cProfile.Profile() if "--shares" in words else None
    began = time.thread_time()
    try:
        _run(entry, profile)
    finally:
        loop = time.thread_time() - began
        figures = {"start": started, "loop": loop, "threads": time.process_time() - started - loop}
        Path(words[0]).write_text(json.dumps(figures if profile is None else _shares(profile)))


def _run(entry: object, profile: cProfile.Profile | None) -> None:
    assert callable(entry)
    try:
        entry() if profile is None else profile.runcall(entry)
    except SystemExit as end:
        if end.code:
            raise


def _shares(profile: cProfile.Profile) -> dict[str, float]:
    """Return which share of the loop's time each package has; waiting for something to happen is none."""
    spent: Counter[str] = Counter()
    for (file, _, function), (_, _, seconds, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "select.epoll" not in function:
            spent[_part(file, function)] += seconds

    return {part: seconds / spent.total() for part, seconds in spent.items()}


def _part(file: str, function: str) -> str:
    if file == "~":
        return "system" if any(word in function for word in _SYSTEM) else "python"

    parts = Path(file).parts
    return next((package for package in _PACKAGES if package in parts or f"{package}.py" in parts), "python")


if __name__ == "__main__":
    main()
