"""The report of a run: a value, its exit code, and its JSON form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import cast

from ..documents.common import SelectionJson, error_json
from ..documents.report import (
    REPORT_VERSION,
    ImagesJson,
    OutcomeJson,
    ReportJson,
    RepositoriesJson,
    ShardJson,
    UnmatchedJson,
    UsageJson,
    WorkerJson,
)
from ..documents.runs import ChangeCountsJson
from ..errors import (
    AccessDenied,
    CredentialsRefused,
    DiscoveryIncomplete,
    ExitCode,
    Failure,
    NotGranted,
    RealmRefused,
    SelectionEmpty,
    Side,
    StoreError,
    most_severe,
)
from ..events import ChangeCounts, CheckFailed, NameUnmatched, Outcome, Status
from ..progress.hosts import Host
from ..progress.run import RunProgress
from ..selection.selection import Selection
from ..selection.source import distinct
from ..settings import Options
from ..store.records import Usage
from ..text import counted
from ..values import dataclass
from .accepted import AcceptedFailures
from .changes import Changes, compare, shrinkage
from .context import Run
from .pushed import shard_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a run. Times are POSIX, durations in seconds.

    `fatal` ended the run early, `stopped` is the reason of a requested stop, and `signal` its exit code if a signal
    was the reason. `changes` are the differences to the last run that saw everything, if there was one;
    `usage` is that of the target after the run, None if it is not known.
    """

    run_id: str
    selections: Sequence[Selection]
    server: str
    target: str
    started: float
    elapsed: float
    progress: RunProgress
    jobs: Sequence[str] = ()
    changes: Changes | None = None
    usage: Usage | None = None
    fatal: Failure | None = None
    stopped: str | None = None
    signal: ExitCode | None = None
    dry_run: bool = False
    allow_empty: bool = False
    allow_unmatched: bool = False
    accepted: AcceptedFailures = field(default_factory=AcceptedFailures)
    platforms: Sequence[str] = ()
    shard: ShardJson | None = None
    """For the run of a shard: its place, and what it pushed."""
    workers: Mapping[str, WorkerJson] = field(default_factory=dict)
    """The totals of the workers of a cluster, by their addresses."""

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """One outcome per image, in the order in which they finished."""
        return self.progress.outcomes

    @property
    def failed_checks(self) -> Sequence[CheckFailed]:
        """Repositories whose tags could not be checked; each counts as a failed image."""
        return self.progress.failed_checks

    @property
    def unmatched(self) -> Sequence[NameUnmatched]:
        """Names without wildcard that matched nothing."""
        return self.progress.unmatched

    @property
    def rejected(self) -> int:
        """Entries of the listing that could not be read."""
        return self.progress.rejected

    @property
    def skipped(self) -> Mapping[str, int]:
        """Repositories without an image of the selections, by reason."""
        return self.progress.skip_reasons

    @property
    def counts(self) -> Counter[Status]:
        """Images by outcome; repositories without the tag count as skipped."""
        return Counter({**self.progress.images, Status.SKIPPED: self.progress.skipped})

    @property
    def bytes_fetched(self) -> int:
        """Received bytes, in a dry run those that would be fetched."""
        return self.progress.bytes_fetched

    @property
    def bytes_reused(self) -> int:
        """Bytes that images needed and did not have to fetch."""
        return self.progress.bytes_reused

    @property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts with retries, pauses or throttled answers, by name."""
        return self.progress.hosts.with_incidents()

    @property
    def complete(self) -> bool:
        """True if everything selected was found and processed."""
        return self.progress.complete

    @property
    def is_whole(self) -> bool:
        """True if an image that is not in the report does not exist at the source."""
        is_certain = self.fatal is None or self._is_empty
        return self.complete and is_certain and not self.failed_checks and not self.rejected

    @property
    def selection(self) -> Selection:
        """The first selection."""
        return self.selections[0]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code: the most severe of all that apply."""
        return most_severe([ExitCode.OK, *self._exit_codes()])

    @property
    def change_counts(self) -> ChangeCounts | None:
        """The numbers of changes, None if no run can be compared with this one."""
        return None if self.changes is None else self.changes.counts

    @property
    def first_problem(self) -> str:
        """The first thing to look at, in one line; "" if everything went well."""
        failures = self.progress.failures
        if self.fatal is not None:
            return self.fatal.message if self.exit_code is not ExitCode.OK else ""

        if failures and self.exit_code is not ExitCode.OK:
            more = f", and {self.progress.failed - 1:,} more" if self.progress.failed > 1 else ""
            return f"{failures[0].message}: {failures[0].name}{more}"

        if self.progress.refusals and self.exit_code is not ExitCode.OK:
            name, reason = self.progress.refusals[0]
            more = f", and {self.progress.refused - 1:,} more" if self.progress.refused > 1 else ""
            return f"refused by the signature policy: {reason}: {name}{more}"

        if self.stopped and not self.complete:
            return f"stopped: {self.stopped}"

        if self._is_lacking:
            more = f", and {len(self.unmatched) - 1:,} more" if len(self.unmatched) > 1 else ""
            return f"nothing matches {self.unmatched[0].name}{more}"

        if self.progress.incomplete:
            return f"a referrer failed: {self.progress.incomplete[0]}"

        return "" if not self.rejected else f"{counted(self.rejected, 'entry', 'entries')} of the listing unreadable"

    @property
    def _failed(self) -> Iterator[Outcome | CheckFailed]:
        yield from (outcome for outcome in self.outcomes if outcome.status is Status.FAILED)
        yield from self.failed_checks

    @property
    def accepted_failures(self) -> int:
        """The number of failures that the user accepts."""
        return sum(map(self.accepted.covers, self._failed))

    @property
    def _is_empty(self) -> bool:
        return self.fatal is not None and self.fatal.is_a(SelectionEmpty)

    def _exit_codes(self) -> Iterator[ExitCode]:
        is_empty = self._is_empty
        if self.fatal is not None and not is_empty:
            yield self.fatal.exit_code

        # A signal that came when everything was done interrupted nothing.
        if self.signal is not None and not self.complete:
            yield self.signal

        if any(outcome.error is not None and outcome.error.is_a(StoreError) for outcome in self.outcomes):
            yield ExitCode.STORAGE

        if self._is_refused:
            yield ExitCode.CREDENTIALS

        # An unreadable entry of the listing may have been selected.
        has_failed = any(not self.accepted.covers(failed) for failed in self._failed)
        has_failed = has_failed or self.progress.refused > 0 or self.progress.referrer_failures > 0
        if has_failed or self.rejected or self._is_lacking or not (self.complete or is_empty):
            yield ExitCode.PARTIAL

        if (is_empty or not self.outcomes) and not self.allow_empty:
            yield ExitCode.EMPTY

    @property
    def _is_refused(self) -> bool:
        """True if no image could be mirrored, and denied access was the only reason."""
        images: list[Outcome | CheckFailed] = [*self.outcomes, *self.failed_checks]
        errors = [image.error for image in images if not self.accepted.covers(image)]
        return bool(errors) and all(
            error is not None
            and error.is_a(AccessDenied, CredentialsRefused, RealmRefused)
            and (error.side is Side.SOURCE or error.is_a(NotGranted) or error.status == 401)
            for error in errors
        )

    @property
    def discovery_exit_code(self) -> ExitCode:
        """The exit code of a discovery that came to its end, without the failures of single images."""
        has_failed = any(not self.accepted.covers(failed) for failed in self.failed_checks)
        return ExitCode.PARTIAL if has_failed or self.rejected or self._is_lacking else ExitCode.OK

    @property
    def _is_lacking(self) -> bool:
        return bool(self.unmatched and self.outcomes) and not self.allow_unmatched

    def to_json(self) -> ReportJson:
        """Return the report as JSON values; docs/reference/report.schema.json describes the format."""
        selections = [selection_json(selection) for selection in self.selections]
        outcomes = [*map(self._outcome, self.outcomes), *map(self._failed_check, self.failed_checks)]
        document: ReportJson = {
            "schema_version": REPORT_VERSION,
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
            "error": error_json(self.fatal),
            "stopped": self.stopped,
            "repositories": repositories_json(self),
            "images": images_json(self),
            "bytes_fetched": self.bytes_fetched,
            "bytes_reused": self.bytes_reused,
            "unmatched": unmatched_json(self.unmatched),
            "hosts": {name: host.to_json() for name, host in self.hosts.items()},
            "changes": self.changes.to_json() if self.changes else None,
            "usage": usage_json(self.usage),
            "moved_in_run": sorted(self.progress.moved_in_run),
            "left_moved": sorted(self.progress.left_moved),
            "outcomes": sorted(outcomes, key=lambda outcome: (outcome["reference"], str(outcome["digest"]))),
        }
        if self.shard is not None:
            document["shard"] = self.shard

        if self.workers:
            document["workers"] = {
                name: {**worker, "busy_s": round(worker["busy_s"], 3)} for name, worker in sorted(self.workers.items())
            }

        return document

    def _outcome(self, outcome: Outcome) -> OutcomeJson:
        reference = outcome.reference
        document: OutcomeJson = {
            "reference": reference.full_name,
            "digest": str(reference.digest) if reference.digest else None,
            "status": outcome.status.value,
            "reason": outcome.reason,
            "bytes_fetched": outcome.bytes_fetched,
            "bytes_reused": outcome.bytes_reused,
            "elapsed_s": round(outcome.elapsed, 3),
            "error": error_json(outcome.error),
        }
        findings = self.progress.findings.get(reference.full_name)
        if findings is not None:
            document["findings"] = list(findings)

        if outcome.referrers:
            document["referrers"] = outcome.referrers

        if outcome.referrer_failures:
            document["referrer_errors"] = [failure.message for failure in outcome.referrer_failures]

        if self.accepted.names(outcome):
            document["accepted"] = True

        return document

    def _failed_check(self, failed: CheckFailed) -> OutcomeJson:
        document = check_json(failed)
        return {**document, "accepted": True} if self.accepted.names(failed) else document


