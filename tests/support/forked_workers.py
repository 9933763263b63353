"""Worker processes that start in milliseconds: forks of a process that has imported occystrap.

    python forked_workers.py

Its standard input is a socket, each message of which brings an environment and the socket that a worker answers calls
on; the answer is the worker's number. The program ends with its standard input.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.abc import UNIXSocketStream

from quaymirror.emit import worker, workers

_MOST_BYTES = 65536


class ForkedProcess:
    """A worker as `anyio.abc.Process` shows one, with one socket for both of its streams."""

    def __init__(self, stream: UNIXSocketStream, number: int) -> None:
        self.stdin = self.stdout = stream
        self._process: int = os.pidfd_open(number)

    @property
    def returncode(self) -> int | None:
        """None until the process has ended."""
        return 1 if select.select([self._process], [], [], 0)[0] else None

    def kill(self) -> None:
        """End the process at once."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    async def aclose(self) -> None:
        """Wait for the end of the process."""
        await self.stdin.aclose()
        await anyio.wait_readable(self._process)
        os.close(self._process)


def fork_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers be forks during a test, instead of interpreters that import occystrap for a quarter of a second."""
    start = anyio.open_process

    async def fork_or_start(command: Sequence[str], **options: Any) -> Any:
        return await _fork(options["env"]) if workers._PROGRAM in command else await start(command, **options)

    monkeypatch.setattr(anyio, "open_process", fork_or_start)


async def _fork(environment: dict[str, str]) -> ForkedProcess:
    orders = _server(os.getpid())
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(orders, [json.dumps(environment).encode()], [theirs.fileno()])
        number = int(orders.recv(16))

    return ForkedProcess(await UNIXSocketStream.from_socket(ours), number)


@functools.cache
def _server(_: int) -> socket.socket:
    """Start the process that is forked, one per process of tests, and return the socket for its orders."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen([sys.executable, __file__], stdin=theirs.fileno())

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(orders: socket.socket) -> None:
    """Fork a worker for each order."""
    from quaymirror.emit import pipeline  # noqa: F401 - all that the workers need

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for workers
    while True:
        text, sockets, _, _ = socket.recv_fds(orders, _MOST_BYTES, 1)
        if not text:
            return

        if (number := os.fork()) == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.environ.clear()
            os.environ.update(json.loads(text))
            for descriptor in (0, 1):
                os.dup2(sockets[0], descriptor)

            os.closerange(3, 1024)
            worker.main()
            os._exit(0)

        os.close(sockets[0])
        orders.sendall(str(number).encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=0))
