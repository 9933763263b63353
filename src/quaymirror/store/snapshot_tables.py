"""The part of the state about sets of images: versions, snapshots, holds, and the content that they need."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace

from ..errors import InvalidName, StoreError
from ..oci import Descriptor, Digest
from .database import Connection, Database, Row, database_errors
from .records import Hold, ImageRecord, Snapshot, Span

# The end of a member that is in the latest snapshot: the largest integer that JSON readers keep, too.
_OPEN = 2**53 - 1
# Clocks of several machines differ by less.
_CLOCK_SECONDS = 300.0
_CONTRADICTED_SECONDS = 14 * 86_400.0
_MEMBERS = """
    SELECT name.name, registry, CASE source WHEN '' THEN root ELSE source END AS source, platforms, root, media_type,
        size, 0.0 AS mirrored, '' AS run, version
    FROM member JOIN name ON name.id = member.name JOIN version ON version.id = member.version
    WHERE until > ?1 AND since <= ?1
"""
IMAGES = """
    SELECT name, registry, CASE source WHEN '' THEN root ELSE source END AS source, platforms, root, media_type, size,
        mirrored, run, version
    FROM image JOIN version ON version.id = image.version
"""
# Versions that images, kept snapshots and their referrers need; a snapshot's members are kept with it.
_NEEDED = """
    WITH RECURSIVE needed(version) AS (
        SELECT version FROM image WHERE name NOT IN (SELECT name FROM temp.unwanted)
        UNION SELECT version FROM member WHERE EXISTS (
            SELECT 1 FROM snapshot WHERE dropped IS NULL AND number >= since AND number < until
            AND number NOT IN (SELECT number FROM temp.unwanted_snapshot))
        UNION SELECT referrer.version FROM needed JOIN content USING (version)
            JOIN referrer ON referrer.subject = content.blob
    )
