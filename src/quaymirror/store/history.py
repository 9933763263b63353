"""What earlier runs saw: a SQLite database beside the mirror, whatever kind of target it is.

It holds the runs with their reports, and what was learnt of each tag. All of it may be lost without harm: the next run
then asks the server again, and has nothing to compare itself with.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidName
from ..oci import Digest
from .database import Connection, Format, Row, database_errors, memory_database, open_database
from .records import PastRun, TagCheck

_TABLES = """
CREATE TABLE tag (                    -- one tag, as the server described it last
    registry      TEXT NOT NULL,      -- quay.io
    repository    TEXT NOT NULL,      -- kolla/nova-api
    tag           TEXT NOT NULL,      -- 2025.1-debian
    last_modified INTEGER NOT NULL,   -- of the repository, in the listing before the check
    checked       INTEGER NOT NULL,   -- when, by the server's clock
    digest        TEXT,               -- NULL: there was no such tag
    start         INTEGER,
    size          INTEGER,
    expires       INTEGER,
    PRIMARY KEY (registry, repository, tag)
) WITHOUT ROWID;
CREATE TABLE run (
    id            TEXT PRIMARY KEY,
    subject       TEXT NOT NULL,      -- what was mirrored from where: runs of the same subject can be compared
    started       REAL NOT NULL,      -- POSIX time
    elapsed       REAL NOT NULL,      -- seconds
    exit_code     INTEGER NOT NULL,
    complete      INTEGER NOT NULL,
    images        TEXT NOT NULL,      -- how many by status, JSON
    bytes_fetched INTEGER NOT NULL,
    report        BLOB                -- the whole report, JSON, deflated; NULL when it is too old to be of use
);
CREATE INDEX run_by_time ON run (started);
"""
# The number is "QMhi".
FORMAT = Format(0x514D6869, (_TABLES,))

# Reports of thousands of images every night would outgrow the mirror's own bookkeeping; the line of each run stays.
_REPORTS_KEPT = 100
_MAX_REPORT = 512 * 1024 * 1024
# What was not seen for this long belongs to a repository, or a tag, that nobody asks for any more.
_TAG_SECONDS = 90 * 24 * 3600


class History:
    """The open database. Its methods block and are not for two threads at a time.

    Every method raises `StoreError` when the disk fails.
    """

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, home: Path, *, read_only: bool = False) -> tuple[History, str | None]:
        """Open the history in the directory `home`; return it with a notice if a damaged one had to be set aside.

        Read-only, one that is not there is empty.

        :raises ConfigError: when a newer quaymirror wrote it.
        :raises StoreError: when it can't be opened or created.
        """
        path = home / "history.db"
        if read_only and not path.exists():
            return cls(memory_database(FORMAT), path), None

        connection, notice = open_database(path, FORMAT, read_only=read_only)
        return cls(connection, path), notice

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def tags(self, registry: str) -> list[TagCheck]:
        """Return what is known of the tags of `registry`."""
        with database_errors(self._path):
            rows = self._connection.execute("SELECT * FROM tag WHERE registry = ?", (registry,)).fetchall()

        return [check for row in rows if (check := _tag_check(row)) is not None]

    def learn(self, checks: Iterable[TagCheck]) -> None:
        """Keep what was learnt of tags; what is too old to be of use goes."""
        rows = [_row(check) for check in checks]
        if not rows:
            return

        oldest = max(row[4] for row in rows) - _TAG_SECONDS
        with database_errors(self._path), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO tag VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._connection.execute("DELETE FROM tag WHERE checked < ?", (oldest,))

    def record(self, run: PastRun, report: Mapping[str, Any]) -> None:
        """Keep one run and its whole report."""
        packed = zlib.compress(json.dumps(report, separators=(",", ":")).encode(), 6)
        values = (
            run.id,
            run.subject,
            run.started,
            run.elapsed,
            run.exit_code,
            run.complete,
            json.dumps(dict(run.images)),
            run.bytes_fetched,
            packed,
        )
        with database_errors(self._path), self._connection:
            self._connection.execute("INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._connection.execute(
                "UPDATE run SET report = NULL WHERE report IS NOT NULL AND id NOT IN"
                " (SELECT id FROM run ORDER BY started DESC LIMIT ?)",
                (_REPORTS_KEPT,),
            )

    def runs(self, *, limit: int | None = None) -> list[PastRun]:
        """Return the runs, the latest first, at most `limit` of them."""
        query = "SELECT * FROM run ORDER BY started DESC, id LIMIT ?"
        with database_errors(self._path):
            return [_past_run(row) for row in self._connection.execute(query, (-1 if limit is None else limit,))]

    def report(self, run: str) -> dict[str, Any] | None:
        """Return the report of the run with this id, None if there is none (any more)."""
        with database_errors(self._path):
            row = self._connection.execute("SELECT report FROM run WHERE id = ?", (run,)).fetchone()

        return _unpacked(row["report"]) if row and row["report"] is not None else None

    def last_complete(self, subject: str) -> dict[str, Any] | None:
        """Return the report of the latest run of `subject` that saw all there was."""
        query = "SELECT report FROM run WHERE subject = ? AND complete AND report IS NOT NULL ORDER BY started DESC"
        with database_errors(self._path):
            row = self._connection.execute(query, (subject,)).fetchone()

        return _unpacked(row["report"]) if row else None


def _row(check: TagCheck) -> tuple[str, str, str, int, int, str | None, int | None, int | None, int | None]:
    return (
        check.registry,
        check.repository,
        check.tag,
        check.last_modified,
        check.checked,
        None if check.digest is None else str(check.digest),
        check.start,
        check.size,
        check.expires,
    )


def _tag_check(row: Row) -> TagCheck | None:
    try:
        digest = None if row["digest"] is None else Digest.parse(row["digest"])
    except InvalidName:
        return None  # no checksum guards a row: the tag is checked again

    return TagCheck(
        registry=row["registry"],
        repository=row["repository"],
        tag=row["tag"],
        last_modified=row["last_modified"],
        checked=row["checked"],
        digest=digest,
        start=row["start"],
        size=row["size"],
        expires=row["expires"],
    )


def _past_run(row: Row) -> PastRun:
    return PastRun(
        id=row["id"],
        subject=row["subject"],
        started=row["started"],
        elapsed=row["elapsed"],
        exit_code=row["exit_code"],
        complete=bool(row["complete"]),
        images=_counts(row["images"]),
        bytes_fetched=row["bytes_fetched"],
    )


def _counts(text: str) -> dict[str, int]:
    try:
        counts = json.loads(text)
    except (ValueError, RecursionError):
        return {}

    return counts if isinstance(counts, dict) else {}


def _unpacked(blob: bytes) -> dict[str, Any] | None:
    """The report, or None if it can't be read: a history is never worth a failed run."""
    try:
        document = json.loads(zlib.decompressobj().decompress(blob, _MAX_REPORT))
    except (zlib.error, ValueError, RecursionError):
        return None

    return document if isinstance(document, dict) else None
