from __future__ import annotations

from collections import deque
from collections.abc import Sized
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaymirror import events
from quaymirror.errors import NotFound, Phase
from quaymirror.events import Status
from quaymirror.progress.meters import Meters
from quaymirror.ui.descriptions import ImageFailure
from quaymirror.ui.state import FAILURES_KEPT, Rates, RunState

from .scene import MIB, Clock, finished, image, run_started
from .strategies import Run, runs


def told(*happened: events.Event, clock: Clock | None = None) -> RunState:
    state = RunState(clock or Clock())
    for event in happened:
        state.apply(event)

    return state


@given(runs())
def test_counts_add_up_in_any_order_of_completion(run: Run) -> None:
    lost = sum(
        isinstance(event, events.ImageFinished) and "lost" in event.outcome.reference.name for event in run.events
    )
    state = told(*run.events)

    assert state.matched == len(run.fates)
    assert state.checked == len(run.fates)
    assert state.candidates_skipped == run.count("skipped")
    assert state.failed == run.count("failed", "check fails")
    assert state.images[Status.MIRRORED] == run.count("mirrored")
    assert state.images[Status.UNCHANGED] == run.count("unchanged")
    assert state.done == run.count("mirrored", "unchanged", "failed", "check fails") + lost
    assert state.in_work == run.count("in work")
    assert sum(state.skip_reasons.values()) == state.skipped
    assert state.waiting == max(0, run.count("left in the queue") - lost)
    assert state.known_images >= state.done + state.in_work


@given(runs(), runs(), st.randoms())
def test_two_runs_at_once_add_up_even_with_the_same_images(one: Run, other: Run, random: Random) -> None:
    alone, state = [told(*run.events) for run in (one, other)], RunState(Clock(), runs=2)
    left = [deque(one.events), deque(other.events)]
    while any(left):
        state.apply(random.choice([events for events in left if events]).popleft())

    for name in ("done", "failed", "in_work", "matched", "checked", "queued", "missing_bytes", "fetched_bytes"):
        assert getattr(state, name) == sum(getattr(each, name) for each in alone), name

    assert state.run is not None
    assert state.run.selections == 2


def test_the_total_says_how_sure_it_is() -> None:
    state = told(run_started(), events.PageListed(1, 100, 100))
    for number in range(10):
        state.apply(events.CandidateSkipped("kolla/x", "no such tag") if number % 2 else checked(number))

    assert (state.total_text(), state.total_text(more=" or more")) == ("5+", "5 or more")
    state.apply(events.ListingFinished(1, complete=True))
    assert (state.total_text(), state.total_text(about="about ")) == ("~50", "about 50")
    for _ in range(50):
        state.apply(events.CandidateSkipped("kolla/x", "no tags", looked_at=False))

    assert state.total_text() == "~25", "of the 40 that are left half may be images, as of those that were looked at"
    for number in range(60, 100):
        state.apply(checked(number))

    assert state.total_text() == "45"


def checked(number: int) -> events.CandidateChecked:
    return events.CandidateChecked(f"kolla/image-{number}", 1)


def test_of_several_runs_the_end_is_that_of_the_last_one() -> None:
    state = RunState(Clock(), runs=2)
    for event in (run_started(jobs=("a",)), run_started(jobs=("b",), target="/srv/other"), events.RunFinished(3.0, 0)):
        state.apply(event)

    assert state.finished is None
    assert state.run is not None
    assert (state.run.jobs, state.run.target) == (("a", "b"), "/srv/mirror, /srv/other")
    state.apply(events.RunFinished(5.0, 3))
    assert state.finished == events.RunFinished(5.0, 3)


def test_several_runs_are_stopping_when_the_last_one_is() -> None:
    state = RunState(Clock(), runs=3)
    for event in (run_started(), events.StopRequested("disk full"), events.RunFinished(3.0, 0)):
        state.apply(event)

    assert state.stop_reason is None
    assert list(state.last_notices) == ["one of 3 runs is stopping: disk full"]
    state.apply(events.StopRequested("Ctrl-C"))
    assert state.stop_reason == "Ctrl-C"


