"""The run history: a SQLite database of the runs of a target with their reports, and of the last check of each tag.

It may be lost without harm: then the next run checks every tag, and has no earlier run to compare itself with.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..errors import InvalidName
from ..events import ChangeCounts
from ..oci import Digest
from ..untrusted import InvalidDocument, parse_object
from .database import Database, Format, Row, open_database
from .records import LabelVerdict, PastRun, TagCheck, Usage

_TABLES = """
CREATE TABLE tag (                    -- the last check of each tag
    registry      TEXT NOT NULL,      -- quay.io
    repository    TEXT NOT NULL,      -- kolla/nova-api
    tag           TEXT NOT NULL,      -- 2025.1-debian
    last_modified INTEGER NOT NULL,   -- of the repository, in the listing before the check
    checked       INTEGER NOT NULL,   -- when, by the server's clock
    digest        TEXT,               -- NULL: the tag did not exist
    start         INTEGER,
    size          INTEGER,
    expires       INTEGER,
    PRIMARY KEY (registry, repository, tag)
) WITHOUT ROWID;
CREATE TABLE run (
    id            TEXT PRIMARY KEY,
    subject       TEXT NOT NULL,      -- server and selections: runs with the same can be compared
    started       REAL NOT NULL,      -- POSIX time
    elapsed       REAL NOT NULL,      -- seconds
    exit_code     INTEGER NOT NULL,
    complete      INTEGER NOT NULL,
    images        TEXT NOT NULL,      -- number by status, JSON
    bytes_fetched INTEGER NOT NULL,
    report        BLOB                -- JSON, deflated; NULL if it was deleted
);
CREATE INDEX run_by_time ON run (started);
"""
# Killed runs, prunes, and the columns of a summary that outlives the report.
_LINES = """
ALTER TABLE run ADD COLUMN kind TEXT NOT NULL DEFAULT 'sync';      -- or prune
ALTER TABLE run ADD COLUMN jobs TEXT NOT NULL DEFAULT '[]';        -- their names, JSON
ALTER TABLE run ADD COLUMN ended INTEGER NOT NULL DEFAULT 1;       -- 0: in progress, or killed
ALTER TABLE run ADD COLUMN new INTEGER;                            -- images; NULL: no run to compare with
ALTER TABLE run ADD COLUMN moved INTEGER;
ALTER TABLE run ADD COLUMN missing INTEGER;
ALTER TABLE run ADD COLUMN stored_images INTEGER;                  -- in the target; NULL: not known
ALTER TABLE run ADD COLUMN stored_bytes INTEGER;
ALTER TABLE run ADD COLUMN free_bytes INTEGER;
ALTER TABLE run ADD COLUMN remark TEXT NOT NULL DEFAULT '';        -- the first problem, or the result of a prune
"""
_LABELS = """
CREATE TABLE label_verdict (          -- whether the labels of an image meet conditions; a digest never changes them
    digest        TEXT NOT NULL,
    conditions    TEXT NOT NULL,      -- the platform and the conditions, one per line
    holds         INTEGER NOT NULL,
    decided       REAL NOT NULL,      -- POSIX time
    PRIMARY KEY (digest, conditions)
) WITHOUT ROWID;
"""
_INSERT_TAG = (
    "INSERT OR REPLACE INTO tag VALUES"
    " (:registry, :repository, :tag, :last_modified, :checked, :digest, :start, :size, :expires)"
)
_LINE = (
    "id, subject, started, elapsed, exit_code, complete, images, bytes_fetched, kind, jobs, ended,"
    " new, moved, missing, stored_images, stored_bytes, free_bytes, remark"
)
_VALUES = ", ".join(f":{column}" for column in _LINE.split(", "))
_INSERT_RUN = f"INSERT OR REPLACE INTO run ({_LINE}, report) VALUES ({_VALUES}, :report)"  # noqa: S608
# Reports beyond a total size: the oldest ones.
_OVERSIZE = """
    UPDATE run SET report = NULL WHERE id IN (SELECT id FROM
    (SELECT id, sum(length(report)) OVER (ORDER BY started DESC, id) AS total FROM run WHERE report IS NOT NULL)
    WHERE total > ?)
