"""The program of a worker process: it reads calls from one pipe and writes answers to another."""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import threading
from typing import Any, BinaryIO

HEADER = struct.Struct(">Q")
READY = b"ready"
"""Sent once, before the first call is read."""


def main() -> None:
    """Answer calls until the parent closes its pipe."""
    # Ctrl-C is for the parent, which finishes the calls in flight.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(0), "rb") as calls, os.fdopen(os.dup(1), "wb") as answers:
        # Libraries that print must not disturb the answers.
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)

        answers.write(READY)
        answers.flush()
        threading.Thread(target=_end_with_parent, args=(calls.fileno(),), daemon=True).start()
        _serve(calls, answers)


def _end_with_parent(descriptor: int) -> None:
    """End at once when the parent has ended, even during a call."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(1)


def _serve(calls: BinaryIO, answers: BinaryIO) -> None:
    while True:
        try:
            function, arguments = pickle.load(calls)  # noqa: S301 - from the parent process
        except EOFError:
            return

        try:
            answer: tuple[bool, Any] = True, function(*arguments)
        except Exception as error:
            answer = False, error

        content = _pickled(answer)
        answers.write(HEADER.pack(len(content)) + content)
        answers.flush()


def _pickled(answer: tuple[bool, Any]) -> bytes:
    try:
        return pickle.dumps(answer)
    except Exception:
        return pickle.dumps((False, RuntimeError(f"a worker's answer of type {type(answer[1]).__name__}")))
