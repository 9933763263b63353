"""The summary after a run: its result, its failures, and the next steps. Pure, plain text."""

from __future__ import annotations

from ..errors import ExitCode, SelectionEmpty
from ..events import ChangeCounts, Status
from ..progress.run import RunProgress
from ..text import counted, escape_controls, human_bytes, human_duration, human_rate
from .descriptions import subject, unmatched_text

_ALLOW = "correct the unmatched names, or pass --allow-unmatched"
# Images that are named for each remark.
_NAMED = 10
_RESUMABLE = frozenset({ExitCode.UNAVAILABLE, ExitCode.STORAGE, ExitCode.INTERRUPTED, ExitCode.TERMINATED})


def summary_lines(progress: RunProgress, *, verbose: bool = False) -> list[str]:
    """Return the summary of a run as lines without newlines, safe to print; failures with their URLs if `verbose`.

    A selection without images has none.
    """
    if _found_nothing(progress):
        return []  # the error says all of it

    parts = [_head(progress), _counts(progress), _notes(progress), _remarks(progress)]
    parts += [_failures(progress, verbose), _refusals(progress), _incomplete(progress), _unmatched(progress)]
    blocks = [*parts, _next_steps(progress)]
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += ["", *block] if lines else block

    return lines


def _found_nothing(progress: RunProgress) -> bool:
    error = progress.finished.error if progress.finished else None
    return error is not None and error.is_a(SelectionEmpty) and not progress.done and not progress.stop_reason


def total_line(total: RunProgress, runs: int) -> str:
    """Return the sum of several runs in one line."""
    counts = ", ".join(
        f"{total.count(status):,} {status.value}" for status in _shown(total) if status is not Status.SKIPPED
    )
    return f"all {runs:,} runs: {counts}, {human_bytes(total.bytes_fetched)} fetched"


def _shown(progress: RunProgress) -> list[Status]:
    return [status for status in Status if status is not Status.REFUSED or progress.refused]


def _head(progress: RunProgress) -> list[str]:
    run = progress.run
    if run is None:
        return ["nothing was started"]

    verb = "plan of" if run.planning else "dry run of" if run.dry_run else "mirror of"
    return [escape_controls(f"{verb} {subject(run)} from {run.server} to {run.target}")]


def _counts(progress: RunProgress) -> list[str]:
    rows = [f"  {status.value:<9}  {progress.count(status):>7,}" for status in _shown(progress)]
    reasons = sorted((progress.skip_reasons + progress.image_skip_reasons).items())
    if reasons:
        rows[2] += "  " + ", ".join(f"{reason}: {count:,}" for reason, count in reasons)

    if progress.held:
        moved = f", of {progress.held_moved:,} of them the source has another image" if progress.held_moved else ""
        rows.append(f"  held       {progress.held:>7,}{moved}")

    if progress.referrers or progress.referrer_failures:
        failed = f", {progress.referrer_failures:,} failed" if progress.referrer_failures else ""
        rows.append(f"  referrers  {progress.referrers:>7,}{failed}")
    elif progress.digest_tags and progress.run is not None and not progress.run.takes_referrers:
        seen = counted(progress.digest_tags, "digest tag was", "digest tags were")
        rows.append(f"  referrers  {0:>7,}, {seen} seen and left, as --referrers none says")

    for names, verb in ((progress.moved_in_run, "moved during the run"), (progress.left_moved, "had moved at its end")):
        if names:
            rows += ["", f"  {verb} ({len(names):,}):", *(f"    {escape_controls(name)}" for name in names)]

    changes = None if progress.finished is None else progress.finished.changes
    return [*rows, "", *([] if changes is None else [_changes(changes)]), _bytes(progress), *_unfinished(progress)]


def _changes(changes: ChangeCounts) -> str:
    return f"  {changes}" if changes != ChangeCounts() else "  nothing is new, has moved or is missing at the source"


def _unfinished(progress: RunProgress) -> list[str]:
    """Return what a run that was stopped has kept, and what it has left."""
    if progress.stop_reason is None or progress.complete or progress.is_dry_run or progress.run is None:
        return []

    complete = progress.images[Status.MIRRORED] + progress.images[Status.UNCHANGED]
    left = max(0, progress.known_images - progress.done)
    if not complete and not left:
        return []

    at_least = "" if progress.listing_ended else "at least "
    unfinished = f"{at_least}{counted(left, 'image is', 'images are')} unfinished"
    return [f"  {counted(complete, 'image is', 'images are')} complete, {unfinished}; what was fetched is kept"]


def _bytes(progress: RunProgress) -> str:
    fetched, reused = progress.bytes_fetched, progress.bytes_reused
    if progress.is_dry_run:
        return f"  would fetch {human_bytes(fetched)} of {human_bytes(fetched + reused)}"

    text = f"  {human_bytes(fetched)} fetched, {human_bytes(reused)} reused"
    # The clock is not read: a summary of the same progress is the same text.
    elapsed = progress.finished.elapsed if progress.finished else 0.0
    if elapsed <= 0:
        return text

    rate = f" ({human_rate(fetched / elapsed)})" if fetched else ""
    return f"{text}, in {human_duration(elapsed)}{rate}"


