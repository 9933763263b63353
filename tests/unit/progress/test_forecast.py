"""Estimates of the images and bytes to come, and of the time left."""

from __future__ import annotations

import pytest
from scene import MIB, Clock, finished, image, run_started

from quaymirror import events
from quaymirror.events import Status
from quaymirror.progress.forecast import expected_images, remaining_bytes, seconds_left
from quaymirror.progress.run import RunProgress


def told(*happened: events.Event, clock: Clock | None = None) -> RunProgress:
    progress = RunProgress(clock or Clock())
    for event in happened:
        progress.apply(event)

    return progress


def remaining(progress: RunProgress, fetched: int) -> float | None:
    progress.meters.fetched_bytes = fetched
    return remaining_bytes(progress)


def test_planning_an_image_again_replaces_what_it_misses() -> None:
    reference = image("nova")
    listing = (
        events.PageListed(1, 1, 1),
        events.ListingFinished(1, complete=True),
        events.CandidateChecked("x", 1),
        events.TagChecked(reference),
    )
    plans = [events.ImagePlanned(reference, 1, 100, missing) for missing in (80, 50)]

    assert remaining_bytes(told(*listing, events.ImageStarted(reference), *plans)) == 50


def test_what_images_share_counts_once() -> None:
    """The first of several images fetches the base, the others only wait for it."""
    progress = told(run_started(), events.PageListed(1, 10, 10), events.ListingFinished(1, complete=True))
    for number in range(10):
        progress.apply(events.CandidateChecked("x", 1))
        progress.apply(events.TagChecked(image(f"{number}")))

    for number in range(6):
        reference, own = image(f"{number}"), 105 if number == 0 else 5
        progress.apply(events.ImageStarted(reference))
        progress.apply(events.ImagePlanned(reference, 4, 105, 105, 4 if number == 0 else 1, own))

    assert remaining(progress, 0) == 105 + 5 * 5 + 4 * 5
    assert remaining(progress, 105) == 5 * 5 + 4 * 5


def test_hosts_that_limit_requests_take_their_time() -> None:
    progress = told(run_started(), events.PageListed(1, 100, 100), events.ListingFinished(1, complete=True))
    for number in range(10):
        progress.apply(events.CandidateChecked("x", 1))
        progress.apply(events.TagChecked(image(f"{number}")))
        progress.apply(events.ImageStarted(image(f"{number}")))
        progress.apply(events.ImagePlanned(image(f"{number}"), 1, 10, 10))

    progress.apply(events.HostPaced("quay.io", "api", 4, 2.0, 0))
    assert seconds_left(progress, 1_000.0, 0.0) == 90 / 2
    assert seconds_left(progress, 10.0, 0.0) == 100


class TestWhatIsLeft:
    def progress(self, *, finished_images: int = 4, total: int = 10) -> RunProgress:
        progress = told(run_started(), events.PageListed(1, total, total), clock=Clock())
        for number in range(total):
            reference = image(f"image-{number}")
            progress.apply(events.CandidateChecked("x", 1))
            progress.apply(events.TagChecked(reference))
            progress.apply(events.ImageQueued(reference))
            if number < finished_images:
                progress.apply(events.ImageStarted(reference))
                progress.apply(finished(reference, fetched=10 * MIB))

        return progress

    def test_is_unknown_while_the_listing_goes_on(self) -> None:
        assert remaining_bytes(self.progress()) is None

    def test_is_unknown_with_too_few_images(self) -> None:
        progress = self.progress(finished_images=2)
        progress.apply(events.ListingFinished(1, complete=True))

        assert remaining(progress, 20 * MIB) is None

    def test_is_the_mean_of_finished_images_for_those_to_come(self) -> None:
        progress = self.progress()
        progress.apply(events.ListingFinished(1, complete=True))

        assert remaining(progress, 40 * MIB) == 60 * MIB

    def test_counts_what_planned_images_have_fetched_already(self) -> None:
        progress = self.progress(total=5)
        progress.apply(events.ListingFinished(1, complete=True))
        progress.apply(events.ImageStarted(image("image-4")))
        progress.apply(events.ImagePlanned(image("image-4"), 3, 90 * MIB, 30 * MIB))

        assert remaining(progress, 52 * MIB) == 18 * MIB

    def test_expects_the_usual_part_of_unchecked_candidates(self) -> None:
        progress = told(events.PageListed(1, 8, 8), events.ListingFinished(1, complete=True))
        progress.apply(events.CandidateChecked("one", 1))
        progress.apply(events.TagChecked(image("one")))
        progress.apply(events.CandidateSkipped("kolla/two", "no such tag"))

        assert expected_images(progress) == 1 + 6 / 2

    def test_is_only_what_is_in_work_after_a_stop(self) -> None:
        progress = self.progress()
        progress.apply(events.StopRequested("Ctrl-C"))

        assert remaining(progress, 40 * MIB) == 0

    def test_goes_by_the_pace_of_images_when_there_is_nothing_to_fetch(self) -> None:
        clock = Clock(0)
        progress = told(events.PageListed(1, 10, 10), events.ListingFinished(1, complete=True), clock=clock)
        for number in range(10):
            progress.apply(events.CandidateChecked("x", 1))
            progress.apply(events.TagChecked(image(f"{number}")))

        for number in range(5):
            progress.apply(events.ImageStarted(image(f"{number}")))
            clock.now += 2
            progress.apply(finished(image(f"{number}"), Status.UNCHANGED))

        assert seconds_left(progress, None, clock.now) == pytest.approx(10)

    def test_is_known_only_while_bytes_come(self) -> None:
        progress = self.progress()
        progress.apply(events.ListingFinished(1, complete=True))
        progress.meters.fetched_bytes = 40 * MIB

        assert seconds_left(progress, 0.0, 20) is None
        assert seconds_left(progress, 2 * MIB, 20) == pytest.approx(30)
