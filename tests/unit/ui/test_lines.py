from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from run_stories import Run, runs
from scene import MIB, Clock, finished, image, run_started

from quaymirror import events
from quaymirror.errors import NotFound, Phase
from quaymirror.events import Outcome, Status
from quaymirror.progress.combined import CombinedProgress
from quaymirror.progress.run import RunProgress
from quaymirror.ui.lines import Lines


class Log:
    def __init__(self, *, verbose: bool = False) -> None:
        self.clock = Clock(0)
        self.progress = RunProgress(self.clock)
        self.written: list[str] = []
        self.lines = Lines(CombinedProgress([self.progress]), self.written.append, self.clock, verbose=verbose)

    def tell(self, *happened: events.Event) -> list[str]:
        """Return the lines of `happened`."""
        before = len(self.written)
        for event in happened:
            self.progress.apply(event)
            self.lines(event)

        return self.written[before:]


def test_each_finished_image_is_one_aligned_line() -> None:
    long, short = image("nova-api"), image("nova")
    outcome = Outcome(long, Status.MIRRORED, 412 * MIB, 1181116006, 12.3)
    gone = NotFound("manifest unknown", phase=Phase.RESOLVE)

    assert Log().tell(
        events.ImageFinished(outcome),
        finished(short, Status.UNCHANGED),
        finished(short, Status.FAILED, gone),
    ) == [
        "mirrored   kolla/nova-api:2025.1-debian              sha256:6d2a11c17f9e  "
        "412.0 MiB fetched, 1.1 GiB reused, 12 s\n",
        "unchanged  kolla/nova:2025.1-debian                  sha256:19e05df6b2e5\n",
        "failed     manifest unknown  kolla/nova:2025.1-debian\n",
    ]


def test_skipped_repositories_are_only_a_total() -> None:
    log = Log()
    skipped = [events.CandidateSkipped(f"kolla/x{n}", "no such tag" if n else "too old") for n in range(4)]
    left = events.ImageFinished(Outcome(image("nova"), Status.SKIPPED, reason="stopped"))

    assert log.tell(*skipped, left) == []
    assert log.tell(events.RunFinished(3.0, 0)) == ["skipped    5 repositories: 3 no such tag, 1 too old, 1 stopped\n"]


def test_each_worker_of_a_cluster_is_a_line_at_the_end() -> None:
    log = Log()
    for worker, size in (("small", MIB), ("large", 2 * MIB), ("large", 3 * MIB)):
        assert log.tell(events.WorkerReported(worker, size, brought=True)) == []

    log.tell(events.WorkerReported("small", 0, brought=False))
    assert log.tell(events.RunFinished(3.0, 0)) == [
        "worker     large  2 blobs, 5.0 MiB\n",
        "worker     small  1 blob, 1.0 MiB\n",
    ]


def test_transitions_are_lines() -> None:
    assert Log().tell(
        run_started(dry_run=True),
        events.PageListed(1, 412, 371),
        events.ListingFinished(1, complete=False),
        events.HostPaused("quay.io", 30, "429 Too Many Requests"),
        events.HostResumed("quay.io"),
        events.HostResumed("quay.io"),
        events.Notice("look"),
        events.StopRequested("Ctrl-C"),
    ) == [
        "started    kolla/*:2025.1-debian from https://quay.io to /srv/mirror, run 20261123-r7, dry run\n",
        "listed     412 repositories on 1 page, 371 match; the listing broke off\n",
        "paused     quay.io for 30 s: 429 Too Many Requests\n",
        "resumed    quay.io\n",
        "notice     look\n",
        "stopping   Ctrl-C; nothing is in flight\n",
    ]


def test_limits_of_the_user_are_told_when_a_run_starts() -> None:
    (line,) = Log().tell(run_started(limit_rate=20 * MIB, max_requests_per_second=5.0))

    assert line.endswith("to /srv/mirror, run 20261123-r7, at most 20.0 MiB/s, 5 requests/s\n")


@pytest.mark.parametrize(("verbose", "lines"), [(False, 0), (True, 1)])
def test_retries_are_told_only_when_asked_for(verbose: bool, lines: int) -> None:
    assert len(Log(verbose=verbose).tell(events.RetryScheduled("layer", 2, 4.0, "reset by peer"))) == lines


def test_a_heartbeat_comes_at_most_every_thirty_seconds() -> None:
    log = Log()
    log.tell(events.PageListed(1, 10, 10), events.CandidateChecked("nova", 1), events.TagChecked(image("nova")))
    for second in range(61):
        log.clock.now = second
        log.progress.meters.fetched_bytes += MIB
        log.lines.tick()

    assert log.written == [
        f"progress   0 of 1 or more images done, 0 failed, 0 skipped, 0 in flight, {n}.0 MiB fetched at 1.0 MiB/s\n"
        for n in (31, 61)
    ]


def test_a_heartbeat_tells_the_time_left_when_it_is_known() -> None:
    log = Log()
    log.tell(events.PageListed(1, 10, 10), events.ListingFinished(1, complete=True))
    log.tell(*(events.CandidateChecked(f"{n}", 1) for n in range(10)))
    log.lines.tick()
    log.tell(
        *(
            event
            for n in range(5)
            for event in (events.ImageStarted(image(f"{n}")), finished(image(f"{n}"), fetched=60))
        )
    )
    log.clock.now, log.progress.meters.fetched_bytes = 30, 300
    log.lines.tick()

    assert log.written[-1].endswith("300 B fetched at 10 B/s, 30 s left\n")
    log.tell(events.StopRequested("interrupted", by_signal=True))
    log.clock.now, log.progress.meters.fetched_bytes = 60, 310
    log.lines.tick()
    assert log.written[-1].endswith("B/s, stopping\n")


@given(runs(hostile=True))
def test_nothing_that_came_from_outside_breaks_a_line(run: Run) -> None:
    log = Log(verbose=True)
    log.tell(*run.events, events.RunFinished(1.0, 0))

    assert all(line.endswith("\n") and line[:-1].isprintable() for line in log.written)


async def test_ticking_ends_with_the_run_or_when_it_is_cancelled() -> None:
    log = Log()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await log.lines.run()

    log.tell(events.RunFinished(1.0, 0))
    await log.lines.run()