def _notes(progress: RunProgress) -> list[str]:
    return ["notes:", *(f"  {note}" for note in progress.notes)] if progress.notes else []


def _remarks(progress: RunProgress) -> list[str]:
    """Return the remarks about mirrored images, each with the first images that it is about."""
    images: dict[str, list[str]] = {}
    for outcome in progress.outcomes:
        if outcome.status is Status.MIRRORED and outcome.reason:
            images.setdefault(escape_controls(outcome.reason), []).append(escape_controls(outcome.reference.name))

    lines = []
    for remark, names in sorted(images.items()):
        lines += [f"  {remark} ({len(names):,}):", *(f"    {name}" for name in sorted(names)[:_NAMED])]
        lines += [f"    and {len(names) - _NAMED:,} more"] if len(names) > _NAMED else []

    return ["remarks:", *lines] if lines else []


def _failures(progress: RunProgress, verbose: bool) -> list[str]:
    """Return the reasons, each with the images that failed for it."""
    if not progress.failures:
        return []

    images: dict[str, list[str]] = {}
    for failure in progress.failures:
        name = f"{failure.name}  {failure.url}" if verbose and failure.url else failure.name
        images.setdefault(str(failure), []).append(f"    {name}")

    rows = [line for reason, names in images.items() for line in (f"  {reason}", *names)]
    more = progress.failed - len(progress.failures)
    return [f"failed ({progress.failed:,}):", *rows, *([f"  and {more:,} more"] if more > 0 else [])]


def _incomplete(progress: RunProgress) -> list[str]:
    """Return the images whose referrers are not complete; they themselves are mirrored."""
    if not progress.incomplete:
        return []

    more = progress.referrer_failures - len(progress.incomplete)
    rows = [*(f"  {line}" for line in progress.incomplete), *([f"  and {more:,} more"] if more > 0 else [])]
    return [f"referrers that failed, of mirrored images ({progress.referrer_failures:,}):", *rows]


def _refusals(progress: RunProgress) -> list[str]:
    """Return the images that the signature policy refused, with a line per key or identity."""
    if not progress.refusals:
        return []

    rows = [
        line
        for name, reason in progress.refusals
        for line in (f"  {name}", *(f"    {part}" for part in reason.split("; ")))
    ]
    more = progress.refused - len(progress.refusals)
    rows += [f"  and {more:,} more"] if more > 0 else []
    return [f"refused by the signature policy, earlier versions stay ({progress.refused:,}):", *rows]


def _unmatched(progress: RunProgress) -> list[str]:
    """Return the names that matched nothing; all of them: each is a name that the user wrote."""
    names = [escape_controls(unmatched_text(one)) for one in progress.unmatched]
    return [f"unmatched ({len(names):,}):", *(f"  {name}" for name in names)] if names else []


def _next_steps(progress: RunProgress) -> list[str]:
    steps = list(dict.fromkeys(filter(None, _advice(progress))))
    return ["next:", *(f"  {step}" for step in steps)] if steps else []


def _advice(progress: RunProgress) -> list[str]:
    code = ExitCode.OK if progress.finished is None else ExitCode(progress.finished.exit_code)
    stopped = progress.stop_reason is not None
    error = progress.finished.error if progress.finished is not None else None
    unread = counted(progress.rejected, "entry", "entries")
    return [
        _after_dry_run(progress) if progress.is_dry_run and code is ExitCode.OK else "",
        "the listing broke off: images that are not named here may be missing" if progress.listing_broke_off else "",
        f"{unread} of the source could not be read, selected or not" if progress.rejected else "",
        # An error is a line of its own.
        f"the run was stopped before its end: {progress.stop_reason}" if stopped and error is None else "",
        _ALLOW if progress.unmatched and code is ExitCode.PARTIAL else "",
        *sorted(progress.advice),
        # Of denied access, each failure says which side it is about; the last line says where another run helps.
        "" if code is ExitCode.PARTIAL or (code is ExitCode.CREDENTIALS and progress.advice) else code.advice,
        "run the same command again: finished images are kept, only the rest is fetched"
        if _can_go_on(progress, code)
        else "",
    ]


def _can_go_on(progress: RunProgress, code: ExitCode) -> bool:
    """Return True if the same command can achieve more."""
    if progress.is_dry_run or progress.run is None:
        return False

    error = progress.finished.error if progress.finished is not None else None
    if error is not None and error.is_lasting:
        return False

    is_unfinished = progress.listing_broke_off or (code in _RESUMABLE and not progress.complete)
    return progress.retryable > 0 or progress.stop_reason is not None or is_unfinished


def _after_dry_run(progress: RunProgress) -> str:
    if progress.run is not None and progress.run.planning:
        return "run the shards: sync --plan FILE --shard I/N"

    return "run it without --dry-run to mirror this"
