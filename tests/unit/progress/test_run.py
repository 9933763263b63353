from __future__ import annotations

from collections.abc import Sized

from hypothesis import given
from run_stories import Run, runs
from scene import Clock, finished, image, run_started

from quaymirror import events
from quaymirror.errors import NotFound, Phase
from quaymirror.events import Status
from quaymirror.progress.combined import CombinedProgress
from quaymirror.progress.failed import FailedImage
from quaymirror.progress.run import FAILURES_KEPT, RunProgress
from quaymirror.ui.descriptions import total_text


def told(*happened: events.Event, clock: Clock | None = None) -> RunProgress:
    progress = RunProgress(clock or Clock())
    for event in happened:
        progress.apply(event)

    return progress


@given(runs())
def test_counts_add_up_in_any_order_of_completion(run: Run) -> None:
    lost = sum(
        isinstance(event, events.ImageFinished) and "lost" in event.outcome.reference.name for event in run.events
    )
    progress = told(*run.events)

    assert progress.matched == len(run.fates)
    assert progress.checked == len(run.fates)
    assert progress.candidates_skipped == run.count("skipped")
    assert progress.failed == run.count("failed", "check fails")
    assert progress.images[Status.MIRRORED] == run.count("mirrored")
    assert progress.images[Status.UNCHANGED] == run.count("unchanged")
    assert progress.done == run.count("mirrored", "unchanged", "failed", "check fails") + lost
    assert progress.in_work == run.count("in work")
    assert (progress.skip_reasons + progress.image_skip_reasons).total() == progress.skipped
    assert progress.waiting == max(0, run.count("left in the queue") - lost)
    assert progress.known_images >= progress.done + progress.in_work


@given(runs(), runs())
def test_two_runs_at_once_add_up_even_with_the_same_images(one: Run, other: Run) -> None:
    alone = [told(*run.events) for run in (one, other)]
    progress = CombinedProgress(alone).now()

    for name in ("done", "failed", "in_work", "matched", "checked", "queued", "skipped", "bytes_reused"):
        assert getattr(progress, name) == sum(getattr(each, name) for each in alone), name

    assert progress.run is not None
    assert progress.run.selections == 2


def test_the_total_says_how_sure_it_is() -> None:
    progress = told(run_started(), events.PageListed(1, 100, 100))
    for number in range(10):
        progress.apply(events.CandidateSkipped("kolla/x", "no such tag") if number % 2 else checked(number))

    assert (total_text(progress), total_text(progress, more=" or more")) == ("5+", "5 or more")
    progress.apply(events.ListingFinished(1, complete=True))
    assert (total_text(progress), total_text(progress, about="about ")) == ("~50", "about 50")
    for _ in range(50):
        progress.apply(events.CandidateSkipped("kolla/x", "no tags", looked_at=False))

    assert total_text(progress) == "~25", "of the 40 that are left half may be images, as of those that were looked at"
    for number in range(60, 100):
        progress.apply(checked(number))

    assert total_text(progress) == "45"


def checked(number: int) -> events.CandidateChecked:
    return events.CandidateChecked(f"kolla/image-{number}", 1)


def test_several_runs_end_with_the_last_one_and_with_the_most_severe_code() -> None:
    clock = Clock(0)
    one, other = told(run_started(jobs=("a",)), events.RunFinished(3.0, 3), clock=clock), RunProgress(clock)
    clock.now = 2.0
    other.apply(run_started(jobs=("b",), target="/srv/other"))
    both = CombinedProgress([one, other])

    assert both.now().finished is None
    run = both.now().run
    assert run is not None
    assert (run.jobs, run.target) == (("a", "b"), "/srv/mirror, /srv/other")
    other.apply(events.RunFinished(5.0, 0))
    assert both.now().finished == events.RunFinished(7.0, 3)


def test_several_runs_are_stopping_when_the_last_one_is() -> None:
    runs = [told(run_started(), events.StopRequested("disk full")), told(run_started()), told(run_started())]
    runs[2].apply(events.RunFinished(3.0, 0))
    both = CombinedProgress(runs)

    assert both.now().stop_reason is None
    assert list(both.now().last_notices) == ["one of 3 runs is stopping: disk full"]
    runs[1].apply(events.StopRequested("Ctrl-C"))
    assert both.now().stop_reason == "Ctrl-C"


def test_a_host_that_runs_share_counts_once() -> None:
    event = events.RetryScheduled("blob", 1, 2.0, "reset", "quay.io")
    runs = [told(run_started(), event) for _ in range(2)]
    both = CombinedProgress(runs)
    both.observe(event)

    assert [run.hosts.retries for run in (*runs, both.now())] == [1, 1, 1]


@given(runs())
def test_the_failures_that_are_kept_do_not_depend_on_the_order(run: Run) -> None:
    expected = sorted(
        FailedImage.of(e.outcome if isinstance(e, events.ImageFinished) else e)
        for e in run.events
        if isinstance(e, events.CheckFailed) or (isinstance(e, events.ImageFinished) and e.outcome.error)
    )

    assert told(*run.events).failures == expected[:FAILURES_KEPT]


def test_memory_does_not_grow_with_images() -> None:
    progress = RunProgress(Clock())
    for number in range(3_000):
        reference = image(f"image-{number}")
        progress.apply(events.ImageStarted(reference))
        progress.apply(finished(reference, Status.FAILED, NotFound(f"gone {number}")))
        progress.apply(events.CandidateSkipped("kolla/x", f"reason {number}"))
        progress.apply(events.HostPaused(f"host-{number}", 60, "429"))
        progress.apply(events.Notice(f"notice {number}"))

    kept: list[Sized] = [
        progress.failures,
        progress.last_failures,
        progress.last_notices,
        progress.skip_reasons,
        progress.work,
    ]
    assert all(len(texts) <= 32 for texts in kept)
    assert len(progress.hosts) <= 65
    assert progress.failed == progress.candidates_skipped == 3_000
    assert sum(host.pauses for host in progress.hosts.values()) == 3_000


def test_a_failure_tells_its_message() -> None:
    progress = told(finished(image("nova"), Status.FAILED, NotFound("gone", phase=Phase.RESOLVE)))

    assert progress.failures == [FailedImage("kolla/nova:2025.1-debian", "gone")]
    assert str(progress.failures[0]) == "gone"


def test_a_failure_without_an_error_has_a_text_too() -> None:
    assert str(told(finished(image("nova"), Status.FAILED)).failures[0]) == "failed"


def test_a_message_is_one_safe_line_of_bounded_length() -> None:
    (notice,) = told(events.Notice("\x1b[2J\n" * 10_000)).last_notices

    assert len(notice) <= 500
    assert notice.isprintable()


def test_a_pause_ends_by_the_clock() -> None:
    clock = Clock(100)
    progress = told(events.HostPaused("quay.io", 5, "429"), events.HostPaused("cdn", 9, "503"), clock=clock)

    assert [name for name, _ in progress.hosts.paused_at(104)] == ["cdn", "quay.io"]
    assert [name for name, _ in progress.hosts.paused_at(105)] == ["cdn"]
    assert progress.hosts.paused_at(109) == []


def test_elapsed_is_what_the_run_says_once_it_has_finished() -> None:
    clock = Clock(100)
    progress = told(run_started(), clock=clock)

    assert progress.elapsed(130) == 30
    progress.apply(events.RunFinished(31.5, 0))
    assert progress.elapsed(200) == 31.5
