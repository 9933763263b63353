"""The table of verdicts: receipts that a signature policy accepted an image."""

from __future__ import annotations

import time

from ..oci import Digest
from .records import Acceptance
from .snapshot_tables import SnapshotTables

# With types that a damaged file can't change.
_ACCEPTED = """
    SELECT CAST(policy AS TEXT), CAST(reason AS TEXT), CAST(judged AS REAL), CAST(origin AS TEXT) FROM verdict
    WHERE name = ? AND root = ? AND accepted ORDER BY judged DESC, policy
"""


class VerdictTables(SnapshotTables):
    """Verdicts; see `Database`."""

    def accepted_by(self, name: str, root: Digest, policy: str) -> str | None:
        """Return by which keys or identities the policy accepted an image, None if it has not judged it so."""
        query = "SELECT reason FROM verdict WHERE name = ? AND root = ? AND policy = ? AND accepted"
        rows = self._query(query, name, str(root), policy)
        return rows[0]["reason"] if rows else None

    def acceptances(self, name: str, root: Digest) -> list[Acceptance]:
        """Return the verdicts of all policies that accepted an image, the latest first."""
        return [Acceptance(name, root, *row) for row in self._query(_ACCEPTED, name, str(root))]

    def stored_acceptances(self, name: str, stored: Digest) -> list[Acceptance]:
        """Return the verdicts that accepted an image of which `stored` is the root in the mirror.

        A policy judges the digest at the source, which is another one if only some platforms of an index are stored.
        """
        rows = self._query("SELECT DISTINCT source FROM version WHERE root = ?", str(stored))
        sources = {self.digest(row["source"]) if row["source"] else stored for row in rows}
        return [each for source in sources for each in self.acceptances(name, source)]

    def record_verdict(self, name: str, root: Digest, policy: str, *, accepted: bool, reason: str) -> None:
        """Record the verdict of a policy about an image; those of the same policy about earlier ones are deleted."""
        self._replace(name, policy, (str(root), accepted, reason, time.time(), ""))

    def adopt_verdict(self, verdict: Acceptance) -> bool:
        """Record a verdict from elsewhere, unless the policy has judged the image here; return True if it is used."""
        query = "SELECT 1 FROM verdict WHERE name = ? AND root = ? AND policy = ? AND origin = ''"
        if self._query(query, verdict.name, str(verdict.root), verdict.policy):
            return False

        row = (str(verdict.root), True, verdict.reason, verdict.judged, verdict.origin)
        self._replace(verdict.name, verdict.policy, row)
        return True

    def _replace(self, name: str, policy: str, row: tuple[str, bool, str, float, str]) -> None:
        root, accepted, reason, judged, origin = row
        with self._transaction() as connection:
            connection.execute("DELETE FROM verdict WHERE name = ? AND policy = ?", (name, policy))
            connection.execute(
                "INSERT INTO verdict (name, root, policy, accepted, reason, judged, origin)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (name, root, policy, accepted, reason, judged, origin),
            )
