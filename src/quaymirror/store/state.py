"""The state of a mirror: a SQLite database inside of it.

A row in `image` proves that an image is complete and durable; `index.json` is written from these rows. The database is
not the truth about bytes: a verified blob counts only if its file exists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ..oci import Digest, Reference
from . import fsops
from .database import Connection, Row, database_errors, open_database
from .detail_tables import DetailTables
from .records import AbsentImage, Attachment, DiscoverySnapshot, ImageRecord, ReferrerRecord
from .referrer_tables import ReferrerTables
from .schema import FORMAT
from .snapshot_tables import IMAGES, image_of
from .verdict_tables import VerdictTables

# Repositories to mount a blob from: more of them are of no use.
_MAX_HOLDERS = 4


class State(ReferrerTables, VerdictTables, DetailTables):
    """The open state; see `Database`."""

    @classmethod
    def open(
        cls, path: Path, *, read_only: bool = False, sync: bool = True, check: bool = True
    ) -> tuple[State, str | None]:
        """Open the state at `path`; return it with a notice; see `open_database`."""
        connection, notice = open_database(path, FORMAT, read_only=read_only, sync=sync, check=check)
        if notice and not read_only:
            notice = f"{notice}; every blob is verified again before it is used"

        return cls(connection, path), notice

    def image(self, name: str, *, doubted: bool = False) -> ImageRecord | None:
        """Return the record of the image called `name`, None if it is missing or makes no sense.

        An image with content that is in doubt, or was never verified, is returned only with `doubted`.
        """
        rows = self._query(f"{IMAGES} WHERE name = ?", name)
        return self._record(rows[0], doubted=doubted) if rows else None

    def attached(self, references: Iterable[Reference]) -> dict[Reference, list[ReferrerRecord]]:
        """Return the referrers of recorded images, and the referrers of those, without any that the source lacks.

        Images that are not recorded with the digest of their reference are left out.
        """
        by_subject: defaultdict[Digest, list[ReferrerRecord]] = defaultdict(list)
        for each in self.referrers_at(None):
            by_subject[each.subject].append(each)

        found = {}
        for reference in references:
            record = self.image(reference.name)
            if record is not None and record.root.digest == reference.digest:
                found[reference] = _below(reference.repository.name, record, lambda subject: by_subject[subject])

        return found

    def attached_to(self, repository: str, record: ImageRecord) -> list[ReferrerRecord]:
        """Return the referrers of one image of `repository`; see `attached`."""
        return _below(repository, record, self.referrers)

    def records(self) -> list[ImageRecord]:
        """Return the records of all images that `image` would return, sorted by name."""
        return [record for each in self.images() if (record := self.image(each.name)) is not None]

    def image_count(self) -> int:
        """Return the number of recorded images."""
        count: int = self._query("SELECT count(*) AS count FROM image")[0]["count"]
        return count

    def usage(self) -> tuple[int, int]:
        """Return the number of recorded images, and the bytes of everything that they need."""
        query = """
            SELECT (SELECT count(*) FROM image), (SELECT coalesce(sum(size), 0) FROM blob
                WHERE id IN (SELECT blob FROM content JOIN image USING (version)))
        """
        row = self._query(query)[0]
        return row[0], row[1]

    def verified(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those of `digests` whose blobs were verified when they were stored, or later."""
        query = "SELECT 1 FROM blob WHERE digest = ? AND verified > 0"
        with database_errors(self._path):
            return {digest for digest in digests if self._connection.execute(query, (str(digest),)).fetchone()}

    def blob_sizes(self) -> dict[str, int]:
        """Return the sizes of all blobs that were stored for recorded images, by digest."""
        return {row["digest"]: row["size"] for row in self._query("SELECT digest, size FROM blob")}

    def roots_with(self, digests: Iterable[str]) -> frozenset[str]:
        """Return the digests of the roots of all images that need any of `digests`."""
        query = """
            SELECT DISTINCT version.root FROM blob
            JOIN content ON content.blob = blob.id
            JOIN version ON version.id = content.version
            WHERE blob.digest = ?
        """
        return frozenset(row["root"] for one in digests for row in self._query(query, one))

    def holders(self, digests: Iterable[Digest]) -> dict[Digest, list[str]]:
        """Return the names of a few images that need each of `digests`, for those that any image needs."""
        query = """
            SELECT image.name FROM blob
            JOIN content ON content.blob = blob.id
            JOIN image USING (version)
            WHERE blob.digest = ? LIMIT ?
        """
        found = {}
        with database_errors(self._path):
            for digest in digests:
                if names := [row[0] for row in self._connection.execute(query, (str(digest), _MAX_HOLDERS))]:
                    found[digest] = names

        return found

    def doubt(self, digests: Iterable[Digest]) -> None:
        """Record that content was found damaged or missing, until an image with it is recorded again."""
        with self._transaction() as connection:
            connection.executemany("UPDATE blob SET verified = 0 WHERE digest = ?", [(str(one),) for one in digests])

    def doubted(self) -> frozenset[Digest]:
        """Return the content that `doubt` was called for."""
        return frozenset(
            self.digest(row["digest"]) for row in self._query("SELECT digest FROM blob WHERE verified = 0")
        )

    def forget(self, names: Iterable[str]) -> None:
        """Delete the records of images, and of content that nothing else needs."""
        self.untag(names)
        with self._transaction() as connection:
            self.delete_unneeded(connection)

    def commit(self, records: Iterable[ImageRecord], attachments: Iterable[Attachment] = ()) -> None:
        """Record images with their referrers, and referrers of others; all or none. They count as mirrored then."""
        with self._transaction() as connection:
            for record in records:
                self._insert(record)
                if record.attached is not None:
                    self.insert_attachment(connection, record.attached)

            for attachment in attachments:
                self.insert_attachment(connection, attachment)

    def record_discovery(self, snapshot: DiscoverySnapshot) -> bool:
        """Record a discovery. Return True if it counts: an anonymous one does not after one with credentials."""
        with self._transaction() as connection:
            before = connection.execute(
                "SELECT authenticated FROM discovery WHERE scope = ?", (snapshot.scope,)
            ).fetchone()
            had_token = bool(before and before["authenticated"])
            counts = snapshot.complete and (snapshot.authenticated or not had_token)
            authenticated = had_token or snapshot.authenticated
            connection.execute(
                "INSERT OR REPLACE INTO discovery VALUES (?, ?, ?, ?)",
                (snapshot.scope, counts, authenticated, len(snapshot.found | snapshot.absent)),
            )
            connection.executemany("DELETE FROM gone WHERE name = ?", [(name,) for name in snapshot.found])
            if counts and not self.is_set_back(snapshot.moment):
                connection.executemany(
                    "INSERT INTO gone VALUES (?1, ?2, ?3, ?3)"
                    " ON CONFLICT (name) DO UPDATE SET scope = ?2, since = min(since, ?3), seen = ?3",
                    [(name, snapshot.scope, snapshot.moment) for name in sorted(snapshot.absent)],
                )

        return counts

    def repositories(self) -> set[str]:
        """Return the repositories, with their registries, that the recorded images are from."""
        rows = self._query("SELECT registry, name FROM image JOIN version ON version.id = image.version")
        return {f"{row['registry']}/{row['name'].partition('@')[0].rpartition(':')[0]}" for row in rows}

    def absent_images(self) -> list[AbsentImage]:
        """Return the recorded images that were not found any more, sorted by name."""
        query = """
            SELECT gone.*, root, (SELECT sum(blob.size) FROM content JOIN blob ON blob.id = blob
                WHERE content.version = image.version) AS bytes, discovery.complete, discovery.covered
            FROM gone JOIN image USING (name) JOIN version ON version.id = image.version
                LEFT JOIN discovery USING (scope) ORDER BY name
        """
        return [
            AbsentImage(
                name=row["name"],
                root=self.digest(row["root"]),
                size=row["bytes"] or 0,
                scope=row["scope"],
                since=row["since"],
                seen=row["seen"],
                covered=row["covered"] or 0,
                uncertain_because="" if row["complete"] else f"the last discovery of {row['scope']} was not complete",
            )
            for row in self._query(query)
        ]

    def orphans(self) -> dict[Digest, float]:
        """Return the blobs that no image needed at the last pruning, with the time when that was first noticed."""
        return {self.digest(row["digest"]): row["since"] for row in self._query("SELECT * FROM orphan")}

    def untag(self, names: Iterable[str]) -> None:
        """Delete images by name."""
        rows = [(name,) for name in names]
        with self._transaction() as connection:
            # The index leaves out former names only: others may be those of other tools.
            connection.executemany("INSERT INTO name (name) VALUES (?) ON CONFLICT DO NOTHING", rows)
            connection.executemany("DELETE FROM image WHERE name = ?", rows)
            connection.executemany("DELETE FROM gone WHERE name = ?", rows)

    def forget_unneeded(self, orphans: Iterable[Digest], now: float) -> None:
        """Delete everything that no image and no kept snapshot needs; `orphans` are all blobs that none needs."""
        known, is_set_back = self.orphans(), self.is_set_back(now)
        with self._transaction() as connection:
            self.delete_unneeded(connection)
            connection.execute("DELETE FROM orphan")
            connection.executemany(
                "INSERT INTO orphan VALUES (?, ?)",
                [
                    (str(digest), known.get(digest, now))
                    for digest in sorted(orphans)
                    if digest in known or not is_set_back
                ],
            )

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        context = nullcontext() if self._is_changing else fsops.step("commit", self._path)
        with context, super()._transaction() as connection:
            yield connection

    def _insert(self, record: ImageRecord) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?)",
            (record.name, self.add_version(record), record.mirrored, record.run),
        )

    def _record(self, row: Row, *, doubted: bool) -> ImageRecord | None:
        query = "SELECT blob.* FROM content JOIN blob ON blob.id = blob WHERE version = ?"
        contents = self._query(query, row["version"])
        record = image_of(row, contents) if doubted or all(blob["verified"] for blob in contents) else None
        # An image without contents, not even its root, would always be complete.
        return record if record is not None and record.root.digest in {n.digest for n in record.contents} else None


