"""Earlier runs of a target, and the status of jobs. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from ..errors import ConfigError, ExitCode, Failure, QuaymirrorError
from ..store import fsops
from ..store.history import History
from ..store.records import PastRun
from ..text import counted
from ..values import dataclass
from .jobs import Job
from .run_history import subject_of

# The file in the state directory that a command rewrites every second while its run goes on.
PROGRESS_FILE = "live.json"
# After this time without a new snapshot the other process has ended, or can't write.
SILENCE_SECONDS = 15.0

OK, FAILED, KILLED, RUNNING, NEVER_RAN = "ok", "failed", "killed", "running", "never ran"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The status of a job. `state` is "ok", "failed", "killed", "running" or "never ran".

    `last` is its last run, `last_success` the end of the last successful one (POSIX time), `problem` the first thing to
    look at, "" if none. `failure` is the reason why the history can't be read.
    """

    job: str
    target: str
    state: str = NEVER_RAN
    last: PastRun | None = None
    last_success: float | None = None
    problem: str = ""
    failure: Failure | None = None


@contextmanager
def open_past(home: Path, target: str) -> Iterator[History]:
    """Open the history in the state directory `home` of `target` for reading.

    :raises ConfigError: if no run was recorded there, or the history is damaged.
    """
    if not fsops.exists(home / "history.db"):
        raise ConfigError(f"no run found for '{target}': pass the same target that you used with sync")

    past, notice = History.open(home, read_only=True)
    with closing(past):
        if notice:
            raise ConfigError(notice)

        yield past


def state_of(run: PastRun, home: Path, *, is_latest: bool) -> str:
    """Return the state of a run of the target whose state directory is `home`."""
    if run.ended:
        return OK if run.exit_code == 0 else FAILED

    return RUNNING if is_latest and _is_alive(home) else KILLED


def job_statuses(jobs: Sequence[Job]) -> list[JobStatus]:
    """Return the status of each job, from the histories of their targets."""
    return [_status(job) for job in jobs]


def _status(job: Job) -> JobStatus:
    known = JobStatus(str(job), job.target)
    try:
        home = job.state_directory
        if not fsops.exists(home / "history.db"):
            return known

        with open_past(home, job.target) as past:
            return _of_runs(job, home, past.runs())
    except QuaymirrorError as error:
        return JobStatus(known.job, known.target, FAILED, problem=error.message, failure=Failure.of(error))


def _of_runs(job: Job, home: Path, everything: Sequence[PastRun]) -> JobStatus:
    subject, names = subject_of(job.selections, job.options), {*job.names}
    syncs = [run for run in everything if run.kind == "sync"]
    # A run without names was made by hand, or by a release that did not record them.
    runs = [run for run in syncs if names & {*run.jobs} or (not run.jobs and run.subject == subject)]
    if not runs:
        return JobStatus(str(job), job.target)

    last = runs[0]
    success = next((run.started + run.elapsed for run in runs if run.ended and run.exit_code == 0), None)
    state = state_of(last, home, is_latest=last is syncs[0])
    return JobStatus(str(job), job.target, state, last, success, _problem(last, state))


def _problem(run: PastRun, state: str) -> str:
    if state == KILLED:
        return "the run was killed, or this machine went down: what was complete stays"

    if state == FAILED:
        return run.remark or ExitCode(run.exit_code).meaning

    missing = run.changes.missing if run.changes is not None and state == OK else 0
    return f"{counted(missing, 'image is', 'images are')} missing at the source" if missing else run.remark


def _is_alive(home: Path) -> bool:
    try:
        return time.time() - (home / PROGRESS_FILE).stat().st_mtime < SILENCE_SECONDS
    except OSError:
        return False
