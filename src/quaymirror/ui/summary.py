"""The last words of a run: what became of it, what failed, and what to do next. Pure, plain text."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import AccessDenied, CredentialsRefused, ExitCode, RateLimited
from ..events import Status
from ..text import escape_controls, human_bytes, human_duration, human_rate
from .descriptions import ImageFailure, subject
from .state import RunState

__all__ = ["summary_lines", "total_line"]

_COUNTED = (Status.MIRRORED, Status.UNCHANGED, Status.FAILED)
# Why an image fails, by the name of the error's class, and what helps then.


def summary_lines(state: RunState) -> list[str]:
    """Return the summary of a run, a list of lines without newlines, safe to print.

    Of many failures the first by name are told, and how many more there are.
    """
    blocks = [_head(state), _counts(state), _failures(state), _hints(state)]
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += ["", *block] if lines else block

    return lines


def total_line(states: Sequence[RunState]) -> str:
    """Return what several runs at once came to, in one line."""
    counts = ", ".join(f"{sum(state.images[status] for state in states):,} {status.value}" for status in _COUNTED)
    return f"all {len(states):,} runs: {counts}, {human_bytes(sum(state.fetched_bytes for state in states))} fetched"


def _head(state: RunState) -> list[str]:
    run = state.run
    if run is None:
        return ["nothing was started"]

    verb = "dry run of" if run.dry_run else "mirror of"
    return [escape_controls(f"{verb} {subject(run)} from {run.server} to {run.target}")]


def _counts(state: RunState) -> list[str]:
    rows = [_count(status.value, state.images[status]) for status in Status if status is not Status.SKIPPED]
    rows.insert(2, _count("skipped", state.skipped, _reasons(state)))
    return [*rows, "", _bytes(state)]


def _count(word: str, count: int, remark: str = "") -> str:
    return f"  {word:<9}  {count:>7,}  {remark}".rstrip()


def _reasons(state: RunState) -> str:
    return ", ".join(f"{reason}: {count:,}" for reason, count in sorted(state.skip_reasons.items()))


def _bytes(state: RunState) -> str:
    # The clock of the state is not asked: a summary of the same state is the same text.
    elapsed = state.finished.elapsed if state.finished else 0.0
    if state.run is not None and state.run.dry_run:
        # Each blob counts once, for the image that would fetch it, as in a real run.
        everything = state.fetched_bytes + state.reused_bytes
        return f"  would fetch {human_bytes(state.fetched_bytes)} of {human_bytes(everything)}"

    text = f"  {human_bytes(state.fetched_bytes)} fetched, {human_bytes(state.reused_bytes)} reused"
    if elapsed <= 0:
        return text

    return f"{text}, in {human_duration(elapsed)} ({human_rate(state.fetched_bytes / elapsed)})"


def _failures(state: RunState) -> list[str]:
    if not state.failures:
        return []

    width = min(64, max(len(failure.name) for failure in state.failures))
    rows = [_failure(failure, width) for failure in state.failures]
    more = state.failed - len(rows)
    return [f"failed ({state.failed:,}):", *rows, *([f"  and {more:,} more"] if more > 0 else [])]


def _failure(failure: ImageFailure, width: int) -> str:
    return f"  {failure.name:<{width}}  {failure}"


def _hints(state: RunState) -> list[str]:
    hints = [hint for is_true, hint in _advice(state) if is_true]
    return ["next:", *(f"  {hint}" for hint in dict.fromkeys(hints))] if hints else []


def _advice(state: RunState) -> list[tuple[bool, str]]:
    """What to do next, each with whether it is called for."""
    kinds = state.failure_kinds.keys()
    code = ExitCode(state.finished.exit_code if state.finished else 0)
    dry_run = state.run is not None and state.run.dry_run
    broke_off = state.listing_ended and not state.listing_complete
    stopped = state.stop_reason is not None
    return [
        (dry_run and code == 0, "run it without --dry-run to mirror this"),
        (broke_off, "the listing broke off, so images may be missing that are not named here"),
        (state.rejected > 0, f"entries of the listing that made no sense: {state.rejected:,}, selected or not"),
        (stopped and code != 9, f"the run was stopped before its end: {state.stop_reason}"),
        (bool(code.advice), code.advice),
        *((True, kind.advice) for kind in (AccessDenied, CredentialsRefused, RateLimited) if kind.__name__ in kinds),
        (_is_resumable(state), "run the same command again: what is complete stays, only the rest is fetched"),
    ]


def _is_resumable(state: RunState) -> bool:
    if state.run is None or state.run.dry_run:
        return False

    code = ExitCode(state.finished.exit_code if state.finished else 0)
    return bool(state.failed) or state.stop_reason is not None or code in (3, 5, 6, 130, 143)
