"""The state of a mirror: a SQLite database inside of it.

A row in `image` proves that an image is complete and durable; `index.json` is written from these rows. The database is
not the truth about bytes: a verified blob counts only if its file exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InvalidName, StoreError
from ..oci import Descriptor, Digest
from . import fsops
from .database import Connection, Database, Format, Row, database_errors, open_database
from .records import AbsentImage, DiscoverySnapshot, ImageRecord

_TABLES = """
CREATE TABLE image (
    name          TEXT PRIMARY KEY,   -- kolla/nova-api:2025.1-debian
    registry      TEXT NOT NULL,      -- quay.io
    source        TEXT NOT NULL,      -- the digest of the tag at the source
    platforms     TEXT NOT NULL,      -- the platforms requested of an index, '' for all
    root          TEXT NOT NULL,      -- the manifest or index that is stored
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    mirrored      REAL NOT NULL,      -- POSIX time
    run           TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE blob (
    id            INTEGER PRIMARY KEY,
    digest        TEXT NOT NULL UNIQUE,
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    verified      REAL NOT NULL       -- POSIX time of the last verification
);
CREATE TABLE content (                -- everything that a root needs, itself included
    root          TEXT NOT NULL,
    platforms     TEXT NOT NULL,
    blob          INTEGER NOT NULL REFERENCES blob(id),
    PRIMARY KEY (root, platforms, blob)
) WITHOUT ROWID;
"""

# Used by pruning.
_PRUNING = """
CREATE TABLE discovery (              -- the last discovery of each selection
    scope         TEXT PRIMARY KEY,   -- quay.io kolla/*:2025.1-debian
    complete      INTEGER NOT NULL,   -- whether it was complete
    authenticated INTEGER NOT NULL,   -- whether this one or an earlier one used an API token
    covered       INTEGER NOT NULL    -- number of mirrored images that the selection covers
) WITHOUT ROWID;
CREATE TABLE gone (                   -- images that complete discoveries did not find any more
    name          TEXT PRIMARY KEY,
    scope         TEXT NOT NULL,
    since         REAL NOT NULL,      -- POSIX time of the first of these discoveries
    seen          REAL NOT NULL       -- and of the last one
) WITHOUT ROWID;
CREATE TABLE orphan (                 -- blobs that no image needs
    digest        TEXT PRIMARY KEY,
    since         REAL NOT NULL       -- POSIX time when this was first noticed
) WITHOUT ROWID;
"""

# For the images that need a blob: looked up for each blob that is pushed or may be deleted.
_HOLDERS = "CREATE INDEX content_by_blob ON content (blob); CREATE INDEX image_by_root ON image (root, platforms);"

# Repositories to mount a blob from: more of them are of no use.
_MAX_HOLDERS = 4
# The application ID reads "QMir".
FORMAT = Format(0x514D6972, (_TABLES, _PRUNING, _HOLDERS))


class State(Database):
    """The open state; see `Database`."""

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, sync: bool = True) -> tuple[State, str | None]:
        """Open the state at `path`; return it with a notice; see `open_database`."""
        connection, notice = open_database(path, FORMAT, read_only=read_only, sync=sync)
        if notice and not read_only:
            notice = f"{notice}; every blob is verified again before it is used"

        return cls(connection, path), notice

    def image(self, name: str) -> ImageRecord | None:
        """Return the record of the image called `name`, None if it is missing or makes no sense."""
        rows = self._query("SELECT * FROM image WHERE name = ?", name)
        return self._record(rows[0]) if rows else None

    def images(self) -> list[ImageRecord]:
        """Return every recorded image without its contents, sorted by name."""
        rows = self._query("SELECT * FROM image ORDER BY name")
        return [record for row in rows if (record := _image(row, ())) is not None]

    def usage(self) -> tuple[int, int]:
        """Return the number of recorded images, and the bytes of everything that they need."""
        row = self._query("SELECT (SELECT count(*) FROM image), (SELECT coalesce(sum(size), 0) FROM blob)")[0]
        return row[0], row[1]

    def verified(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those of `digests` whose blobs were verified when they were stored, or later."""
        query = "SELECT 1 FROM blob WHERE digest = ?"
        with database_errors(self._path):
            return {digest for digest in digests if self._connection.execute(query, (str(digest),)).fetchone()}

    def holders(self, digests: Iterable[Digest]) -> dict[Digest, list[str]]:
        """Return the names of a few images that need each of `digests`, for those that any image needs."""
        query = """
            SELECT image.name FROM blob
            JOIN content ON content.blob = blob.id
            JOIN image ON image.root = content.root AND image.platforms = content.platforms
            WHERE blob.digest = ? LIMIT ?
        """
        found = {}
        with database_errors(self._path):
            for digest in digests:
                if names := [row[0] for row in self._connection.execute(query, (str(digest), _MAX_HOLDERS))]:
                    found[digest] = names

        return found

    def commit(self, records: Iterable[ImageRecord]) -> None:
        """Record images, all or none of them. From then on they count as mirrored."""
        with self._transaction():
            for record in records:
                self._insert(record)

    def record_discovery(self, snapshot: DiscoverySnapshot) -> bool:
        """Record a discovery. Return True if it counts: an anonymous one does not after one with an API token."""
        with self._transaction() as connection:
            before = connection.execute(
                "SELECT authenticated FROM discovery WHERE scope = ?", (snapshot.scope,)
            ).fetchone()
            had_token = bool(before and before["authenticated"])
            counts = snapshot.complete and (snapshot.authenticated or not had_token)
            authenticated = had_token or (snapshot.complete and snapshot.authenticated)
            connection.execute(
                "INSERT OR REPLACE INTO discovery VALUES (?, ?, ?, ?)",
                (snapshot.scope, counts, authenticated, len(snapshot.found | snapshot.absent)),
            )
            connection.executemany("DELETE FROM gone WHERE name = ?", [(name,) for name in snapshot.found])
            if counts:
                connection.executemany(
                    "INSERT INTO gone VALUES (?1, ?2, ?3, ?3)"
                    " ON CONFLICT (name) DO UPDATE SET scope = ?2, since = min(since, ?3), seen = ?3",
                    [(name, snapshot.scope, snapshot.moment) for name in sorted(snapshot.absent)],
                )

        return counts

    def absent_images(self) -> list[AbsentImage]:
        """Return the recorded images that were not found any more, sorted by name."""
        query = """
            SELECT gone.*, root, (SELECT sum(blob.size) FROM content JOIN blob ON blob.id = blob
                WHERE content.root = image.root AND content.platforms = image.platforms) AS bytes,
                discovery.complete, discovery.covered
            FROM gone JOIN image USING (name) LEFT JOIN discovery USING (scope) ORDER BY name
        """
        return [
            AbsentImage(
                name=row["name"],
                root=self._digest(row["root"]),
                size=row["bytes"] or 0,
                scope=row["scope"],
                since=row["since"],
                seen=row["seen"],
                covered=row["covered"] or 0,
                uncertain_because="" if row["complete"] else f"the last discovery of {row['scope']} was not complete",
            )
            for row in self._query(query)
        ]

    def contents(self, *, without: Iterable[str] = ()) -> dict[Digest, set[Digest]]:
        """Return everything that the recorded images except those named in `without` need, by root."""
        query = """
            SELECT DISTINCT image.name, image.root, blob.digest FROM image
            JOIN content ON content.root = image.root AND content.platforms = image.platforms
            JOIN blob ON blob.id = content.blob
        """
        unwanted, needed = frozenset(without), dict[Digest, set[Digest]]()
        with database_errors(self._path):
            for row in self._connection.execute(query):
                if row["name"] not in unwanted:
                    needed.setdefault(self._digest(row["root"]), set()).add(self._digest(row["digest"]))

        return needed

    def orphans(self) -> dict[Digest, float]:
        """Return the blobs that no image needed at the last pruning, with the time when that was first noticed."""
        return {self._digest(row["digest"]): row["since"] for row in self._query("SELECT * FROM orphan")}

    def untag(self, names: Iterable[str], orphans: Iterable[Digest], now: float) -> None:
        """Delete images and everything that none of the others needs; `orphans` are all blobs that none needs."""
        known, rows = self.orphans(), [(name,) for name in names]
        with self._transaction() as connection:
            connection.executemany("DELETE FROM image WHERE name = ?", rows)
            connection.execute("DELETE FROM gone WHERE name NOT IN (SELECT name FROM image)")
            connection.execute("DELETE FROM content WHERE (root, platforms) NOT IN (SELECT root, platforms FROM image)")
            connection.execute("DELETE FROM blob WHERE id NOT IN (SELECT blob FROM content)")
            connection.execute("DELETE FROM orphan")
            connection.executemany(
                "INSERT INTO orphan VALUES (?, ?)",
                [(str(digest), known.get(digest, now)) for digest in sorted(orphans)],
            )

    def _digest(self, text: str) -> Digest:
        """Used by deletion: an unreadable row must fail, because its content may still be needed."""
        try:
            return Digest.parse(text)
        except InvalidName:
            raise StoreError(
                f"can't use {self._path}: a row of it makes no sense; move it away, then use verify --repair-state"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with fsops.step("commit", self._path), super()._transaction() as connection:
            yield connection

    def _insert(self, record: ImageRecord) -> None:
        image = (record.name, record.registry, str(record.source), record.platforms)
        root = (str(record.root.digest), record.root.media_type, record.root.size)
        for node in record.contents:
            self._connection.execute(
                "INSERT INTO blob (digest, media_type, size, verified) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (str(node.digest), node.media_type, node.size, record.mirrored),
            )
            self._connection.execute(
                "INSERT OR IGNORE INTO content SELECT ?, ?, id FROM blob WHERE digest = ?",
                (root[0], record.platforms, str(node.digest)),
            )

        self._connection.execute(
            "INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*image, *root, record.mirrored, record.run),
        )

    def _record(self, row: Row) -> ImageRecord | None:
        query = "SELECT blob.* FROM content JOIN blob ON blob.id = blob WHERE root = ? AND platforms = ?"
        record = _image(row, self._query(query, row["root"], row["platforms"]))
        # An image without contents, not even its root, would always be complete.
        return record if record is not None and record.root.digest in {n.digest for n in record.contents} else None


def _image(row: Row, contents: Iterable[Row]) -> ImageRecord | None:
    try:
        return ImageRecord(
            name=row["name"],
            registry=row["registry"],
            source=Digest.parse(row["source"]),
            root=Descriptor(row["media_type"], Digest.parse(row["root"]), row["size"]),
            contents=tuple(Descriptor(b["media_type"], Digest.parse(b["digest"]), b["size"]) for b in contents),
            platforms=row["platforms"],
            run=row["run"],
            mirrored=row["mirrored"],
        )
    except InvalidName:
        return None
