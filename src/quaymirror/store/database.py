"""SQLite files of ours: opened, brought up to date, and set aside when they are damaged.

The journal is a rollback journal, not a write-ahead log: that works on network file systems too, and commits come in
groups, so that the extra sync does not count.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import ConfigError, Phase, StoreError
from . import fsops

_WORDS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file system is read-only",
    sqlite3.SQLITE_BUSY: "another program uses it",
}

Connection = sqlite3.Connection
Row = sqlite3.Row


@dataclass(frozen=True, slots=True)
class Format:
    """What a kind of database looks like.

    `application_id` tells ours from an empty file or one of somebody else (https://sqlite.org/fileformat.html, 1.3.16).
    `steps[0]` makes version 1 out of nothing, each further one the next version out of the one before.
    """

    application_id: int
    steps: tuple[str, ...]

    @property
    def version(self) -> int:
        """The version that is written."""
        return len(self.steps)


def open_database(
    path: Path, form: Format, *, read_only: bool = False, sync: bool = True
) -> tuple[Connection, str | None]:
    """Open the database at `path`, creating it; return it with a notice if a damaged one had to be set aside.

    Read-only, what is damaged, or older than this version, counts as empty. Without `sync`, what is committed is safe
    against a killed process only, not against power loss.

    :raises ConfigError: when a newer quaymirror wrote it.
    :raises StoreError: when it can't be opened or created.
    """
    if path.exists() and not path.is_file():
        # SQLite would wait for ever for somebody to write into a pipe.
        raise StoreError(f"can't use {path}: not a file", phase=Phase.COMMIT)

    try:
        return _connect(path, form, read_only=read_only, sync=sync), None
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
            raise store_error(path, error) from error

    if read_only:
        return memory_database(form), f"{path} is damaged: ignored"

    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    # Its journal first: next to another database it would be taken for that one's.
    fsops.set_aside(path.with_name(f"{path.name}-journal"), aside.with_name(f"{aside.name}-journal"))
    fsops.set_aside(path, aside)
    connection = _connect(path, form, read_only=False, sync=sync)
    return connection, f"{path} was damaged and is set aside as {aside.name}"


def memory_database(form: Format) -> Connection:
    """Return an empty database that is nowhere."""
    return _connect(None, form, read_only=False, sync=False)


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises in the context into a StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(path, error) from error


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Return what to tell of `error`."""
    words = _WORDS.get(_primary_code(error), str(error))
    return StoreError(f"can't use {path}: {words}", phase=Phase.COMMIT)


def _connect(path: Path | None, form: Format, *, read_only: bool, sync: bool) -> Connection:
    where = ":memory:" if path is None else f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
    connection = sqlite3.connect(where, uri=True, check_same_thread=False, timeout=5.0)
    try:
        connection.row_factory = sqlite3.Row
        # EXTRA syncs the directory, too, after the journal has gone: with FULL, power loss could bring the journal back
        # and undo what was committed (https://sqlite.org/pragma.html#pragma_synchronous).
        connection.execute(f"PRAGMA synchronous = {'EXTRA' if sync else 'OFF'}")
        _prepare(connection, path, form, read_only=read_only)
    except BaseException:
        connection.close()
        raise

    return connection


def _prepare(connection: Connection, path: Path | None, form: Format, *, read_only: bool) -> None:
    if path is None or not path.exists() or path.stat().st_size == 0:
        _step(connection, form, 0)

    if connection.execute("PRAGMA application_id").fetchone()[0] != form.application_id:
        raise sqlite3.DatabaseError("not a quaymirror database")

    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > form.version:
        raise ConfigError(
            f"{path} was written by a newer quaymirror (format {version}, known is {form.version}): update"
        )

    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok" or (read_only and version < form.version):
        raise sqlite3.DatabaseError("damaged")

    for number in range(version, form.version):
        _step(connection, form, number)

    # Only now: a table of an earlier version may lack what the last step adds.
    if path is not None and any(connection.execute(query).fetchone() for query in _misfits(form)):
        raise sqlite3.DatabaseError("values of the wrong type")

    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")


@cache
def _misfits(form: Format) -> tuple[str, ...]:
    """Return queries for values that their columns can't have, one for each table, which fail where there is no such.

    STRICT tables would see to that by themselves, but SQLite has them since 3.37 only: RHEL 9 has 3.34.
    """
    with closing(memory_database(form)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: connection.execute(f"PRAGMA table_info({table})").fetchall() for table in tables}

    return tuple(
        f"SELECT 1 FROM {table} WHERE {' OR '.join(_misfit(column) for column in columns[table])} LIMIT 1"  # noqa: S608
        for table in tables
    )


def _misfit(column: Row) -> str:
    """Return the condition for a value that is neither of the column's type, nor NULL where that is allowed."""
    must_be_there = column["notnull"] or column["pk"]
    types = (column["type"].lower(),) if must_be_there else (column["type"].lower(), "null")
    return f"typeof({column['name']}) NOT IN ({', '.join(map(repr, types))})"


def _step(connection: Connection, form: Format, number: int) -> None:
    """Make version `number + 1` of version `number`, wholly or not at all."""
    connection.executescript(
        f"PRAGMA application_id = {form.application_id}; BEGIN; {form.steps[number]}"
        f" PRAGMA user_version = {number + 1}; COMMIT;"
    )


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Missing tables are damage; a full disk or a missing permission is not, and loses nothing."""
    return _primary_code(error) in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _primary_code(error: sqlite3.Error) -> int:
    """The kind of an error: its code has details in the higher bits (https://sqlite.org/rescode.html)."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return (code or 0) & 0xFF
