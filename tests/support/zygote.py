"""A program that starts quaymirror in forked processes with all imports done, and lets them fail at given steps.

    python zygote.py SOCKET

Each connection to the socket brings one order, a line of JSON with two descriptors for the outputs, and gets the exit
code. Each order is a real process that a real SIGKILL ends, but without the time of imports. It is killed if its
connection is closed. The program ends with its standard input.
"""

from __future__ import annotations

import atexit
import importlib
import itertools
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from helping import takes_everything

from quaymirror.cli import main
from quaymirror.http import transport
from quaymirror.http.helper import Helper
from quaymirror.store import fsops
from quaymirror.transfer import segments as pieces

# Commands import them only when they need them.
_IMPORTED_LATER = (
    "anyio._backends._asyncio",
    "quaymirror.auth.credentials",
    "quaymirror.catalog.quay.catalog",
    "tenacity",
)


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


def run(order: dict[str, Any], outputs: list[int]) -> None:
    """Be the process of `order`."""
    code = 1
    with suppress(BaseException):
        for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), *outputs)):
            os.dup2(file, number)

        os.closerange(3, 1024)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if order["least_piece"]:
            pieces._LEAST_BYTES, pieces._FAR_SECONDS = order["least_piece"], 0.0
            transport._LEAST_BYTES = transport._LEAST_SECURE_BYTES = order["least_piece"]

        if order["helps"]:
            setattr(Helper, "takes", takes_everything)  # noqa: B010 - mypy takes it for another type

        for hook, arguments in order["hook"].items():
            fsops.watch(HOOKS[hook](**arguments))

        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        if descriptors := order["descriptors"]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        sys.argv = ["quaymirror", *order["arguments"]]
        try:
            main.entry()
        except SystemExit as end:
            code = int(end.code or 0)

        # As the interpreter ends.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()

    os._exit(code)


def supervise(connection: socket.socket) -> None:
    """Start the process of one order, and tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, outputs, _, _ = socket.recv_fds(connection, 1, 2)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 16)

    order = json.loads(text)
    pid = os.fork()
    if pid == 0:
        run(order, outputs)

    process: int = os.pidfd_open(pid)
    watched: list[Any] = [process, connection]
    ended, _, _ = select.select(watched, [], [], order["kill_after"])
    if process not in ended:
        os.kill(pid, signal.SIGKILL)

    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        connection.sendall(str(code).encode())

    os._exit(0)


def serve(path: str) -> None:
    """Execute orders until the end of the input."""
    for place, _ in main._COMMANDS.values():
        importlib.import_module(place.partition(":")[0])

    for name in _IMPORTED_LATER:
        importlib.import_module(name)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for supervisors
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return

            connection, _ = listener.accept()
            if os.fork() == 0:
                supervise(connection)

            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
