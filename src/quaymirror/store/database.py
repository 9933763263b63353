"""SQLite databases: they are opened, migrated, and set aside if they are damaged.

The journal is a rollback journal, not a write-ahead log: that works on network file systems, too, and commits come in
groups, so that the additional sync does not matter.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from ..errors import ConfigError, Phase, StoreError
from ..values import dataclass
from . import fsops

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file system is read-only",
    sqlite3.SQLITE_BUSY: "another program uses it",
    # Of the file or its journal: SQLite does not say why.
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: permission denied, or too many open files (see ulimit -n)",
}

Connection = sqlite3.Connection
Row = sqlite3.Row


@dataclass(frozen=True, slots=True)
class Format:
    """The format of a kind of database.

    `application_id` distinguishes it from files of other programs (https://sqlite.org/fileformat.html, 1.3.16).
    `steps[0]` creates version 1, each further one migrates to the next version.
    """

    application_id: int
    steps: tuple[str, ...]

    @property
    def version(self) -> int:
        """The current version."""
        return len(self.steps)


class Database:
    """An open database. Its methods block, raise `StoreError` if the disk fails, and are not safe for two threads."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._is_changing = False

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _query(self, query: str, *values: object) -> list[Row]:
        with database_errors(self._path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes of the context durable together, or none of them."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._is_changing:
            yield self._connection  # a part of the transaction around it
            return

        self._is_changing = True
        try:
            with database_errors(self._path), self._connection:
                yield self._connection
        finally:
            self._is_changing = False


def open_database(
    path: Path, form: Format, *, read_only: bool = False, sync: bool = True, check: bool = True
) -> tuple[Connection, str | None]:
    """Open or create the database at `path`; return it with a notice if a damaged one was set aside.

    If `read_only`, a missing or damaged one counts as empty, and a copy in memory of an older one is migrated. Without
    `sync`, commits are safe against a killed process only, not against power loss. Without `check`, which reads the
    whole file, damage may show as a `StoreError` of a query, or as wrong values.

    :raises ConfigError: if a newer quaymirror wrote it.
    :raises StoreError: if it can't be opened or created.
    """
    if not fsops.exists(path):
        if read_only:
            return _memory_database(form), None
    elif not path.is_file():
        # SQLite would wait forever for a writer of a pipe.
        raise StoreError(f"can't use {path}: not a file", phase=Phase.COMMIT)

    if not read_only:
        fsops.unshare(path)

    with database_errors(path):
        try:
            return _connect(path, form, read_only=read_only, sync=sync, check=check), None
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise

    if read_only:
        return _memory_database(form), f"{path} is damaged: ignored"

    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    # The journal first: SQLite would apply it to another database of this name.
    fsops.set_aside(path.with_name(f"{path.name}-journal"), aside.with_name(f"{aside.name}-journal"))
    fsops.set_aside(path, aside)
    with database_errors(path):
        connection = _connect(path, form, read_only=False, sync=sync)

    return connection, f"{path} was damaged and is set aside as {aside.name}"


def _memory_database(form: Format) -> Connection:
    return _connect(None, form, read_only=False, sync=False)


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite in the context into StoreErrors."""
    try:
        yield
    except sqlite3.Error as error:
        reason = _REASONS.get(_primary_code(error), str(error))
        raise StoreError(f"can't use {path}: {reason}", phase=Phase.COMMIT) from error


def _connect(path: Path | None, form: Format, *, read_only: bool, sync: bool, check: bool = True) -> Connection:
    where = ":memory:" if path is None else f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
    connection = sqlite3.connect(where, uri=True, check_same_thread=False, timeout=5.0)
    try:
        if read_only and path is not None:
            _finish_rollback(connection, path)
            connection = _migratable(connection, form)

        connection.row_factory = sqlite3.Row
        # EXTRA also syncs the directory after the journal was deleted: with FULL, a power loss could bring it back, and
        # undo the commit (https://sqlite.org/pragma.html#pragma_synchronous).
        connection.execute(f"PRAGMA synchronous = {'EXTRA' if sync else 'OFF'}")
        _prepare(connection, path, form, check=check)
    except BaseException:
        connection.close()
        raise

    return connection


def _finish_rollback(connection: Connection, path: Path) -> None:
    """Undo the change that a killed process left in its middle: a connection for reading alone can't do that."""
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise

        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=5.0)) as writing:
            writing.execute("PRAGMA schema_version").fetchone()


def _migratable(connection: Connection, form: Format) -> Connection:
    """Return a copy in memory of an older or empty database that was opened for reading, otherwise `connection`."""
    if not (_is_empty(connection) or _is_older(connection, form)):
        return connection

    copy = sqlite3.connect(":memory:", check_same_thread=False)
    with closing(connection):
        connection.backup(copy)

    return copy


def _is_empty(connection: Connection) -> bool:
    """Return True for a database that was being created when the process was killed, or the disk was full."""
    return bool(connection.execute("PRAGMA page_count").fetchone()[0] == 0)


def _is_older(connection: Connection, form: Format) -> bool:
    """Return True for a database of this kind in an earlier format."""
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return application == form.application_id and 0 < version < form.version


def _prepare(connection: Connection, path: Path | None, form: Format, *, check: bool) -> None:
    # Of a creation that was killed, SQLite has undone all by now.
    if not _is_empty(connection) and connection.execute("PRAGMA application_id").fetchone()[0] != form.application_id:
        raise sqlite3.DatabaseError("not a quaymirror database")

    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > form.version:
        raise ConfigError(
            f"{path} was written by a newer quaymirror (format {version}, known is {form.version}): update"
        )

    if check and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("damaged")

    if version < form.version:
        _migrate(connection, form, version)

    # Not before the migration: a table of an earlier version may lack columns. A database that is new has no values.
    if check and path is not None and version and any(connection.execute(query).fetchone() for query in _misfits(form)):
        raise sqlite3.DatabaseError("values of the wrong type")

    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")


@cache
def _misfits(form: Format) -> tuple[str, ...]:
    """Return a query per table for values of the wrong type. The query fails if the table does not exist.

    STRICT tables would check that themselves, but SQLite only has them since 3.37: RHEL 9 has 3.34.
    """
    with closing(_memory_database(form)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: connection.execute(f"PRAGMA table_info({table})").fetchall() for table in tables}

    return tuple(
        f"SELECT 1 FROM {table} WHERE {' OR '.join(_misfit(column) for column in columns[table])} LIMIT 1"  # noqa: S608
        for table in tables
    )


def _misfit(column: Row) -> str:
    """Return the condition for a value that has neither the column's type, nor is NULL where that is allowed."""
    types = [column["type"].lower()] + ([] if column["notnull"] or column["pk"] else ["null"])
    return f"typeof({column['name']}) NOT IN ({', '.join(map(repr, types))})"


def _migrate(connection: Connection, form: Format, version: int) -> None:
    """Create the tables, or migrate them from `version` to the current one, completely or not at all.

    A transaction per step would be slow: each is several syncs.
    """
    steps = "\n".join(form.steps[version:])
    connection.executescript(
        f"BEGIN; PRAGMA application_id = {form.application_id}; {steps} PRAGMA user_version = {form.version}; COMMIT;"
    )


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Return True for damage such as missing tables. A full disk or a missing permission is none: nothing is lost."""
    return _primary_code(error) in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _primary_code(error: sqlite3.Error) -> int:
    """Return the kind of an error: the higher bits of its code are details (https://sqlite.org/rescode.html)."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return (code or 0) & 0xFF
