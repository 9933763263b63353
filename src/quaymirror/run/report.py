"""What became of a run: a value, its exit code, and its JSON form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..errors import AccessDenied, CredentialsRefused, ExitCode, Failure, RealmRefused, SelectionEmpty, Side, StoreError
from ..events import CheckFailed, Outcome, Status
from ..selection.selection import Selection
from .changes import Changes

SCHEMA_VERSION = 1


@dataclass(slots=True)
class HostTrouble:
    """How often a host was asked again, and how long it asked for patience. Waits are in seconds.

    `throttled` are its answers that asked for less: 429, and 503 with Retry-After.
    """

    retries: int = 0
    retry_wait_s: float = 0.0
    throttled: int = 0
    pauses: int = 0
    paused_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run. `fatal` is what ended it early, `stopped` who asked it to end; times are POSIX, durations in seconds."""

    run_id: str
    selections: Sequence[Selection]
    server: str
    target: str
    started: float
    elapsed: float
    outcomes: Sequence[Outcome]
    failed_checks: Sequence[CheckFailed] = ()
    """Repositories of which it could not be found out whether they carry the tag; each counts as a failed image."""
    jobs: Sequence[str] = ()
    """The names of the jobs that `selections` come from, if any."""
    repositories: int = 0
    matched: int = 0
    rejected: int = 0
    """Entries of the listing that made no sense."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    changes: Changes | None = None
    """How what was found differs from the last run that saw everything, if there was one."""
    findings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What the check of each derived image found, by its full name."""
    hosts: Mapping[str, HostTrouble] = field(default_factory=dict)
    """Where there was trouble: hosts as in the events, pauses with the kind of their endpoint."""
    bytes_fetched: int = 0
    complete: bool = False
    """Whether everything selected was found and had its turn."""
    fatal: Failure | None = None
    stopped: str | None = None
    dry_run: bool = False
    allow_empty: bool = False

    @property
    def counts(self) -> Counter[Status]:
        """How many images there are of each status; repositories without the tag count as skipped."""
        counts = Counter(outcome.status for outcome in self.outcomes)
        counts[Status.SKIPPED] += sum(self.skipped.values())
        if self.failed_checks:
            counts[Status.FAILED] += len(self.failed_checks)

        return counts

    @property
    def is_whole(self) -> bool:
        """Whether what is not in here is not there: all was found, or it is certain that there is nothing."""
        is_certain = self.fatal is None or self.fatal.is_a(SelectionEmpty)
        return self.complete and is_certain and not self.failed_checks and not self.rejected

    @property
    def selection(self) -> Selection:
        """What was selected; of several selections the first."""
        return self.selections[0]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of this run."""
        is_empty = self.fatal is not None and self.fatal.is_a(SelectionEmpty)
        if self.fatal is not None and not is_empty:
            return self.fatal.exit_code

        if any(outcome.error is not None and outcome.error.is_a(StoreError) for outcome in self.outcomes):
            return ExitCode.STORAGE

        if self._is_refused:
            return ExitCode.CREDENTIALS

        # What a rejected entry stands for nobody knows: it may have been selected, and is not here.
        if self.counts[Status.FAILED] or self.rejected or not (self.complete or is_empty):
            return ExitCode.PARTIAL

        return ExitCode.EMPTY if (is_empty or not self.outcomes) and not self.allow_empty else ExitCode.OK

    @property
    def _is_refused(self) -> bool:
        """Whether nothing at all could be had, and never for another reason than that we are not let in."""
        errors = [*(outcome.error for outcome in self.outcomes), *(check.error for check in self.failed_checks)]
        return bool(errors) and all(
            error is not None
            and error.is_a(AccessDenied, CredentialsRefused, RealmRefused)
            and error.side is Side.SOURCE
            for error in errors
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; docs/reference/report.schema.json describes the format."""
        counts = self.counts
        selections = [selection_json(selection) for selection in self.selections]
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "jobs": list(self.jobs),
            "selection": selections[0] if len(selections) == 1 else None,
            "selections": selections,
            "server": self.server,
            "target": self.target,
            "dry_run": self.dry_run,
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(),
            "elapsed_s": round(self.elapsed, 3),
            "complete": self.complete,
            "exit_code": int(self.exit_code),
            "error": error_to_json(self.fatal),
            "stopped": self.stopped,
            "repositories": {
                "listed": self.repositories,
                "matched": self.matched,
                "rejected": self.rejected,
                "skipped": dict(self.skipped),
            },
            "images": {status.value: counts[status] for status in Status},
            "bytes_fetched": self.bytes_fetched,
            "bytes_reused": sum(outcome.bytes_reused for outcome in self.outcomes),
            "hosts": {host: asdict(trouble) for host, trouble in sorted(self.hosts.items())},
            "changes": self.changes.to_json() if self.changes else None,
            "outcomes": sorted(
                [*map(self._outcome, self.outcomes), *map(_failed_check, self.failed_checks)],
                key=lambda outcome: (str(outcome["reference"]), str(outcome["digest"])),
            ),
        }

    def _outcome(self, outcome: Outcome) -> dict[str, Any]:
        """Derived images have findings: an empty list says that the check found nothing wrong."""
        found = self.findings.get(outcome.reference.full_name)
        return _outcome(outcome) | ({} if found is None else {"findings": list(found)})


def selection_json(selection: Selection) -> dict[str, Any]:
    """Return a selection as JSON values."""
    return {
        "organization": selection.organization,
        "glob": ",".join(selection.globs),
        "tag": ",".join(selection.tags),
        "exclude": list(selection.exclude),
        "since": selection.since.isoformat() if selection.since else None,
        "locked": len(selection.pinned),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    reference = outcome.reference
    return {
        "reference": reference.full_name,
        "digest": str(reference.digest) if reference.digest else None,
        "status": outcome.status.value,
        "reason": outcome.reason,
        "bytes_fetched": outcome.bytes_fetched,
        "bytes_reused": outcome.bytes_reused,
        "elapsed_s": round(outcome.elapsed, 3),
        "error": error_to_json(outcome.error),
    }


def _failed_check(failed: CheckFailed) -> dict[str, Any]:
    """In the form of an outcome: there is no digest, as nobody knows one."""
    return {
        "reference": f"{failed.repository}:{failed.tag}",
        "digest": None,
        "status": Status.FAILED.value,
        "reason": None,
        "bytes_fetched": 0,
        "bytes_reused": 0,
        "elapsed_s": 0.0,
        "error": error_to_json(failed.error),
    }


def error_to_json(error: Failure | None) -> dict[str, Any] | None:
    """Return an error as the report tells it, None for none."""
    if error is None:
        return None

    return {
        "type": error.name,
        "message": error.message,
        "side": error.side.value,
        "phase": error.phase.value if error.phase else None,
    }


__all__ = ["SCHEMA_VERSION", "HostTrouble", "Report", "error_to_json", "selection_json"]