@given(runs())
def test_the_failures_that_are_kept_do_not_depend_on_the_order(run: Run) -> None:
    expected = sorted(
        ImageFailure.of(e.outcome) if isinstance(e, events.ImageFinished) else ImageFailure.of_check(e)
        for e in run.events
        if isinstance(e, events.CheckFailed) or (isinstance(e, events.ImageFinished) and e.outcome.error)
    )

    assert told(*run.events).failures == expected[:FAILURES_KEPT]


def test_memory_does_not_grow_with_images() -> None:
    state = RunState(Clock())
    for number in range(3_000):
        reference = image(f"image-{number}")
        state.apply(events.ImageStarted(reference))
        state.apply(finished(reference, Status.FAILED, NotFound(f"gone {number}")))
        state.apply(events.CandidateSkipped("kolla/x", f"reason {number}"))
        state.apply(events.HostPaused(f"host-{number}", 60, "429"))
        state.apply(events.Notice(f"notice {number}"))

    kept: list[Sized] = [
        state.failures,
        state.last_failures,
        state.last_notices,
        state.skip_reasons,
        state.paused,
        state._work,
    ]
    assert all(len(texts) <= 32 for texts in kept)
    assert state.failed == state.candidates_skipped == state.pauses == 3_000


def test_a_failure_tells_side_phase_and_message() -> None:
    state = told(finished(image("nova"), Status.FAILED, NotFound("gone", phase=Phase.RESOLVE)))

    assert state.failures == [ImageFailure("kolla/nova:2025.1-debian", "gone", "NotFound", "source, resolve")]
    assert str(state.failures[0]) == "source, resolve: gone"


def test_a_failure_without_an_error_has_a_text_too() -> None:
    assert str(told(finished(image("nova"), Status.FAILED)).failures[0]) == "failed"


def test_a_message_is_one_safe_line_of_bounded_length() -> None:
    (notice,) = told(events.Notice("\x1b[2J\n" * 10_000)).last_notices

    assert len(notice) <= 500
    assert notice.isprintable()


def test_a_pause_ends_by_the_clock() -> None:
    clock = Clock(100)
    state = told(events.HostPaused("quay.io", 5, "429"), events.HostPaused("cdn", 9, "503"), clock=clock)

    assert [pause.host for pause in state.paused_at(104)] == ["cdn", "quay.io"]
    assert [pause.host for pause in state.paused_at(105)] == ["cdn"]
    assert state.paused_at(109) == []


def test_elapsed_is_what_the_run_says_once_it_has_finished() -> None:
    clock = Clock(100)
    state = told(run_started(), clock=clock)

    assert state.elapsed(130) == 30
    state.apply(events.RunFinished(31.5, 0))
    assert state.elapsed(200) == 31.5


def test_planning_an_image_again_replaces_what_it_misses() -> None:
    reference = image("nova")
    listing = (
        events.PageListed(1, 1, 1),
        events.ListingFinished(1, complete=True),
        events.CandidateChecked("x", 1),
        events.TagChecked(reference),
    )
    plans = [events.ImagePlanned(reference, 1, 100, missing) for missing in (80, 50)]

    assert told(*listing, events.ImageStarted(reference), *plans).remaining_bytes(0) == 50