"""


class SnapshotTables(Database):
    """Versions, snapshots, holds; see `Database`."""

    def snapshots(self) -> list[Snapshot]:
        """Return every snapshot, the oldest first, also those whose content is dropped."""
        return [_snapshot(row) for row in self._query("SELECT * FROM snapshot ORDER BY number")]

    def latest_moment(self) -> float:
        """Return the latest POSIX time of a snapshot, which a right clock has passed, 0.0 without snapshots.

        A later date does not count if snapshots of two weeks contradict it: then that one was wrong.
        """
        moments = [each.created for each in self.snapshots()]
        latest = first = moments[-1] if moments else 0.0
        for moment in reversed(moments):
            if moment <= latest:
                first = min(first, moment)
            elif latest - first < _CONTRADICTED_SECONDS:
                latest = first = moment

        return latest

    def is_set_back(self, now: float) -> bool:
        """Return True if `now` can't be right: what begins to age at such a time would be too old soon."""
        return now + _CLOCK_SECONDS < self.latest_moment()

    def latest_snapshot(self) -> Snapshot | None:
        """Return the latest snapshot, None if none was made."""
        rows = self._query("SELECT * FROM snapshot ORDER BY number DESC LIMIT 1")
        return _snapshot(rows[0]) if rows else None

    def members(self, number: int) -> list[ImageRecord]:
        """Return the images of snapshot `number` without their contents, sorted by name."""
        return _records(self._query(f"{_MEMBERS} ORDER BY name.name", number))

    def member_versions(self, number: int) -> dict[str, int]:
        """Return the versions of snapshot `number` by name."""
        return {row["name"]: row["version"] for row in self._query(_MEMBERS, number)}

    def image_versions(self) -> dict[str, int]:
        """Return the versions of the recorded images by name."""
        return {row["name"]: row["version"] for row in self._query("SELECT name, version FROM image")}

    def former_names(self) -> set[str]:
        """Return every name that any snapshot has or had."""
        return {row["name"] for row in self._query("SELECT name FROM name")}

    def published(self) -> int | None:
        """Return the number of the snapshot that readers see, 0 for no images; None if they see the recorded ones."""
        rows = self._query("SELECT snapshot FROM publication")
        return rows[0]["snapshot"] if rows else None

    def publish(self, number: int | None) -> None:
        """Let readers see a snapshot until the next call; see `published`."""
        if number != self.published():
            with self._transaction() as connection:
                _publish(connection, number)

    def visible_images(self) -> list[ImageRecord]:
        """Return the images that readers see, without their contents, sorted by name."""
        number = self.published()
        return self.images() if number is None else self.members(number)

    def images(self) -> list[ImageRecord]:
        """Return every recorded image without its contents, sorted by name."""
        return _records(self._query(f"{IMAGES} ORDER BY name"))

    def add_snapshot(self, snapshot: Snapshot, versions: Mapping[str, int], *, publishes: bool = False) -> Snapshot:
        """Record a snapshot of `versions` (by name), and return it with its number.

        Readers see it from now on if `publishes`, otherwise the recorded images.
        """
        with self._transaction() as connection:
            latest = self.latest_snapshot()
            number = snapshot.number or (latest.number + 1 if latest else 1)
            before = self.member_versions(latest.number) if latest else {}
            ended = [name for name, version in before.items() if versions.get(name) != version]
            begun = [(name, version) for name, version in versions.items() if before.get(name) != version]
            connection.executemany(
                "UPDATE member SET until = ? WHERE until = ? AND name = (SELECT id FROM name WHERE name = ?)",
                [(number, _OPEN, name) for name in ended],
            )
            connection.executemany(
                "INSERT INTO name (name) VALUES (?) ON CONFLICT DO NOTHING", [(n,) for n, _ in begun]
            )
            connection.executemany(
                "INSERT INTO member SELECT id, ?, ?, ? FROM name WHERE name = ?",
                [(number, _OPEN, version, name) for name, version in begun],
            )
            numbered = replace(snapshot, number=number, images=len(versions))
            _insert(connection, numbered)
            _publish(connection, number if publishes else None)

        return numbered

    def restore_snapshot(self, snapshot: Snapshot, images: Iterable[ImageRecord]) -> None:
        """Record a numbered snapshot, later than all others, from elsewhere; without all contents it is dropped."""
        images, now = list(images), time.time()
        if not all(record.contents for record in images):
            snapshot = replace(snapshot, dropped=snapshot.dropped or now)

        with self._transaction():
            versions = {record.name: self.add_version(record, verified=False) for record in images}

        published = self.published()
        self.add_snapshot(snapshot, versions)
        self.publish(published)

    def restore_images(self) -> None:
        """Record the images of the latest snapshot whose contents are known."""
        latest = self.latest_snapshot()
        versions = self.member_versions(latest.number) if latest else {}
        known = self.contents_of(versions.values())
        self.replace_images({name: version for name, version in versions.items() if known[version]})

    def update_snapshots(self, snapshots: Iterable[Snapshot]) -> None:
        """Record new labels, protections and times of drops."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE snapshot SET label = ?, protected = ?, dropped = ? WHERE number = ?",
                [(each.label, each.protected, each.dropped, each.number) for each in snapshots],
            )

    def replace_images(self, versions: Mapping[str, int | None]) -> None:
        """Let names stand for these versions, for none if it is None."""
        now = time.time()
        with self._transaction() as connection:
            rows = [(name,) for name in versions]
            connection.executemany("INSERT INTO name (name) VALUES (?) ON CONFLICT DO NOTHING", rows)
            connection.executemany("DELETE FROM image WHERE name = ?", rows)
            connection.executemany(
                "INSERT INTO image VALUES (?, ?, ?, '')",
                [(name, version, now) for name, version in versions.items() if version is not None],
            )

    def holds(self) -> list[Hold]:
        """Return the held names, sorted."""
        return [
            Hold(row["name"], row["reason"], row["since"]) for row in self._query("SELECT * FROM hold ORDER BY name")
        ]

    def hold(self, names: Iterable[str], reason: str, now: float) -> None:
        """Hold `names` from now on; those held already keep their time."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO hold VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET reason = ?2",
                [(name, reason, now) for name in names],
            )

    def unhold(self, names: Iterable[str]) -> None:
        """Hold `names` no longer."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM hold WHERE name = ?", [(name,) for name in names])

    def held_before(self, name: str, source: Digest) -> bool:
        """Return True if earlier snapshots had the image with this digest at the source, and the latest one has not."""
        query = """
            SELECT max(until) FROM member JOIN name ON name.id = member.name JOIN version ON version.id = member.version
            WHERE name.name = ?1 AND ?2 IN (version.source, version.root) AND (version.source IN ('', ?2))
        """
        until = self._query(query, name, str(source))[0][0]
        return until is not None and until < _OPEN

    def contents_of(self, versions: Iterable[int]) -> dict[int, list[Descriptor]]:
        """Return everything that each of `versions` needs, as far as it is still recorded."""
        query = "SELECT blob.* FROM content JOIN blob ON blob.id = content.blob WHERE version = ?"
        with database_errors(self._path):
            found = {version: self._connection.execute(query, (version,)).fetchall() for version in versions}

        return {
            version: [Descriptor(row["media_type"], self.digest(row["digest"]), row["size"]) for row in rows]
            for version, rows in found.items()
        }

    def needed(self, *, without: Collection[str] = (), without_snapshots: Collection[int] = ()) -> dict[Digest, int]:
        """Return the blobs, with sizes, that images, kept snapshots and referrers of these need.

        The images named in `without`, and the snapshots with the numbers in `without_snapshots`, don't count.
        """
        query = f"""
            {_NEEDED} SELECT digest, size FROM blob WHERE id IN (SELECT blob FROM content JOIN needed USING (version))
        """  # noqa: S608
        with self._transaction():
            _leave_out(self._connection, without, without_snapshots)
            rows = self._connection.execute(query).fetchall()
            return {self.digest(row["digest"]): row["size"] for row in rows}

    def spans(self) -> list[Span]:
        """Return the blobs of all snapshots, and of the recorded images, which come after the latest snapshot."""
        query = """
            SELECT content.blob, blob.size, since, min(until, ?1) FROM member JOIN content USING (version)
                JOIN blob ON blob.id = content.blob
            UNION ALL SELECT content.blob, blob.size, ?1, ?1 + 1 FROM image JOIN content USING (version)
                JOIN blob ON blob.id = content.blob
        """
        latest = self.latest_snapshot()
        return [Span(*row) for row in self._query(query, latest.number + 1 if latest else 1)]

    def delete_unneeded(self, connection: Connection) -> None:
        """Delete contents, referrers and blobs that nothing needs any more. Names and digests of snapshots stay."""
        _leave_out(connection, (), ())
        connection.execute("DROP TABLE IF EXISTS temp.kept")
        connection.execute(f"CREATE TEMP TABLE kept AS {_NEEDED} SELECT version FROM needed")  # noqa: S608
        connection.execute("DELETE FROM content WHERE version NOT IN (SELECT version FROM temp.kept)")
        connection.execute("DELETE FROM referrer WHERE version NOT IN (SELECT version FROM temp.kept)")
        connection.execute(
            "DELETE FROM version WHERE id NOT IN (SELECT version FROM temp.kept)"
            " AND id NOT IN (SELECT version FROM member)"
        )
        connection.execute(
            "DELETE FROM blob WHERE id NOT IN (SELECT blob FROM content) AND id NOT IN (SELECT subject FROM referrer)"
        )

    def add_version(self, record: ImageRecord, *, verified: bool = True) -> int:
        """Record the version that `record` has, with its contents, within a transaction; return its id.

        Without `verified`, contents that are not known yet are verified before they are used.
        """
        source = "" if record.source == record.root.digest else str(record.source)
        key = (str(record.root.digest), record.platforms, record.registry, source)
        found = self._connection.execute(
            "SELECT id FROM version WHERE root = ? AND platforms = ? AND registry = ? AND source = ?", key
        ).fetchone()
        version: int = found["id"] if found else self._new_version(key, record.root)
        added = 0
        for node in record.contents:
            self._connection.execute(
                "INSERT INTO blob (digest, media_type, size, verified) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET verified = excluded.verified WHERE verified = 0.0",
                (str(node.digest), node.media_type, node.size, record.mirrored if verified else 0.0),
            )
            added += self._connection.execute(
                "INSERT OR IGNORE INTO content SELECT ?, id FROM blob WHERE digest = ?", (version, str(node.digest))
            ).rowcount

        if added:
            # Of a set that has this version, the sizes are others now; ids of deleted versions are used again.
            self._connection.execute("DELETE FROM set_size")

        return version

    def digest(self, text: str) -> Digest:
        """Return the digest in a row. It is used by deletion: a row that can't be read may still need its content.

        :raises StoreError: if it is none.
        """
        try:
            return Digest.parse(text)
        except InvalidName:
            raise StoreError(
                f"can't use {self._path}: a row of it makes no sense; move it away, then use verify --repair-state"
            ) from None

    def _new_version(self, key: tuple[str, str, str, str], root: Descriptor) -> int:
        digest, platforms, registry, source = key
        cursor = self._connection.execute(
            "INSERT INTO version (registry, source, platforms, root, media_type, size) VALUES (?, ?, ?, ?, ?, ?)",
            (registry, source, platforms, digest, root.media_type, root.size),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid


def image_of(row: Row, contents: Iterable[Row] = ()) -> ImageRecord | None:
    """Return the record of an image, None if it makes no sense."""
    try:
        root = Digest.parse(row["root"])
        return ImageRecord(
            name=row["name"],
            registry=row["registry"],
            source=root if row["source"] == row["root"] else Digest.parse(row["source"]),
            root=Descriptor(row["media_type"], root, row["size"]),
            contents=tuple(Descriptor(b["media_type"], Digest.parse(b["digest"]), b["size"]) for b in contents),
            platforms=row["platforms"],
            run=row["run"],
            mirrored=row["mirrored"],
        )
    except InvalidName:
        return None


def _records(rows: Iterable[Row]) -> list[ImageRecord]:
    return [record for row in rows if (record := image_of(row)) is not None]


def _snapshot(row: Row) -> Snapshot:
    values = {**row, "protected": bool(row["protected"]), "complete": bool(row["complete"])}
    return Snapshot(**values)


def _insert(connection: Connection, each: Snapshot) -> None:
    connection.execute(
        "INSERT INTO snapshot (number, id, created, run, cause, label, protected, complete, images, dropped)"
        " VALUES (:number, :id, :created, :run, :cause, :label, :protected, :complete, :images, :dropped)",
        asdict(each),
    )


def _publish(connection: Connection, number: int | None) -> None:
    connection.execute("DELETE FROM publication")
    if number is not None:
        connection.execute("INSERT INTO publication VALUES (1, ?)", (number,))


def _leave_out(connection: Connection, names: Collection[str], numbers: Collection[int]) -> None:
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS unwanted (name TEXT PRIMARY KEY)")
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS unwanted_snapshot (number INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM temp.unwanted")
    connection.execute("DELETE FROM temp.unwanted_snapshot")
    connection.executemany("INSERT INTO temp.unwanted VALUES (?)", [(name,) for name in names])
    connection.executemany("INSERT INTO temp.unwanted_snapshot VALUES (?)", [(number,) for number in numbers])
