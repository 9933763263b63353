"""A program that starts quaymirror in forked processes with all imports done, and lets them fail at given steps.

It reads one order per line from standard input and answers each with one line, both JSON. Each order is a fork, a real
process that a real SIGKILL ends, but without the time of imports.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quaymirror.cli import main
from quaymirror.store import fsops
from quaymirror.transfer import segments as pieces


class Trace:
    """Writes a line for each step."""

    def __init__(self, file: str) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @contextmanager
    def __call__(self, operation: str, path: Path) -> Iterator[None]:
        yield
        os.write(self._file, f"{operation} {path}\n".encode())


class Kill:
    """Ends the process before or after the step of a number, as `kill -9` does."""

    def __init__(self, number: int, when: str, note: str) -> None:
        self._number, self._when, self._note = number, when, note
        self._steps = itertools.count()

    @contextmanager
    def __call__(self, operation: str, path: Path) -> Iterator[None]:
        is_it = next(self._steps) == self._number
        if is_it and self._when == "before":
            self._die(operation, path)

        yield
        if is_it:
            self._die(operation, path)

    def _die(self, operation: str, path: Path) -> None:
        Path(self._note).write_text(f"{self._when} {operation} {path.name}")
        os.kill(os.getpid(), signal.SIGKILL)


class Fail:
    """Lets every step of a kind fail from a certain one on, as a disk does that breaks."""

    def __init__(self, operation: str, error: int, after: int = 0) -> None:
        self._operation, self._error, self._after = operation, error, after
        self._steps = itertools.count()

    @contextmanager
    def __call__(self, operation: str, path: Path) -> Iterator[None]:
        if operation == self._operation and next(self._steps) >= self._after:
            raise OSError(self._error, os.strerror(self._error))

        yield


HOOKS: dict[str, Callable[..., Any]] = {"trace": Trace, "kill": Kill, "fail": Fail}


def run(order: dict[str, Any]) -> None:
    """Be the process of `order`."""
    code = 1
    with suppress(BaseException):
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, number)

        if order.get("least_piece"):
            pieces._LEAST_BYTES, pieces._FAR_SECONDS = order["least_piece"], 0.0

        for hook, arguments in order.get("hook", {}).items():
            fsops.watch(HOOKS[hook](**arguments))

        os.environ.update(order.get("env", {}))
        os.chdir(order.get("cwd") or ".")
        sys.argv = ["quaymirror", *order["arguments"]]
        try:
            main.entry()
        except SystemExit as end:
            code = int(end.code or 0)

        sys.stdout.flush()
        sys.stderr.flush()

    os._exit(code)


def wait(pid: int, patience: float | None) -> int:
    """Wait for a child, but no longer than `patience` seconds: then it is killed."""
    deadline = None if patience is None else time.monotonic() + patience
    while deadline is not None and time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)

        time.sleep(0.002)

    if deadline is not None:
        os.kill(pid, signal.SIGKILL)

    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve() -> None:
    """Execute orders until the end of the input."""
    for place, _ in main._COMMANDS.values():
        importlib.import_module(place.partition(":")[0])

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(order)

        code = wait(pid, order.get("kill_after"))
        sys.stdout.write(json.dumps({"code": code}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
