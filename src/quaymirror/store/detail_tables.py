"""The part of the state for listings: sizes, platforms and dates of all images at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..oci import Digest
from .records import MirroredImage
from .snapshot_tables import SnapshotTables

# The names of a set with their versions: the recorded images, or those of a snapshot.
_RECORDED = "SELECT name, version, mirrored FROM image"
_MEMBERS = """
    SELECT name.name, version, 0.0 AS mirrored FROM member JOIN name ON name.id = member.name
    WHERE until > ?1 AND since <= ?1
"""
_SIZES = """
    SELECT version, sum(size) AS size FROM content JOIN blob ON blob.id = content.blob
    WHERE version IN (SELECT version FROM ({shown})) GROUP BY version
"""
_OWN_SIZES = """
    WITH own AS (
        SELECT content.blob, version FROM content JOIN ({shown}) USING (version)
        GROUP BY content.blob HAVING count(*) = 1
    )
    SELECT version, sum(size) FROM own JOIN blob ON blob.id = own.blob GROUP BY version
"""
_TOTAL = """
    SELECT count(*), coalesce(sum(size), 0) FROM blob
    WHERE id IN (SELECT blob FROM content WHERE version IN (SELECT version FROM ({shown})))
"""
_LISTED = """
    WITH shown AS ({shown})
    SELECT name, registry, root, media_type, detail.platforms, created, mirrored, shown.version FROM shown
        JOIN version ON version.id = shown.version LEFT JOIN detail ON detail.version = shown.version ORDER BY name
"""
_CONTENT = """
    SELECT count(*), coalesce(sum(size), 0) FROM blob WHERE id IN
        (SELECT blob FROM content WHERE version IN (SELECT version FROM temp.listed))
"""


class DetailTables(SnapshotTables):
    """Listings; see `Database`."""

    def listed_images(self, number: int | None) -> tuple[dict[str, MirroredImage], int, int]:
        """Return the recorded images by name, and the number and the bytes of all blobs that they need.

        With a `number` they are those of that snapshot. Images that are not described yet have
        no platforms.
        """
        shown, values = _shown(number)
        sizes = dict[int, int](map(tuple, self._query(_SIZES.format(shown=shown), *values)))
        own = dict[int, int](map(tuple, self._query(_OWN_SIZES.format(shown=shown), *values)))
        found = {
            name: MirroredImage(
                name,
                registry,
                root,
                media_type,
                sizes[version],
                own.get(version, 0),
                tuple(platforms.split(",")) if platforms else (),
                created or "",
                mirrored,
            )
            for name, registry, root, media_type, platforms, created, mirrored, version in self._query(
                _LISTED.format(shown=shown), *values
            )
            if version in sizes
        }
        return found, *self._query(_TOTAL.format(shown=shown), *values)[0]

    def content_of(self, names: Iterable[str], number: int | None) -> tuple[int, int]:
        """Return the number and the bytes of the blobs that these images of a set need; see `listed_images`."""
        shown, values = _shown(number)
        versions = {name: version for name, version, _ in self._query(shown, *values)}
        with self._transaction() as connection:
            connection.execute("CREATE TEMP TABLE IF NOT EXISTS listed (version INTEGER PRIMARY KEY)")
            connection.execute("DELETE FROM temp.listed")
            rows = {versions[name] for name in names if name in versions}
            connection.executemany("INSERT INTO temp.listed VALUES (?)", [(version,) for version in rows])
            row = connection.execute(_CONTENT).fetchone()
            return row[0], row[1]

    def sizes(self) -> dict[str, int]:
        """Return the bytes that each of the recorded images needs, by name."""
        query = f"SELECT name, size FROM image JOIN ({_SIZES.format(shown=_RECORDED)}) USING (version)"  # noqa: S608
        return dict[str, int](map(tuple, self._query(query)))

    def undescribed(self) -> dict[int, Digest]:
        """Return the roots of the recorded images whose versions have no description."""
        query = """
            SELECT id, root FROM version
            WHERE id IN (SELECT version FROM image) AND id NOT IN (SELECT version FROM detail)
        """
        return {row["id"]: self.digest(row["root"]) for row in self._query(query)}

    def describe(self, details: Mapping[int, tuple[str, str]]) -> None:
        """Record platforms and date of creation of versions."""
        rows = [(version, *detail) for version, detail in details.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO detail VALUES (?, ?, ?)", rows)


def _shown(number: int | None) -> tuple[str, tuple[int, ...]]:
    return (_RECORDED, ()) if number is None else (_MEMBERS, (number,))
