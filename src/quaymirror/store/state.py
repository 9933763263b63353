"""What earlier runs knew: a SQLite database inside the mirror.

A row in `image` is the proof that an image is complete and durable; `index.json` is written from these rows. The
database is a memory and never the truth about bytes: what it says of a file is believed only if the file is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InvalidName, StoreError
from ..oci import Descriptor, Digest
from . import fsops
from .database import Connection, Format, Row, database_errors, memory_database, open_database
from .records import AbsentImage, DiscoverySnapshot, ImageRecord

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
) WITHOUT ROWID;
CREATE TABLE blob (
    id            INTEGER PRIMARY KEY,
    digest        TEXT NOT NULL UNIQUE,
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    verified      REAL NOT NULL       -- POSIX time when its bytes were last hashed
);
CREATE TABLE content (                -- what a root needs to be whole, itself included
    root          TEXT NOT NULL,
    platforms     TEXT NOT NULL,
    blob          INTEGER NOT NULL REFERENCES blob(id),
    PRIMARY KEY (root, platforms, blob)
) WITHOUT ROWID;
"""

# What pruning has to remember between runs.
_PRUNING = """
CREATE TABLE discovery (              -- the last look at each selection
    scope         TEXT PRIMARY KEY,   -- quay.io kolla/*:2025.1-debian
    complete      INTEGER NOT NULL,   -- whether it saw everything
    authenticated INTEGER NOT NULL,   -- whether this one or an earlier one saw it with an API token
    covered       INTEGER NOT NULL    -- how many images here the selection covers
) WITHOUT ROWID;
CREATE TABLE gone (                   -- images that complete looks did not find any more
    name          TEXT PRIMARY KEY,
    scope         TEXT NOT NULL,
    since         REAL NOT NULL,      -- POSIX time of the first of these looks
    seen          REAL NOT NULL       -- and of the last one
) WITHOUT ROWID;
CREATE TABLE orphan (                 -- blobs that nothing here needs
    digest        TEXT PRIMARY KEY,
    since         REAL NOT NULL       -- POSIX time when that was first noticed
) WITHOUT ROWID;
"""

# Which images need a blob: asked for each blob that is pushed, and for each that may go.
_HOLDERS = "CREATE INDEX content_by_blob ON content (blob); CREATE INDEX image_by_root ON image (root, platforms);"

# More places to mount a blob from are of no use.
_MAX_HOLDERS = 4
# The number is "QMir".
FORMAT = Format(0x514D6972, (_TABLES, _PRUNING, _HOLDERS))


