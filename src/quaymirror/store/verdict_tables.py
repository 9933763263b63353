"""The table of verdicts: receipts that a signature policy accepted an image."""

from __future__ import annotations

import time

from ..oci import Digest
from .snapshot_tables import SnapshotTables


class VerdictTables(SnapshotTables):
    """Verdicts; see `Database`."""

    def accepted_by(self, name: str, root: Digest, policy: str) -> str | None:
        """Return by which keys or identities the policy accepted an image, None if it has not judged it so."""
        query = "SELECT reason FROM verdict WHERE name = ? AND root = ? AND policy = ? AND accepted"
        rows = self._query(query, name, str(root), policy)
        return rows[0]["reason"] if rows else None

    def record_verdict(self, name: str, root: Digest, policy: str, *, accepted: bool, reason: str) -> None:
        """Record the verdict of a policy about an image; those of the same policy about earlier ones are deleted."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM verdict WHERE name = ? AND policy = ?", (name, policy))
            connection.execute(
                "INSERT INTO verdict VALUES (?, ?, ?, ?, ?, ?)",
                (name, str(root), policy, accepted, reason, time.time()),
            )