def read_attached(path: Path, references: Iterable[Reference]) -> dict[Reference, list[ReferrerRecord]]:
    """Return `State.attached` of the state at `path`, nothing without one.

    :raises StoreError: if it can't be read.
    """
    if not fsops.exists(path):
        return {}

    state, _ = State.open(path, read_only=True, check=False)
    try:
        return state.attached(references)
    finally:
        state.close()


def read_missing(path: Path) -> list[ReferrerRecord]:
    """Return the referrers that the source lacks, by the state at `path`; nothing without one.

    :raises StoreError: if it can't be read.
    """
    if not fsops.exists(path):
        return []

    state, _ = State.open(path, read_only=True, check=False)
    try:
        return state.missing_referrers(0.0)
    finally:
        state.close()


def _below(
    repository: str, record: ImageRecord, referrers: Callable[[Digest], Sequence[ReferrerRecord]]
) -> list[ReferrerRecord]:
    """Return what refers to the manifests of an image in its repository, and to that."""
    found: list[ReferrerRecord] = []
    subjects = record.manifests
    seen = set(subjects)
    for subject in subjects:  # which grows
        new = [each for each in referrers(subject) if each.repository == repository and each.missing is None]
        found += new
        subjects += {each.root.digest for each in new} - seen
        seen.update(subjects)

    return found
