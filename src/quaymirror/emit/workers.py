"""Worker processes for computations in Python, which are killed as soon as their result is not needed any more.

`anyio.to_process` does not fit: its workers receive the terminal's Ctrl-C and import the caller's main module again.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from ..errors import EmitFailed, StoreError
from .worker import HEADER, READY

T = TypeVar("T")

_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from quaymirror.emit.worker import main; main()"
_MAX_ANSWER = 256 * 1024 * 1024
_STARTS = 2
# A pipe to a process that ended: the event loop does not wrap all of them.
_DEAD = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.IncompleteRead,
    ConnectionError,
)
# Code that unpacks untrusted archives gets no secrets, only the variables that any program needs.
_ENVIRONMENT = {"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"}
_ENVIRONMENT_PREFIXES = ("COVERAGE_", "LC_", "PYTHON", "SSL_CERT_")


class Workers:
    """At most `count` worker processes, started when needed, with few environment variables and those in `passing`."""

    def __init__(self, count: int, passing: frozenset[str] = frozenset()) -> None:
        self._passing = passing
        self._limit = anyio.CapacityLimiter(count)
        self._idle: list[_Worker] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, count: int | None = None, *, passing: frozenset[str] = frozenset()) -> AsyncIterator[Workers]:
        """Provide workers during the context, by default one per CPU."""
        workers = cls(count or os.cpu_count() or 2, passing)
        try:
            yield workers
        finally:
            with anyio.CancelScope(shield=True):
                for worker in workers._idle:
                    await worker.end()

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call `function`, which must be importable by name, in a worker, which is killed if the caller is cancelled.

        :raises EmitFailed: if the worker died.
        :raises StoreError: if no worker can be started.
        :raises Exception: if `function` raised it.
        """
        async with self._limit:
            worker = await self._ready_worker()
            try:
                succeeded, value = await worker.call(function, arguments)
            except BaseException:
                await worker.end()
                raise

            if not succeeded:
                # The failure may have left threads and open files behind.
                await worker.end()
                raise value

            self._idle.append(worker)
            result: T = value
            return result

    async def _ready_worker(self) -> _Worker:
        """Return an idle worker, or start one, twice if it dies at once."""
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker

            await worker.end()

        for _ in range(_STARTS):
            worker = await _Worker.start(self._passing)
            try:
                if await worker.is_ready():
                    return worker
            except BaseException:
                await worker.end()
                raise

            await worker.end()

        raise StoreError("can't start a worker process: it dies at once, perhaps because memory ran out")


class _Worker:
    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._calls = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)

    @classmethod
    async def start(cls, passing: frozenset[str]) -> _Worker:
        names = _ENVIRONMENT | passing
        environment = {
            key: value for key, value in os.environ.items() if key in names or key.startswith(_ENVIRONMENT_PREFIXES)
        }
        with anyio.CancelScope(shield=True):  # otherwise the process could be lost while it starts
            process = await anyio.open_process(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

        return cls(process)

    @property
    def is_alive(self) -> bool:
        """Return False if the process is known to have ended."""
        return self._process.returncode is None

    async def is_ready(self) -> bool:
        """Wait until the process can take calls; return False if it died."""
        try:
            return await self._answers.receive_exactly(len(READY)) == READY
        except _DEAD:
            return False

    async def call(self, function: Callable[..., object], arguments: tuple[object, ...]) -> tuple[bool, Any]:
        try:
            await self._calls.send(pickle.dumps((function, arguments)))
            (length,) = HEADER.unpack(await self._answers.receive_exactly(HEADER.size))
            assert length <= _MAX_ANSWER
            succeeded, value = pickle.loads(await self._answers.receive_exactly(length))  # noqa: S301 - from a child process
        except _DEAD:
            raise EmitFailed("a worker process died: perhaps the system killed it because memory ran out") from None

        return succeeded, value

    async def end(self) -> None:
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.kill()

            await self._process.aclose()
