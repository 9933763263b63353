"""Worker processes: what computes in pure Python runs beside the loop, and ends at once when it is no longer wanted.

Not `anyio.to_process`: its workers get the terminal's Ctrl-C and import the caller's main module again.
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

from ..errors import EmitFailed
from .worker import HEADER

T = TypeVar("T")

_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from quaymirror.emit.worker import main; main()"
_MAX_ANSWER = 256 * 1024 * 1024
# What unpacks strangers' archives has no business with our secrets: it gets what a program needs to run, no more.
_ENVIRONMENT = {"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"}
_ENVIRONMENT_PREFIXES = ("COVERAGE_", "LC_", "PYTHON", "SSL_CERT_")


class Workers:
    """At most `count` worker processes, started when they are needed; of the environment they see little.

    `passing` are variables that they get beside what any program needs.
    """

    def __init__(self, count: int, passing: frozenset[str] = frozenset()) -> None:
        self._passing = passing
        self._limit = anyio.CapacityLimiter(count)
        self._idle: list[_Worker] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, count: int | None = None, *, passing: frozenset[str] = frozenset()) -> AsyncIterator[Workers]:
        """Hand out workers, as many as there are CPUs unless `count` says otherwise; all have ended afterwards."""
        workers = cls(count or os.cpu_count() or 2, passing)
        try:
            yield workers
        finally:
            with anyio.CancelScope(shield=True):
                for worker in workers._idle:
                    await worker.end()

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call `function`, which has to be importable by name, in a worker; if the caller is cancelled, it is killed.

        :raises EmitFailed: when the worker died.
        :raises Exception: what `function` raised.
        """
        async with self._limit:
            worker = self._idle.pop() if self._idle else await _Worker.start(_environment(self._passing))
            try:
                succeeded, value = await worker.call(function, arguments)
            except BaseException:
                await worker.end()
                raise

            if not succeeded:
                # Who knows which threads and files the failure left in there.
                await worker.end()
                raise value

            self._idle.append(worker)
            result: T = value
            return result


class _Worker:
    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._calls = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)

    @classmethod
    async def start(cls, environment: dict[str, str]) -> _Worker:
        with anyio.CancelScope(shield=True):  # a process half started would be nobody's
            process = await anyio.open_process(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

        return cls(process)

    async def call(self, function: Callable[..., object], arguments: tuple[object, ...]) -> tuple[bool, Any]:
        try:
            await self._calls.send(pickle.dumps((function, arguments)))
            (length,) = HEADER.unpack(await self._answers.receive_exactly(HEADER.size))
            assert length <= _MAX_ANSWER
            succeeded, value = pickle.loads(await self._answers.receive_exactly(length))  # noqa: S301 - our own child
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            raise EmitFailed("a worker process died: it was killed, perhaps for want of memory") from None

        return succeeded, value

    async def end(self) -> None:
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.kill()

            await self._process.aclose()


def _environment(passing: frozenset[str]) -> dict[str, str]:
    names = _ENVIRONMENT | passing
    return {
        name: value for name, value in os.environ.items() if name in names or name.startswith(_ENVIRONMENT_PREFIXES)
    }