def make_report(run: Run, earlier: ReportJson | None, elapsed: float, usage: Usage | None = None) -> Report:
    """Return the report of `run` after `elapsed` seconds, compared with the one of an `earlier` complete run."""
    report = Report(
        run_id=run.run_id,
        selections=run.selections,
        server=source_names(run.selections, run.options),
        target=str(run.spec),
        started=run.started,
        elapsed=elapsed,
        progress=run.progress,
        usage=usage,
        jobs=run.jobs,
        fatal=run.fatal or run.empty,
        stopped=run.stop.reason if run.fatal is None else None,
        signal=run.stop.exit_code,
        dry_run=run.options.target.dry_run,
        allow_empty=run.options.discovery.allow_empty,
        allow_unmatched=run.options.discovery.allow_unmatched,
        accepted=run.accepted,
        platforms=[str(platform) for platform in run.options.discovery.platforms],
        shard=None if run.division is None else shard_json(run.division, run.pushed),
        workers=run.workers,
    )
    if not report.complete or run.fatal is not None:
        return report

    unchecked = {failed.repository for failed in report.failed_checks}
    changes = compare(earlier, report.outcomes, unchecked) if earlier else None
    least, most = run.options.discovery.expect_at_least, run.options.discovery.max_missing
    shrunk = shrinkage(len(report.outcomes), changes, at_least=least, max_missing=most)
    fatal = Failure.of(DiscoveryIncomplete(shrunk)) if shrunk else report.fatal
    return replace(report, changes=changes, fatal=fatal)