class State:
    """The open database. Its methods block and are not for two threads at a time.

    Every method raises `StoreError` when the disk fails.
    """

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, sync: bool = True) -> tuple[State, str | None]:
        """Open the database at `path`, creating it; return it with a notice if a damaged one had to be set aside.

        Without `sync`, commits are safe against a killed process only, not against power loss.

        :raises ConfigError: when a newer quaymirror wrote it.
        :raises StoreError: when it can't be opened or created.
        """
        connection, notice = open_database(path, FORMAT, read_only=read_only, sync=sync)
        if notice and not read_only:
            notice = f"{notice}; every blob is checked again before it is used"

        return cls(connection, path), notice

    @classmethod
    def empty(cls) -> State:
        """Return a state that knows nothing and is nowhere."""
        return cls(memory_database(FORMAT), Path(":memory:"))

    def image(self, name: str) -> ImageRecord | None:
        """Return what is recorded under `name`; a row that makes no sense, as no checksum guards it, is none."""
        with database_errors(self._path):
            row = self._connection.execute("SELECT * FROM image WHERE name = ?", (name,)).fetchone()

        return self._record(row) if row else None

    def images(self) -> list[ImageRecord]:
        """Return every recorded image, by name, without its contents."""
        with database_errors(self._path):
            rows = self._connection.execute("SELECT * FROM image ORDER BY name").fetchall()

        return [record for row in rows if (record := _image(row, ())) is not None]

    def verified(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those of `digests` whose bytes have been hashed when they were stored or since."""
        query = "SELECT 1 FROM blob WHERE digest = ?"
        with database_errors(self._path):
            return {digest for digest in digests if self._connection.execute(query, (str(digest),)).fetchone()}

    def holders(self, digests: Iterable[Digest]) -> dict[Digest, list[str]]:
        """Return the names of images that need each of `digests`, a few at most; none for what no image needs."""
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
        """Record images, all or none of them: from then on they count as mirrored."""
        with self._transaction():
            for record in records:
                self._insert(record)

    def record_discovery(self, snapshot: DiscoverySnapshot) -> bool:
        """Remember a discovery; tell whether it counts: an anonymous one does not after one with a token."""
        with self._transaction():
            execute = self._connection.execute
            before = execute("SELECT authenticated FROM discovery WHERE scope = ?", (snapshot.scope,)).fetchone()
            had_token = bool(before and before["authenticated"])
            counts = snapshot.complete and (snapshot.authenticated or not had_token)
            authenticated = had_token or (snapshot.complete and snapshot.authenticated)
            execute(
                "INSERT OR REPLACE INTO discovery VALUES (?, ?, ?, ?)",
                (snapshot.scope, counts, authenticated, len(snapshot.found | snapshot.absent)),
            )
            self._connection.executemany("DELETE FROM gone WHERE name = ?", [(name,) for name in snapshot.found])
            if counts:
                self._connection.executemany(
                    "INSERT INTO gone VALUES (:name, :scope, :moment, :moment)"
                    " ON CONFLICT (name) DO UPDATE SET scope = :scope, since = min(since, :moment), seen = :moment",
                    [
                        {"name": name, "scope": snapshot.scope, "moment": snapshot.moment}
                        for name in sorted(snapshot.absent)
                    ],
                )

        return counts

    def absent_images(self) -> list[AbsentImage]:
        """Return the recorded images that were not found any more, by name."""
        query = """
            SELECT gone.*, root, (SELECT sum(blob.size) FROM content JOIN blob ON blob.id = blob
                WHERE content.root = image.root AND content.platforms = image.platforms) AS bytes,
                discovery.complete, discovery.covered
            FROM gone JOIN image USING (name) LEFT JOIN discovery USING (scope) ORDER BY name
        """
        with database_errors(self._path):
            rows = self._connection.execute(query).fetchall()

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
            for row in rows
        ]

    def contents(self, *, without: Iterable[str] = ()) -> dict[Digest, set[Digest]]:
        """Return what every recorded image needs, by its root, but for those named in `without`."""
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
        """Return the blobs that nothing needed when somebody last looked, and since when (POSIX time)."""
        with database_errors(self._path):
            rows = self._connection.execute("SELECT * FROM orphan").fetchall()

        return {self._digest(row["digest"]): row["since"] for row in rows}

    def untag(self, names: Iterable[str], orphans: Iterable[Digest], now: float) -> None:
        """Forget images, and everything of which nothing is needed any more; `orphans` are all blobs that aren't."""
        known, gone = self.orphans(), [(name,) for name in names]
        with self._transaction():
            for table in ("image", "gone"):
                self._connection.executemany(f"DELETE FROM {table} WHERE name = ?", gone)  # noqa: S608

            self._connection.execute("DELETE FROM gone WHERE name NOT IN (SELECT name FROM image)")
            self._connection.execute(
                "DELETE FROM content WHERE (root, platforms) NOT IN (SELECT root, platforms FROM image)"
            )
            self._connection.execute("DELETE FROM blob WHERE id NOT IN (SELECT blob FROM content)")
            self._connection.execute("DELETE FROM orphan")
            self._connection.executemany(
                "INSERT INTO orphan VALUES (?, ?)",
                [(str(digest), known.get(digest, now)) for digest in sorted(orphans)],
            )

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _digest(self, text: str) -> Digest:
        """For who removes: what a row means that makes no sense may still be needed."""
        try:
            return Digest.parse(text)
        except InvalidName:
            raise StoreError(
                f"can't use {self._path}: a row of it makes no sense; move it away, then verify --repair-state"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with database_errors(self._path), fsops.step("commit", self._path), self._connection:
            yield

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

    def _record(self, row: Row) -> ImageRecord | None:
        query = "SELECT blob.* FROM content JOIN blob ON blob.id = blob WHERE root = ? AND platforms = ?"
        with database_errors(self._path):
            rows = self._connection.execute(query, (row["root"], row["platforms"])).fetchall()

        record = _image(row, rows)
        # What needs nothing, not even its root, would be complete whatever is there.
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
