"""The tables of referrers: which manifests refer to which, and when the source was asked for them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..oci import Descriptor, Digest
from .database import Connection, Row
from .records import Attachment, ImageRecord, ReferrerCheck, ReferrerList, ReferrerRecord
from .snapshot_tables import SnapshotTables

_ROWS = """
    SELECT subject.digest AS subject, referrer.repository, referrer.tag, referrer.artifact_type, referrer.annotations,
        referrer.found, referrer.missing, version.id AS version, version.registry, version.root, version.media_type,
        version.size
    FROM referrer JOIN blob AS subject ON subject.id = referrer.subject JOIN version ON version.id = referrer.version
"""
# The referrers of the images that readers see, and the referrers of those.
_VISIBLE = """
    WITH RECURSIVE visible(version) AS (
        {roots}
        UNION SELECT referrer.version FROM visible JOIN content USING (version)
            JOIN referrer ON referrer.subject = content.blob
    )
"""
_OF_VISIBLE = """
    WHERE referrer.subject IN (SELECT blob FROM visible JOIN content USING (version))
    ORDER BY version.root, tag, referrer.repository
"""
_ROOTS = "SELECT version FROM image"
_MEMBERS = "SELECT version FROM member WHERE since <= {number} AND until > {number}"


class ReferrerTables(SnapshotTables):
    """Referrers; see `Database`."""

    def referrers(self, subject: Digest) -> list[ReferrerRecord]:
        """Return the referrers of `subject`, without their contents, sorted by digest and tag."""
        rows = self._query(f"{_ROWS} WHERE subject.digest = ? ORDER BY version.root, tag", str(subject))
        return [self._referrer(row) for row in rows]

    def referrers_of(self, subjects: Iterable[Digest]) -> list[ReferrerRecord]:
        """Return the referrers of all `subjects`; see `referrers`."""
        return [record for subject in subjects for record in self.referrers(subject)]

    def visible_referrers(self) -> list[ReferrerRecord]:
        """Return the referrers of the images that readers see, without their contents, sorted by digest and tag."""
        return self.referrers_at(self.published())

    def referrers_at(self, number: int | None) -> list[ReferrerRecord]:
        """Return the referrers of the images of snapshot `number`, of the recorded images if it is None."""
        if not self._query("SELECT 1 FROM referrer LIMIT 1"):
            return []

        roots = _ROOTS if number is None else _MEMBERS.format(number=int(number))
        query = f"{_VISIBLE.format(roots=roots)} {_ROWS} {_OF_VISIBLE}"
        return [self._referrer(row) for row in self._query(query)]

    def all_referrers(self) -> list[ReferrerRecord]:
        """Return the referrers of all images and kept snapshots, without their contents, sorted by digest and tag."""
        return [self._referrer(row) for row in self._query(f"{_ROWS} ORDER BY version.root, tag")]

    def referrer_contents(self, record: ReferrerRecord) -> list[Descriptor]:
        """Return everything that a referrer needs, itself included."""
        query = """
            SELECT DISTINCT blob.* FROM version JOIN content ON content.version = version.id
                JOIN blob ON blob.id = content.blob JOIN referrer ON referrer.version = version.id
            WHERE version.root = ?
        """
        rows = self._query(query, str(record.root.digest))
        return [Descriptor(row["media_type"], self.digest(row["digest"]), row["size"]) for row in rows]

    def referrer_checks(self) -> dict[tuple[str, str, str], ReferrerCheck]:
        """Return when sources were asked for referrers, by registry, repository and digest."""
        rows = self._query("SELECT * FROM referrer_check")
        return {
            (row["registry"], row["repository"], row["subject"]): ReferrerCheck(
                row["checked"], row["stamp"], row["choice"]
            )
            for row in rows
        }

    def insert_attachment(self, connection: Connection, attachment: Attachment) -> None:
        """Record the referrers of one image, within a transaction.

        Those that the source was asked for and lacks are recorded as missing.
        """
        now = attachment.moment
        # All before the first row: one may be the subject of another.
        versions = [self.add_version(_version(record)) for record in attachment.referrers]
        for record, version in zip(attachment.referrers, versions, strict=True):
            connection.execute(
                "INSERT INTO referrer (subject, version, repository, tag, artifact_type, annotations, found)"
                " SELECT id, ?, ?, ?, ?, ?, ? FROM blob WHERE digest = ?"
                " ON CONFLICT (subject, version, repository, tag) DO UPDATE SET missing = NULL, seen = NULL",
                (
                    version,
                    record.repository,
                    record.tag,
                    record.artifact_type,
                    json.dumps(dict(record.annotations), sort_keys=True),
                    now,
                    str(record.subject),
                ),
            )
            if record.tag:
                connection.execute(
                    "DELETE FROM referrer WHERE repository = ? AND tag = ? AND version != ?",
                    (record.repository, record.tag, version),
                )
                name = f"{record.repository}:{record.tag}"
                connection.execute("INSERT INTO name (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))

        present = {(one.subject, one.root.digest, one.tag) for one in attachment.referrers}
        for subject in attachment.tagged | attachment.listed:
            for record in self.referrers(subject):
                is_asked = subject in (attachment.tagged if record.tag else attachment.listed)
                is_same = record.repository == attachment.repository
                is_present = (record.subject, record.root.digest, record.tag) in present
                if is_asked and is_same and not is_present and not self.is_set_back(time.time()):
                    # This machine's clock counts: `now` is that of the source, if it tells the time.
                    self._set_missing(connection, record, now)

        for (registry, repository, digest), check in attachment.checks.items():
            connection.execute(
                "INSERT OR REPLACE INTO referrer_check (registry, repository, subject, checked, stamp, choice)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (registry, repository, digest, check.checked, check.stamp, check.choice),
            )

    def missing_referrers(self, grace: float) -> list[ReferrerRecord]:
        """Return the referrers that two answers of the source, `grace` seconds apart, lacked."""
        query = f"{_ROWS} WHERE missing IS NOT NULL AND seen - missing >= ? ORDER BY version.root, tag"
        return [self._referrer(row) for row in self._query(query, grace)]

    def delete_referrers(self, records: Iterable[ReferrerRecord]) -> None:
        """Delete referrers; their content stays as long as something needs it."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM referrer WHERE repository = ? AND tag = ?"
                " AND subject = (SELECT id FROM blob WHERE digest = ?)"
                " AND version IN (SELECT id FROM version WHERE root = ?)",
                [(each.repository, each.tag, str(each.subject), str(each.root.digest)) for each in records],
            )

    def replace_by_referrers(self, names: Iterable[str], attachments: Iterable[Attachment]) -> None:
        """Record images that are digest tags as referrers of their subjects instead."""
        rows = [(name,) for name in names]
        with self._transaction() as connection:
            for attachment in attachments:
                self.insert_attachment(connection, attachment)

            # The index leaves out former names only, and may have been written with these.
            connection.executemany("INSERT INTO name (name) VALUES (?) ON CONFLICT DO NOTHING", rows)
            connection.executemany("DELETE FROM image WHERE name = ?", rows)
            connection.executemany("DELETE FROM gone WHERE name = ?", rows)

    def has_blob(self, digest: Digest) -> bool:
        """Return True if a recorded image, or a referrer, needs `digest`."""
        return bool(self._query("SELECT 1 FROM blob JOIN content ON blob = id WHERE digest = ? LIMIT 1", str(digest)))

    def _set_missing(self, connection: Connection, record: ReferrerRecord, now: float) -> None:
        connection.execute(
            "UPDATE referrer SET missing = coalesce(missing, ?1), seen = ?1 WHERE repository = ?2 AND tag = ?3"
            " AND subject = (SELECT id FROM blob WHERE digest = ?4)"
            " AND version IN (SELECT id FROM version WHERE root = ?5)",
            (now, record.repository, record.tag, str(record.subject), str(record.root.digest)),
        )

    def _referrer(self, row: Row) -> ReferrerRecord:
        return ReferrerRecord(
            subject=self.digest(row["subject"]),
            root=Descriptor(row["media_type"], self.digest(row["root"]), row["size"]),
            registry=row["registry"],
            repository=row["repository"],
            tag=row["tag"],
            artifact_type=row["artifact_type"],
            annotations=json.loads(row["annotations"]),
            found=row["found"],
            missing=row["missing"],
        )


def _version(record: ReferrerRecord) -> ImageRecord:
    """Return a referrer as something that has contents."""
    return ImageRecord("", record.registry, record.root.digest, record.root, record.contents, mirrored=time.time())


def lists_of(records: Iterable[ReferrerRecord]) -> list[ReferrerList]:
    """Return the list of referrers of each subject, with the bytes of its index: the same set has the same digest.

    Digest tags are no part of it.
    """
    entries: dict[Digest, dict[Digest, Mapping[str, Any]]] = {}
    for record in records:
        if not record.tag:
            entries.setdefault(record.subject, {})[record.root.digest] = _entry(record)

    return [
        ReferrerList.of(subject, [by_digest[digest] for digest in sorted(by_digest)])
        for subject, by_digest in sorted(entries.items())
    ]


def _entry(record: ReferrerRecord) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mediaType": record.root.media_type,
        "digest": str(record.root.digest),
        "size": record.root.size,
    }
    if record.artifact_type:
        entry["artifactType"] = record.artifact_type

    return {**entry, "annotations": dict(record.annotations)} if record.annotations else entry
