"""The reports of shards as one report, and the records of their pushes as the state of one machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import anyio

from ..auth.files import read_config_file
from ..documents.report import REPORT_VERSION, ImagesJson, ReportJson, ShardJson
from ..errors import ConfigError, ExitCode, InvalidName, UnsupportedContent, most_severe
from ..events import Status
from ..settings import Options
from ..shards.share import MOST_SHARDS
from ..store import fsops
from ..store.history import History
from ..store.records import ImageRecord, PastRun
from ..targets.kinds import TargetContext, TargetSpec, find_target
from ..text import counted
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from .pushed import pushed_records
from .run_history import subject_text
from .wiring import connect_target

_MAX_REPORT_BYTES = 1024 * 1024 * 1024
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, InvalidName, UnsupportedContent)


@dataclass(frozen=True, slots=True)
class _ShardReport:
    """A report that was read, with its shard, its start (POSIX), and the images that it pushed."""

    file: Path
    report: ReportJson
    shard: ShardJson
    started: float
    pushed: list[ImageRecord]


@dataclass(frozen=True, slots=True)
class MergedReports:
    """One `report` of all shards. `missing` are the shards without a report, `recorded` the images in the state."""

    report: ReportJson
    exit_code: ExitCode
    missing: tuple[int, ...]
    recorded: int


async def merge_reports(files: Sequence[Path], *, options: Options | None = None) -> MergedReports:
    """Join the reports of the shards of one plan; of several reports of a shard the latest counts.

    If `options` name a state directory, the pushed images and the joined report are recorded there, so that the
    next run of one machine with this state knows all of it. The exit code is that of the whole: of the discovery of the
    plan, of every shard, and 3 if a shard has no report.

    :raises ConfigError: if a file is no report of a shard, or belongs to another plan or target.
    :raises LockHeld: if a run uses the state.
    :raises StoreError: if the state can't be written.
    """
    options = options or Options()
    read = [await anyio.to_thread.run_sync(_read, file) for file in files]
    if not read:
        raise ConfigError("no reports to merge: name the files that sync --shard --report has written")

    latest = _by_shard(read)
    merged, missing = _merged(list(latest.values()))
    if options.target.state is not None:
        spec = find_target(merged["target"], options)
        pushed = {record.name: record for each in sorted(read, key=lambda each: each.started) for record in each.pushed}
        whole = _is_whole(merged, next(iter(latest.values())).shard)
        await spec.record(TargetContext(options, connect_target), list(pushed.values()), complete=whole)
        await anyio.to_thread.run_sync(_record, spec, options, merged, next(iter(latest.values())).shard)

    recorded = len({record.name for each in read for record in each.pushed})
    return MergedReports(merged, ExitCode(merged["exit_code"]), missing, recorded)


def _by_shard(reports: Sequence[_ShardReport]) -> dict[int, _ShardReport]:
    """Return the latest report of each shard.

    :raises ConfigError: if they are not of one plan.
    """
    first, latest = reports[0], dict[int, _ShardReport]()
    for each in reports:
        for what, one, other in (
            ("plan", first.shard["plan"], each.shard["plan"]),
            ("number of shards", first.shard["count"], each.shard["count"]),
            ("target", first.report["target"], each.report["target"]),
        ):
            if one != other:
                raise ConfigError(f"{first.file} and {each.file} differ in their {what}: {one} and {other}")

        known = latest.get(each.shard["index"])
        if known is None or known.started <= each.started:
            latest[each.shard["index"]] = each

    return dict(sorted(latest.items()))


def _merged(reports: Sequence[_ShardReport]) -> tuple[ReportJson, tuple[int, ...]]:
    first, shard = reports[0].report, reports[0].shard
    missing = tuple(sorted(set(range(shard["count"])) - {each.shard["index"] for each in reports}))
    outcomes = [outcome for each in reports for outcome in each.report["outcomes"]] + shard["failed_checks"]
    counts = Counter(outcome["status"] for outcome in outcomes)
    counts[Status.SKIPPED.value] += sum(shard["repositories"]["skipped"].values())
    started = min(each.started for each in reports)
    codes = [ExitCode(each.report["exit_code"]) for each in reports]
    code = most_severe([ExitCode(shard["plan_exit_code"]), *codes, *[ExitCode.PARTIAL] * bool(missing)])
    report: ReportJson = {
        **first,
        "run_id": shard["plan"],
        "selection": shard["selections"][0] if len(shard["selections"]) == 1 else None,
        "selections": shard["selections"],
        "started": min(reports, key=lambda each: each.started).report["started"],
        "elapsed_s": round(max(each.started + each.report["elapsed_s"] for each in reports) - started, 3),
        "complete": not missing and all(each.report["complete"] for each in reports),
        "exit_code": int(code),
        "error": _first([each.report["error"] for each in reports]),
        "stopped": _first([each.report["stopped"] for each in reports]),
        "repositories": shard["repositories"],
        "images": cast("ImagesJson", {status.value: counts[status.value] for status in Status}),
        "bytes_fetched": sum(each.report["bytes_fetched"] for each in reports),
        "bytes_reused": sum(each.report["bytes_reused"] for each in reports),
        "unmatched": shard["unmatched"],
        "hosts": {},
        "changes": None,
        "usage": None,
        "outcomes": sorted(outcomes, key=lambda outcome: (outcome["reference"], str(outcome["digest"]))),
    }
    report.pop("shard", None)
    return report, missing


def _first(values: Sequence[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _record(spec: TargetSpec, options: Options, report: ReportJson, shard: ShardJson) -> None:
    """Record the joined report in the history of the target."""
    failed = report["images"]["failed"]
    run = PastRun(
        id=report["run_id"],
        subject=subject_text(shard["server"], shard["selections"]),
        started=datetime.fromisoformat(report["started"]).timestamp(),
        elapsed=report["elapsed_s"],
        exit_code=report["exit_code"],
        complete=_is_whole(report, shard),
        images=dict(Counter(cast("dict[str, int]", report["images"]))),
        bytes_fetched=report["bytes_fetched"],
        remark=f"{counted(failed, 'image')} failed, of {counted(shard['count'], 'shard')}" if failed else "",
    )
    home = spec.state_directory(options)
    fsops.make_directory(home)
    history, _ = History.open(home)
    try:
        history.record(run, report, keep_seconds=options.target.report_age)
    finally:
        history.close()


def _is_whole(report: ReportJson, shard: ShardJson) -> bool:
    is_discovered = not shard["failed_checks"] and not shard["repositories"]["rejected"]
    return report["complete"] and is_discovered and report["error"] is None


def _read(file: Path) -> _ShardReport:
    try:
        document = parse_object(read_config_file(file, limit=_MAX_REPORT_BYTES), limit=_MAX_REPORT_BYTES)
        if document.get("schema_version") != REPORT_VERSION or "shard" not in document:
            raise ConfigError(f"{file} is no report of a shard: write one with sync --plan --shard --report")

        return _checked(file, document)
    except InvalidDocument as error:
        raise ConfigError(f"{file} is no report: it {error}") from None
    except _MALFORMED as error:
        message = f"{type(error).__name__}: {str(error)[:200]}"
        raise ConfigError(f"{file} is no report of this release: {message}") from None


def _checked(file: Path, document: dict[str, Any]) -> _ShardReport:
    """Return a report whose fields that count have the right types.

    :raises KeyError, TypeError, ValueError: for other types.
    """
    shard = document["shard"]
    _check(document, _is_count, "bytes_fetched", "bytes_reused")
    _check(document, lambda value: value >= 0, "elapsed_s")
    _check(document, lambda value: type(value) is str, "target", "run_id", "server")
    _check(document, lambda value: type(value) is bool, "complete")
    _check(document, lambda value: value is None or isinstance(value, dict), "error")
    _check(document, lambda value: value is None or isinstance(value, str), "stopped")
    _check(shard, _is_count, "index", "count", "images")
    _check(shard, lambda value: type(value) is str, "plan", "server")
    _check(shard["repositories"], _is_count, "listed", "matched", "rejected")
    _check(shard, lambda value: bool(value) and all(isinstance(one, dict) for one in value), "selections")
    _check(shard, lambda value: all(isinstance(one, dict) for one in value), "unmatched")
    for outcome in (*document["outcomes"], *shard["failed_checks"]):
        Status(outcome["status"])
        _check(outcome, lambda value: type(value) is str, "reference")
        outcome["digest"] = outcome["digest"]

    if not shard["index"] < shard["count"] <= MOST_SHARDS or not all(
        map(_is_count, shard["repositories"]["skipped"].values())
    ):
        raise ValueError("the numbers of the shard make no sense")

    ExitCode(document["exit_code"])
    ExitCode(shard["plan_exit_code"])
    started = datetime.fromisoformat(document["started"]).timestamp()
    return _ShardReport(
        file, cast("ReportJson", document), shard, started, pushed_records(shard["pushed"], shard["plan"])
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _check(document: dict[str, Any], is_right: Callable[[Any], bool], *names: str) -> None:
    for name in names:
        if not is_right(document[name]):
            raise ValueError(f"{name} is {str(document[name])[:60]!r}")
