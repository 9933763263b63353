"""What earlier runs knew: a SQLite database inside the mirror.

A row in `image` is the proof that an image is complete and durable; `index.json` is written from these rows. The
database is a memory and never the truth about bytes: what it says of a file is believed only if the file is there.

Its journal is a rollback journal, not a write-ahead log: that works on network file systems too, and commits come in
groups, so that the extra sync does not count.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, Phase, StoreError
from ..oci import Descriptor, Digest

# "QMir": tells our database from an empty file or one of somebody else.
_APPLICATION_ID = 0x514D6972
_VERSION = 1

_SCHEMA = """
CREATE TABLE image (
    name          TEXT PRIMARY KEY,   -- kolla/nova-api:2025.1-debian
    registry      TEXT NOT NULL,      -- quay.io
    source        TEXT NOT NULL,      -- the digest that the tag had at the source
    platforms     TEXT NOT NULL,      -- what was asked for of an index, '' for all
    root          TEXT NOT NULL,      -- the manifest or index that is stored under this name
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    mirrored      REAL NOT NULL,      -- POSIX time
    run           TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE blob (
    id            INTEGER PRIMARY KEY,
    digest        TEXT NOT NULL UNIQUE,
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    verified      REAL NOT NULL       -- POSIX time when its bytes were last hashed
) STRICT;
CREATE TABLE content (                -- what a root needs to be whole, itself included
    root          TEXT NOT NULL,
    platforms     TEXT NOT NULL,
    blob          INTEGER NOT NULL REFERENCES blob(id),
    PRIMARY KEY (root, platforms, blob)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image that is complete in the mirror. `contents` is everything it needs, `root` included."""

    name: str
    registry: str
    source: Digest
    root: Descriptor
    contents: tuple[Descriptor, ...]
    platforms: str = ""
    run: str = ""
    mirrored: float = 0.0


class State:
    """The open database. Its methods block and are not for two threads at a time.

    Every method raises `StoreError` when the disk fails.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> tuple[State, str | None]:
        """Open the database at `path`, creating it; return it with a notice if a damaged one had to be set aside.

        :raises ConfigError: when a newer quaymirror wrote it.
        :raises StoreError: when it can't be opened or created.
        """
        try:
            return cls(_connect(path, read_only=read_only), path), None
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise _store_error(path, error) from error

        if read_only:
            return cls.empty(), f"{path} is damaged: ignored"

        aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
        path.rename(aside)
        notice = f"{path} was damaged and is set aside as {aside.name}; every blob is checked again before it is used"
        return cls(_connect(path, read_only=False), path), notice

    @classmethod
    def empty(cls) -> State:
        """Return a state that knows nothing and is nowhere."""
        return cls(_connect(None, read_only=False), Path(":memory:"))

    def image(self, name: str) -> ImageRecord | None:
        """Return what is recorded under `name`."""
        with self._errors():
            row = self._connection.execute("SELECT * FROM image WHERE name = ?", (name,)).fetchone()

        return self._record(row) if row else None

    def images(self) -> list[ImageRecord]:
        """Return every recorded image, by name, without its contents."""
        with self._errors():
            rows = self._connection.execute("SELECT * FROM image ORDER BY name").fetchall()

        return [_image(row, ()) for row in rows]

    def verified(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those of `digests` whose bytes have been hashed when they were stored or since."""
        query = "SELECT 1 FROM blob WHERE digest = ?"
        with self._errors():
            return {digest for digest in digests if self._connection.execute(query, (str(digest),)).fetchone()}

    def commit(self, records: Iterable[ImageRecord]) -> None:
        """Record images, all or none of them: from then on they count as mirrored."""
        with self._errors(), self._connection:
            for record in records:
                self._insert(record)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _insert(self, record: ImageRecord) -> None:
        root = record.root
        for node in record.contents:
            self._connection.execute(
                "INSERT INTO blob (digest, media_type, size, verified) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (str(node.digest), node.media_type, node.size, record.mirrored),
            )
            self._connection.execute(
                "INSERT OR IGNORE INTO content SELECT ?, ?, id FROM blob WHERE digest = ?",
                (str(root.digest), record.platforms, str(node.digest)),
            )

        self._connection.execute(
            "INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.name,
                record.registry,
                str(record.source),
                record.platforms,
                str(root.digest),
                root.media_type,
                root.size,
                record.mirrored,
                record.run,
            ),
        )

    def _record(self, row: sqlite3.Row) -> ImageRecord:
        query = "SELECT blob.* FROM content JOIN blob ON blob.id = blob WHERE root = ? AND platforms = ?"
        with self._errors():
            rows = self._connection.execute(query, (row["root"], row["platforms"])).fetchall()

        return _image(row, tuple(Descriptor(b["media_type"], Digest.parse(b["digest"]), b["size"]) for b in rows))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _store_error(self._path, error) from error


def _image(row: sqlite3.Row, contents: tuple[Descriptor, ...]) -> ImageRecord:
    return ImageRecord(
        name=row["name"],
        registry=row["registry"],
        source=Digest.parse(row["source"]),
        root=Descriptor(row["media_type"], Digest.parse(row["root"]), row["size"]),
        contents=contents,
        platforms=row["platforms"],
        run=row["run"],
        mirrored=row["mirrored"],
    )


def _connect(path: Path | None, *, read_only: bool) -> sqlite3.Connection:
    where = ":memory:" if path is None else f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
    connection = sqlite3.connect(where, uri=True, check_same_thread=False, timeout=5.0)
    try:
        connection.row_factory = sqlite3.Row
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise

    return connection


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    if path is None or not path.exists() or path.stat().st_size == 0:
        connection.executescript(
            f"PRAGMA application_id = {_APPLICATION_ID}; BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
        )

    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise sqlite3.DatabaseError("not a quaymirror database")

    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise ConfigError(f"{path} was written by a newer quaymirror (format {version}, known is {_VERSION}): update")

    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("damaged")

    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Missing tables are damage; a full disk or a missing permission is not, and loses nothing."""
    return error.sqlite_errorcode in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _store_error(path: Path, error: sqlite3.Error) -> StoreError:
    return StoreError(f"can't use {path}: {error}", phase=Phase.COMMIT)
