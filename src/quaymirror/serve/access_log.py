"""The log of a server: a JSON line per request, without credentials, and a line for people per problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO

from ..text import one_line

Say = Callable[[str], None]
_MAX_TEXT = 300
# Clients ask without credentials first, and for content that another registry may have.
_ORDINARY = frozenset({401, 404})


@dataclass(frozen=True, slots=True)
class Record:
    """One request that was answered: `bytes` were sent in `seconds`; `note` says why it failed."""

    remote: str
    method: str
    path: str
    status: int
    bytes: int
    seconds: float
    agent: str = ""
    namespace: str = ""
    note: str = ""


class AccessLog:
    """Writes a line per request to `file`, if there is one, and the requests that failed with `say`."""

    def __init__(self, say: Say, file: IO[str] | None = None, *, now: Callable[[], datetime] | None = None) -> None:
        self._say = say
        self._file = file
        self._now = now or (lambda: datetime.now(UTC))

    def add(self, record: Record) -> None:
        """Log a request. Paths come from outside, and are cut; queries and headers are left out."""
        if self._file is not None:
            self._write(record)
        elif record.status >= 400 and record.status not in _ORDINARY:
            self._say(f"{record.remote} {_short(f'{record.method} {record.path}')}: {record.status} {record.note}")

    def _write(self, record: Record) -> None:
        fields = {key: _short(value) if isinstance(value, str) else value for key, value in asdict(record).items()}
        time = self._now().isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, **fields, "seconds": round(record.seconds, 6)})
        with suppress(OSError, ValueError):  # a full disk must not end pulls
            assert self._file is not None
            self._file.write(f"{line}\n")
            self._file.flush()


def _short(text: str) -> str:
    return one_line(text[:_MAX_TEXT])
