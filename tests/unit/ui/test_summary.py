from __future__ import annotations

import pytest
from hypothesis import given
from run_stories import Run, runs
from scene import MIB, Clock, finished, image, run_started

from quaymirror import errors, events
from quaymirror.events import Outcome, Status
from quaymirror.progress.meters import Meters
from quaymirror.progress.run import RunProgress
from quaymirror.ui.summary import summary_lines


def summary(*happened: events.Event, exit_code: int = 0, dry_run: bool = False, received: int = 0) -> str:
    progress = RunProgress(Clock(), Meters(received))
    for event in (run_started(dry_run=dry_run), *happened, events.RunFinished(10.0, exit_code)):
        progress.apply(event)

    return "\n".join(summary_lines(progress))


def failed(name: str, error: errors.QuaymirrorError | None = None) -> events.ImageFinished:
    return finished(image(name), Status.FAILED, error or errors.NotFound("gone", phase=errors.Phase.FETCH))


def test_a_run_that_went_well_is_told_in_numbers_without_advice() -> None:
    outcome = Outcome(image("nova"), Status.MIRRORED, 18 * MIB, 60 * MIB, 9.0)

    assert summary(
        events.ImageFinished(outcome), events.CandidateSkipped("kolla/old", "no such tag"), received=20 * MIB
    ) == (
        "mirror of kolla/*:2025.1-debian from https://quay.io to /srv/mirror\n"
        "\n"
        "  mirrored         1\n"
        "  unchanged        0\n"
        "  skipped          1  no such tag: 1\n"
        "  failed           0\n"
        "\n"
        "  20.0 MiB fetched, 60.0 MiB reused, in 10 s (2.0 MiB/s)"
    )


def test_a_night_without_changes_has_no_rate() -> None:
    text = summary(finished(image("nova"), Status.UNCHANGED, None))

    assert text.endswith("  0 B fetched, 0 B reused, in 10 s")


def test_failures_are_sorted_by_name_and_capped() -> None:
    text = summary(*(failed(f"image-{number:02}") for number in reversed(range(23))), exit_code=3)
    block = text[text.index("failed (23):") :].splitlines()

    assert block[1] == "  gone"
    assert block[2] == "    kolla/image-00:2025.1-debian"
    assert block[21] == "    kolla/image-19:2025.1-debian"
    assert block[22] == "  and 3 more"


def test_the_url_of_a_failure_follows_its_image_if_it_is_wanted() -> None:
    error = errors.AccessDenied("quay.io:443/v2/kolla/x/manifests/a: 403 Forbidden: private, or needs credentials")
    progress = RunProgress(Clock())
    progress.apply(run_started())
    progress.apply(failed("x", error))

    for verbose in (False, True):
        lines = summary_lines(progress, verbose=verbose)
        assert "  403 Forbidden: private, or needs credentials" in lines
        assert ("    kolla/x:2025.1-debian  quay.io:443/v2/kolla/x/manifests/a" in lines) is verbose


def test_changes_at_the_source_are_a_line() -> None:
    progress = RunProgress(Clock())
    for event in (run_started(), events.RunFinished(1.0, 0, changes=events.ChangeCounts(3, 12, 2))):
        progress.apply(event)

    assert "  +3 new  ~12 moved  -2 missing at source" in summary_lines(progress)


def test_a_run_that_was_stopped_says_what_it_kept() -> None:
    text = summary(
        events.ListingFinished(1, complete=True),
        *(events.CandidateChecked(f"kolla/{name}", 1) for name in "abc"),
        finished(image("a")),
        events.StopRequested("interrupted"),
        exit_code=130,
    )

    assert "  1 image is complete, 2 images are unfinished; what was fetched is kept" in text


@pytest.mark.parametrize(
    ("happened", "exit_code", "advice"),
    [
        ([failed("x", errors.ReadInterrupted("broke off"))], 3, "run the same command again"),
        ([failed("x", errors.AccessDenied("no"))], 3, "--username"),
        ([failed("x", errors.RateLimited("slow down"))], 3, "--max-requests-per-second"),
        ([failed("x", errors.PullsExhausted("limit"))], 3, "when pulls resume"),
        ([events.ListingFinished(1, complete=False)], 5, "the listing broke off"),
        ([events.StopRequested("Ctrl-C")], 130, "stopped before its end: Ctrl-C"),
        ([], 6, "free some space"),
        ([], 7, "wait for the other run"),
        ([], 9, "quaymirror list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_advice_is_given_where_it_is_true(happened: list[events.Event], exit_code: int, advice: str) -> None:
    assert advice in summary(*happened, exit_code=exit_code)
    assert advice not in summary()


def test_another_run_is_advised_only_where_it_can_help() -> None:
    assert "again" not in summary(failed("x", errors.AccessDenied("no")), failed("y"), exit_code=3)


def test_a_dry_run_tells_what_it_would_fetch() -> None:
    outcome = Outcome(image("nova"), Status.MIRRORED, 10 * MIB, 30 * MIB, 1.0)
    text = summary(events.ImageFinished(outcome), dry_run=True)

    assert "would fetch 10.0 MiB of 40.0 MiB" in text
    assert "run it without --dry-run" in text


def test_a_run_that_never_began_has_a_summary_too() -> None:
    assert summary_lines(RunProgress(Clock()))[0] == "nothing was started"


@given(runs(hostile=True))
def test_every_line_can_be_printed(run: Run) -> None:
    progress = RunProgress(Clock())
    for event in run.events:
        progress.apply(event)

    assert all(line.isprintable() for line in summary_lines(progress))
