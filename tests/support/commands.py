"""The command as a user meets it: a process, its streams, its exit code."""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import anyio

Done = subprocess.CompletedProcess[str]
PATIENCE = 50.0
_lock = threading.Lock()


async def run(
    *arguments: str,
    cwd: Path,
    check: int | None = None,
    env: Mapping[str, str] | None = None,
    hook: Mapping[str, Any] | None = None,
    kill_after: float | None = None,
    least_piece: int | None = None,
    helps: bool = False,
    descriptors: int | None = None,
    zygote: str | None = None,
) -> Done:
    """Run quaymirror, and check that its output has no traceback and no escape sequence.

    It is a process of its own that starts in milliseconds: a fork of one that has imported everything. `hook` names
    hooks of `zygote` with their arguments; blobs of at least `least_piece` bytes are received in such pieces, by
    threads, or if it `helps` by the helper process, like all other ones; `descriptors` limits the files that are open.
    `zygote` is the socket of that process if it is another one than usual.
    """
    order = {
        "arguments": arguments,
        "cwd": str(cwd),
        "env": {**os.environ, **(env or {})},
        "hook": hook or {},
        "kill_after": kill_after,
        "least_piece": least_piece,
        "helps": helps,
        "descriptors": descriptors,
    }
    done = await anyio.to_thread.run_sync(_done, order, zygote)
    assert "Traceback" not in done.stderr, done.stderr
    is_text = "\ufffd" not in done.stdout  # a compressed inventory has any byte
    assert "\x1b" not in (done.stdout if is_text else "") + done.stderr
    if check is not None:
        assert done.returncode == check, done.stderr

    return done


def _done(order: dict[str, Any], zygote: str | None) -> Done:
    with (
        tempfile.TemporaryFile("w+", errors="replace") as out,
        tempfile.TemporaryFile("w+", errors="replace") as error,
    ):
        code = _code(order, out, error, zygote or _zygote(os.getpid()))
        return Done(order["arguments"], code, _text(out), _text(error))


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _code(order: dict[str, Any], out: IO[str], error: IO[str], zygote: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(zygote)
        socket.send_fds(connection, [b"{"], [out.fileno(), error.fileno()])
        connection.sendall(json.dumps(order).encode()[1:] + b"\n")
        if not (answer := connection.recv(16)):
            raise ChildProcessError("the process of the command has lost its supervisor")

    return int(answer)


def _zygote(pid: int) -> str:
    with _lock:
        return _started(pid)


@functools.cache
def _started(_: int) -> str:
    """Start the process that is forked, one per process of tests, and return its socket."""
    directory = tempfile.TemporaryDirectory(prefix="quaymirror-")
    zygote = start_zygote(f"{directory.name}/socket", sys.executable)

    def end() -> None:
        zygote.communicate()
        directory.cleanup()

    atexit.register(end)
    return f"{directory.name}/socket"


def start_zygote(path: str, python: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that is forked for each command, with its socket at `path`; it ends with its standard input."""
    command = [python, str(Path(__file__).with_name("zygote.py")), path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process