"""
# The application ID reads "QMhi".
FORMAT = Format(0x514D6869, (_TABLES, _LINES, _LABELS))

REPORT_SECONDS = 400 * 86_400.0
# Reports of thousands of images per night would outgrow the mirror; older runs keep their line only.
MAX_REPORTS_BYTES = 512 * 1024 * 1024
_MAX_REPORT = 512 * 1024 * 1024
_MAX_TEXT = 64 * 1024
# A tag that was not checked for this long is not selected any more.
_TAG_SECONDS = 90 * 24 * 3600
# Labels of images that are still selected are then read again.
_VERDICT_SECONDS = 400 * 24 * 3600


class History(Database):
    """The open history; see `Database`."""

    @classmethod
    def open(cls, home: Path, *, read_only: bool = False) -> tuple[History, str | None]:
        """Open the history in the directory `home`; return it with a notice; see `open_database`."""
        path = home / "history.db"
        connection, notice = open_database(path, FORMAT, read_only=read_only)
        return cls(connection, path), notice

    def tags(self, registry: str, prefix: str = "") -> list[TagCheck]:
        """Return the checks of the tags of `registry` whose repositories begin with `prefix`."""
        # By the primary key: other organizations are not read.
        last = f"{prefix}\U0010ffff"
        rows = self._query(
            "SELECT * FROM tag WHERE registry = ? AND repository >= ? AND repository <= ?", registry, prefix, last
        )
        return [check for row in rows if (check := _tag_check(row)) is not None]

    def learn(self, checks: Iterable[TagCheck]) -> None:
        """Store `checks`, and delete those that are too old."""
        rows = [_row(check) for check in checks]
        if not rows:
            return

        oldest = max(row["checked"] for row in rows) - _TAG_SECONDS
        with self._transaction() as connection:
            connection.executemany(_INSERT_TAG, rows)
            connection.execute("DELETE FROM tag WHERE checked < ?", (oldest,))

    def label_verdicts(self) -> list[LabelVerdict]:
        """Return the verdicts on labels."""
        rows = self._query("SELECT digest, conditions, holds FROM label_verdict")
        return [verdict for row in rows if (verdict := _verdict(row)) is not None]

    def learn_labels(self, verdicts: Iterable[LabelVerdict]) -> None:
        """Store `verdicts`, and delete those that are too old."""
        now = time.time()
        rows = [(str(each.digest), each.conditions, each.holds, now) for each in verdicts]
        if not rows:
            return

        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO label_verdict VALUES (?, ?, ?, ?)", rows)
            connection.execute("DELETE FROM label_verdict WHERE decided < ?", (now - _VERDICT_SECONDS,))

    def begin(self, run: PastRun) -> None:
        """Store that a run has begun. It counts as killed if `record` does not follow."""
        with self._transaction() as connection:
            connection.execute(_INSERT_RUN, {**_values(replace(run, ended=False)), "report": None})

    def record(
        self,
        run: PastRun,
        report: Mapping[str, Any] | None,
        *,
        keep_seconds: float = REPORT_SECONDS,
        keep_bytes: int = MAX_REPORTS_BYTES,
    ) -> None:
        """Store a run with its report, and delete reports that are too old, or too large together; lines stay."""
        text = json.dumps(report, separators=(",", ":")).encode()
        stored = None if report is None else zlib.compress(text, 6)
        with self._transaction() as connection:
            connection.execute(_INSERT_RUN, {**_values(run), "report": stored})
            connection.execute(
                "UPDATE run SET report = NULL WHERE report IS NOT NULL AND started < ?", (run.started - keep_seconds,)
            )
            connection.execute(_OVERSIZE, (keep_bytes,))

    def runs(self, *, limit: int | None = None) -> list[PastRun]:
        """Return the runs, the latest first, at most `limit` of them."""
        query = f"SELECT {_LINE} FROM run ORDER BY started DESC, id LIMIT ?"  # noqa: S608
        return [_past_run(row) for row in self._query(query, -1 if limit is None else limit)]

    def report(self, run: str) -> dict[str, Any] | None:
        """Return the report of the run with this ID, None if it is missing or was deleted."""
        return self._report("SELECT report FROM run WHERE id = ?", run)

    def last_complete(self, subject: str) -> dict[str, Any] | None:
        """Return the report of the latest complete run of `subject`."""
        query = "SELECT report FROM run WHERE subject = ? AND complete AND report IS NOT NULL ORDER BY started DESC"
        return self._report(f"{query} LIMIT 1", subject)

    def _report(self, query: str, value: str) -> dict[str, Any] | None:
        """Return a report, None if it can't be read: a damaged history must not fail a run."""
        rows = self._query(query, value)
        if not rows or rows[0]["report"] is None:
            return None

        try:
            return _object(zlib.decompressobj().decompress(rows[0]["report"], _MAX_REPORT), _MAX_REPORT)
        except zlib.error:
            return None


def _row(check: TagCheck) -> dict[str, Any]:
    row = {field.name: getattr(check, field.name) for field in fields(check)}
    return row | {"digest": None if check.digest is None else str(check.digest)}


def _verdict(row: Row) -> LabelVerdict | None:
    try:
        return LabelVerdict(Digest.parse(row["digest"]), row["conditions"], bool(row["holds"]))
    except InvalidName:
        return None  # rows have no checksum: the labels are read again


def _tag_check(row: Row) -> TagCheck | None:
    values = dict(row)
    try:
        return TagCheck(**values | {"digest": None if values["digest"] is None else Digest.parse(values["digest"])})
    except InvalidName:
        return None  # rows have no checksum: the tag is checked again


def _values(run: PastRun) -> dict[str, Any]:
    """Return the columns of a run, all but the report."""
    changes, usage = run.changes, run.usage
    return {field.name: getattr(run, field.name) for field in fields(run)} | {
        "images": json.dumps(dict(run.images)),
        "jobs": json.dumps(run.jobs),
        "new": changes and changes.new,
        "moved": changes and changes.moved,
        "missing": changes and changes.missing,
        "stored_images": usage and usage.images,
        "stored_bytes": usage and usage.bytes,
        "free_bytes": usage and usage.free_bytes,
    }


def _past_run(row: Row) -> PastRun:
    known = row["new"], row["moved"], row["missing"]
    return PastRun(
        id=row["id"],
        subject=row["subject"],
        started=row["started"],
        elapsed=row["elapsed"],
        exit_code=row["exit_code"],
        complete=bool(row["complete"]),
        images=_object(row["images"], _MAX_TEXT) or {},
        bytes_fetched=row["bytes_fetched"],
        kind=row["kind"],
        jobs=_names(row["jobs"]),
        ended=bool(row["ended"]),
        changes=None if None in known else ChangeCounts(*known),
        usage=None
        if row["stored_bytes"] is None
        else Usage(row["stored_images"] or 0, row["stored_bytes"], row["free_bytes"]),
        remark=row["remark"],
    )


def _names(text: str) -> tuple[str, ...]:
    """Return the names of jobs in a column, none if it can't be read."""
    document = _object(f'{{"names":{text}}}', _MAX_TEXT) or {}
    names = document.get("names")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _object(text: bytes | str, limit: int) -> dict[str, Any] | None:
    try:
        return parse_object(text, limit=limit)
    except InvalidDocument:
        return None