class TestWhatIsLeft:
    def state(self, *, finished_images: int = 4, total: int = 10) -> RunState:
        state = told(run_started(), events.PageListed(1, total, total), clock=Clock())
        for number in range(total):
            reference = image(f"image-{number}")
            state.apply(events.CandidateChecked("x", 1))
            state.apply(events.TagChecked(reference))
            state.apply(events.ImageQueued(reference))
            if number < finished_images:
                state.apply(events.ImageStarted(reference))
                state.apply(finished(reference, fetched=10 * MIB))

        return state

    def test_is_unknown_while_the_listing_goes_on(self) -> None:
        assert self.state().remaining_bytes(40 * MIB) is None

    def test_is_unknown_with_too_few_images(self) -> None:
        state = self.state(finished_images=2)
        state.apply(events.ListingFinished(1, complete=True))

        assert state.remaining_bytes(20 * MIB) is None

    def test_is_the_mean_of_finished_images_for_those_to_come(self) -> None:
        state = self.state()
        state.apply(events.ListingFinished(1, complete=True))

        assert state.remaining_bytes(40 * MIB) == 60 * MIB

    def test_counts_what_planned_images_have_fetched_already(self) -> None:
        state = self.state(total=5)
        state.apply(events.ListingFinished(1, complete=True))
        state.apply(events.ImageStarted(image("image-4")))
        state.apply(events.ImagePlanned(image("image-4"), 3, 90 * MIB, 30 * MIB))

        assert state.remaining_bytes(52 * MIB) == 18 * MIB

    def test_expects_the_usual_part_of_unchecked_candidates(self) -> None:
        state = told(events.PageListed(1, 8, 8), events.ListingFinished(1, complete=True))
        state.apply(events.CandidateChecked("one", 1))
        state.apply(events.TagChecked(image("one")))
        state.apply(events.CandidateSkipped("kolla/two", "no such tag"))

        assert state.expected_images == 1 + 6 / 2

    def test_is_only_what_is_in_work_after_a_stop(self) -> None:
        state = self.state()
        state.apply(events.StopRequested("Ctrl-C"))

        assert state.remaining_bytes(40 * MIB) == 0

    def test_goes_by_the_pace_of_images_when_there_is_nothing_to_fetch(self) -> None:
        clock, meters = Clock(0), Meters()
        state, rates = RunState(clock), Rates(meters, clock=clock)
        for event in (events.PageListed(1, 10, 10), events.ListingFinished(1, complete=True)):
            state.apply(event)

        for number in range(10):
            state.apply(events.CandidateChecked("x", 1))
            state.apply(events.TagChecked(image(f"{number}")))

        for number in range(5):
            state.apply(events.ImageStarted(image(f"{number}")))
            clock.now += 2
            state.apply(finished(image(f"{number}"), Status.UNCHANGED))

        assert rates.eta(state) == pytest.approx(10)


class TestRates:
    def test_say_nothing_in_the_first_second(self) -> None:
        rates = Rates(Meters(), clock=Clock())
        rates.sample()

        assert rates.current is rates.steady is None
        assert rates.history == ()

    def test_follow_the_last_seconds_and_the_last_minute(self) -> None:
        clock, meters = Clock(0), Meters()
        rates = Rates(meters, clock=clock)
        for second in range(101):
            clock.now = second
            rates.sample()
            meters.fetched_bytes += 100 if second < 90 else 300

        assert rates.current == 300
        assert rates.steady == pytest.approx((50 * 100 + 10 * 300) / 60)
        assert rates.history == pytest.approx((100.0,) * 18 + (300.0,) * 2)

    def test_keep_a_bounded_number_of_samples_however_often_they_look(self) -> None:
        clock, meters = Clock(0), Meters()
        rates = Rates(meters, clock=clock)
        for step in range(20_000):
            clock.now = step / 50
            rates.sample()

        assert len(rates._samples) <= 602
        assert len(rates.history) <= 240

    def test_fill_a_gap_with_its_mean(self) -> None:
        clock, meters = Clock(0), Meters()
        rates = Rates(meters, clock=clock)
        rates.sample()
        clock.now, meters.fetched_bytes = 30, 3_000
        rates.sample()

        assert rates.history == (100.0,) * 6

    def test_know_the_time_left_only_while_bytes_come(self) -> None:
        clock, meters = Clock(0), Meters()
        rates = Rates(meters, clock=clock)
        state = TestWhatIsLeft().state()
        state.apply(events.ListingFinished(1, complete=True))
        rates.sample()
        clock.now = 10
        rates.sample()
        assert rates.eta(state) is None

        clock.now, meters.fetched_bytes = 20, 40 * MIB
        rates.sample()
        assert rates.eta(state) == pytest.approx(30)
