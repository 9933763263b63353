"""What earlier runs knew: a SQLite database inside the mirror.

A row in `image` is the proof that an image is complete and durable; `index.json` is written from these rows. The
database is a memory and never the truth about bytes: what it says of a file is believed only if the file is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..oci import Descriptor, Digest
from .database import Connection, Format, Row, database_errors, memory_database, open_database

_TABLES = """
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


# The number is "QMir".
_FORMAT = Format(0x514D6972, (_TABLES,))


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

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> tuple[State, str | None]:
        """Open the database at `path`, creating it; return it with a notice if a damaged one had to be set aside.

        :raises ConfigError: when a newer quaymirror wrote it.
        :raises StoreError: when it can't be opened or created.
        """
        connection, notice = open_database(path, _FORMAT, read_only=read_only)
        if notice and not read_only:
            notice = f"{notice}; every blob is checked again before it is used"

        return cls(connection, path), notice

    @classmethod
    def empty(cls) -> State:
        """Return a state that knows nothing and is nowhere."""
        return cls(memory_database(_FORMAT), Path(":memory:"))

    def image(self, name: str) -> ImageRecord | None:
        """Return what is recorded under `name`."""
        with database_errors(self._path):
            row = self._connection.execute("SELECT * FROM image WHERE name = ?", (name,)).fetchone()

        return self._record(row) if row else None

    def images(self) -> list[ImageRecord]:
        """Return every recorded image, by name, without its contents."""
        with database_errors(self._path):
            rows = self._connection.execute("SELECT * FROM image ORDER BY name").fetchall()

        return [_image(row, ()) for row in rows]

    def verified(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those of `digests` whose bytes have been hashed when they were stored or since."""
        query = "SELECT 1 FROM blob WHERE digest = ?"
        with database_errors(self._path):
            return {digest for digest in digests if self._connection.execute(query, (str(digest),)).fetchone()}

    def commit(self, records: Iterable[ImageRecord]) -> None:
        """Record images, all or none of them: from then on they count as mirrored."""
        with database_errors(self._path), self._connection:
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

    def _record(self, row: Row) -> ImageRecord:
        query = "SELECT blob.* FROM content JOIN blob ON blob.id = blob WHERE root = ? AND platforms = ?"
        with database_errors(self._path):
            rows = self._connection.execute(query, (row["root"], row["platforms"])).fetchall()

        return _image(row, tuple(Descriptor(b["media_type"], Digest.parse(b["digest"]), b["size"]) for b in rows))


def _image(row: Row, contents: tuple[Descriptor, ...]) -> ImageRecord:
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
