"""Events as JSON lines, for programs that follow a run.

Each line has `v` (the version of this format), `time` (POSIX seconds), `run_id` (null before `run_started`) and
`event` (the name of the class in snake case); the other members are the fields of the event.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from typing import Any

from ..errors import Failure
from ..events import Event, RunStarted
from ..oci import Digest, Reference, Repository
from ..text import escape_controls
from ..values import pattern

VERSION = 2

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_WORD_START = pattern(r"(?<!^)(?=[A-Z])")


class JsonLines:
    """An observer that passes each event as one line of ASCII, its newline included, to `write`.

    `clock` returns POSIX time.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.time) -> None:
        self._write = write
        self._clock = clock
        self._run_id: str | None = None

    def __call__(self, event: Event) -> None:
        """Write `event`."""
        if isinstance(event, RunStarted):
            self._run_id = escape_controls(event.run_id)

        head = {"v": VERSION, "time": round(self._clock(), 3), "run_id": self._run_id, "event": event_name(event)}
        self._write(json.dumps(head | members(event), separators=(",", ":"), allow_nan=False) + "\n")


def event_name(event: Event) -> str:
    """Return the name of the event's class in snake case: `image_finished`."""
    return _WORD_START.sub("_", type(event).__name__).lower()


def to_json(value: object) -> Json:
    """Return `value`, a field of an event, in JSON's types.

    Names of the OCI specifications become texts, enums their values, failures and dataclasses objects. Texts are
    escaped, so that a program can print what its JSON parser returns.
    """
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return escape_controls(value)
        case Enum():
            return to_json(value.value)
        case tuple() | list() | deque():
            return [to_json(item) for item in value]
        case dict():
            return {str(to_json(key)): to_json(item) for key, item in value.items()}
        case Digest() | Repository() | Reference():
            return str(value)
        case Failure():
            parts = {"type": value.name, "message": value.message, "side": value.side, "phase": value.phase}
            return to_json(parts | {"scope": value.scope})
        case _:
            return members(value)


def members(dataclass: Any) -> dict[str, Json]:
    """Return the fields of an event in JSON's types, by name."""
    # Not asdict(), which would take references apart and copy everything.
    return {field.name: to_json(getattr(dataclass, field.name)) for field in fields(dataclass)}
