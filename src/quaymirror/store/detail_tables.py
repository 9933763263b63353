"""The part of the state for listings: sizes, platforms and dates of all images at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..oci import Digest
from .records import ListedReferrer, MirroredImage
from .snapshot_tables import SnapshotTables

_Sizes = dict[int, tuple[int, int]]

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
# With types that a damaged file can't change.
_LISTED = """
    WITH shown AS ({shown})
    SELECT name, registry, root, media_type, CAST(detail.platforms AS TEXT), CAST(created AS TEXT),
        CAST(mirrored AS REAL), shown.version FROM shown
        JOIN version ON version.id = shown.version LEFT JOIN detail ON detail.version = shown.version
"""
_RECORDED_SIZES = "SELECT version, names, CAST(size AS INTEGER), CAST(own_size AS INTEGER) FROM version_size"
# From referrers to the images: there are fewer of them than blobs.
_ATTACHED = """
    SELECT DISTINCT content.version, referrer.version, root, subject.digest,
        CAST(artifact_type AS TEXT) AS artifact_type, CAST(tag AS TEXT) AS tag
    FROM referrer JOIN content ON content.blob = referrer.subject JOIN blob AS subject ON subject.id = referrer.subject
        JOIN version ON version.id = referrer.version
    ORDER BY tag, artifact_type, root
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
        rows = self._query(_LISTED.format(shown=shown), *values)
        sizes, total = self._sizes(number, Counter(row["version"] for row in rows))
        attached = self._attached()
        found = {}
        for name, registry, root, media_type, platforms, created, mirrored, version in rows:
            if version in sizes:
                several = tuple(platforms.split(",")) if platforms else ()
                image = MirroredImage(
                    name, registry, root, media_type, *sizes[version], several, created or "", mirrored
                )
                found[name] = image._replace(referrers=tuple(_below(version, attached))) if attached else image

        return found, *total

    def _attached(self) -> dict[int, list[tuple[int, ListedReferrer]]]:
        """Return the referrers of each version, with their own versions."""
        found: dict[int, list[tuple[int, ListedReferrer]]] = {}
        for holder, version, *referrer in self._query(_ATTACHED):
            found.setdefault(holder, []).append((version, ListedReferrer(*referrer)))

        return found

    def record_sizes(self) -> None:
        """Record the sizes of the images that readers see, unless they are recorded: then listings need not add up."""
        number = self.published()
        shown, values = _shown(number)
        names = Counter(row["version"] for row in self._query(shown, *values))
        if self._recorded_sizes(names) is None:
            sizes, total = self._sizes(number, names)
            with self._transaction() as connection:
                connection.execute("DELETE FROM version_size")
                rows = [(version, names[version], *both) for version, both in sizes.items()]
                connection.executemany("INSERT INTO version_size VALUES (?, ?, ?, ?)", rows)
                connection.execute("INSERT OR REPLACE INTO set_size VALUES (1, ?, ?)", total)

    def _sizes(self, number: int | None, names: Mapping[int, int]) -> tuple[_Sizes, tuple[int, int]]:
        """Return size and own size of the versions of a set, and the number and bytes of all blobs."""
        if (recorded := self._recorded_sizes(names)) is not None:
            return recorded

        shown, values = _shown(number)
        whole = dict[int, int](map(tuple, self._query(_SIZES.format(shown=shown), *values)))
        own = dict[int, int](map(tuple, self._query(_OWN_SIZES.format(shown=shown), *values)))
        blobs, total = self._query(_TOTAL.format(shown=shown), *values)[0]
        return {version: (size, own.get(version, 0)) for version, size in whole.items()}, (blobs, total)

    def _recorded_sizes(self, names: Mapping[int, int]) -> tuple[_Sizes, tuple[int, int]] | None:
        """Return the recorded sizes, None if they are those of another set."""
        total = self._query("SELECT CAST(blobs AS INTEGER), CAST(bytes AS INTEGER) FROM set_size")
        rows = self._query(_RECORDED_SIZES) if total else []
        if not total or {version: count for version, count, _, _ in rows} != names:
            return None

        return {version: (size, own) for version, _, size, own in rows}, (total[0][0], total[0][1])

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


def _below(
    version: int, attached: Mapping[int, Sequence[tuple[int, ListedReferrer]]], seen: frozenset[int] = frozenset()
) -> Iterator[ListedReferrer]:
    """Yield the referrers of a version, and the referrers of these."""
    for own, referrer in attached.get(version, ()):
        yield referrer
        if own not in seen:
            yield from _below(own, attached, seen | {version, own})


def _shown(number: int | None) -> tuple[str, tuple[int, ...]]:
    return (_RECORDED, ()) if number is None else (_MEMBERS, (number,))