def source_names(selections: Sequence[Selection], options: Options) -> str:
    """Return the sources of `selections`, separated by commas: URLs of Quay servers, addresses of others."""
    return ", ".join(map(str, distinct(options.source.address_of(selection) for selection in selections)))


def repositories_json(report: Report) -> RepositoriesJson:
    """Return the numbers of repositories as JSON values."""
    progress = report.progress
    return {
        "listed": progress.listed,
        "matched": progress.matched,
        "rejected": progress.rejected,
        "skipped": dict(progress.skip_reasons),
    }


def unmatched_json(unmatched: Sequence[NameUnmatched]) -> list[UnmatchedJson]:
    """Return names that matched nothing as JSON values."""
    return [{"name": one.name, "nearest": list(one.nearest)} for one in unmatched]


def images_json(report: Report) -> ImagesJson:
    """Return the numbers of images by outcome as JSON values."""
    return cast("ImagesJson", {status.value: report.counts[status] for status in Status})


def usage_json(usage: Usage | None) -> UsageJson | None:
    """Return the usage of a target as JSON values."""
    if usage is None:
        return None

    return {"images": usage.images, "bytes": usage.bytes, "free_bytes": usage.free_bytes}


def change_counts_json(changes: ChangeCounts | None) -> ChangeCountsJson | None:
    """Return numbers of changes as JSON values."""
    if changes is None:
        return None

    return {"new": changes.new, "moved": changes.moved, "missing": changes.missing}


def selection_json(selection: Selection) -> SelectionJson:
    """Return a selection as JSON values."""
    document: SelectionJson = {
        "organization": selection.organization,
        "glob": selection.names if selection.exact else ",".join(selection.globs),
        "tag": selection.tag_names if selection.exact else ",".join(selection.tags),
        "exclude": list(selection.exclude),
        "since": selection.since.isoformat() if selection.since else None,
        "locked": len(selection.pinned),
    }
    if selection.source is not None:
        document["source"] = str(selection.source)

    if selection.exclude_tags:
        document["exclude_tags"] = list(selection.exclude_tags)

    if selection.newest is not None:
        document["newest"] = selection.newest

    if selection.labels:
        document["labels"] = list(map(str, selection.labels))

    if selection.exact:
        document["images"] = [f"{repository}:{tag}" for repository, tag in selection.exact]

    if selection.reading:
        document["reading"] = selection.reading

    return document


def check_json(failed: CheckFailed) -> OutcomeJson:
    """Return a failed check in the form of an outcome, without the digest, which is unknown."""
    return {
        "reference": f"{failed.repository}:{failed.tag}",
        "digest": None,
        "status": Status.FAILED.value,
        "reason": None,
        "bytes_fetched": 0,
        "bytes_reused": 0,
        "elapsed_s": 0.0,
        "error": error_json(failed.error),
    }
