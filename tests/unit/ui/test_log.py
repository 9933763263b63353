from __future__ import annotations

import logging

import pytest
from hypothesis import given
from run_stories import Run, runs
from scene import finished, image, run_started

from quaymirror import events
from quaymirror.errors import Failure, NotFound, Phase
from quaymirror.ui.log import level_of, message_of

GONE = NotFound("gone", phase=Phase.FETCH)


@pytest.mark.parametrize(
    ("event", "level", "message"),
    [
        (
            run_started(dry_run=True),
            logging.INFO,
            "started kolla/*:2025.1-debian from https://quay.io to /srv/mirror, run 20261123-r7, dry run",
        ),
        (
            finished(image("nova"), events.Status.FAILED, GONE),
            logging.ERROR,
            "failed gone  kolla/nova:2025.1-debian",
        ),
        (finished(image("nova"), events.Status.UNCHANGED), logging.INFO, None),
        (events.ListingFinished(1, complete=False), logging.WARNING, "listed 1 page; the listing broke off"),
        (events.HostPaused("quay.io", 2.0, "429"), logging.INFO, "paused quay.io for 2 s: 429"),
        (events.HostPaused("quay.io", 60.0, "429"), logging.WARNING, "paused quay.io for 1m 00s: 429"),
        (events.Notice("look"), logging.WARNING, "look"),
        (events.ImageQueued(image("nova")), logging.DEBUG, "image queued"),
        (
            events.RunFinished(65.0, 6, Failure.of(GONE)),
            logging.ERROR,
            "finished after 1m 05s, exit code 6: source, fetch: gone",
        ),
    ],
)
def test_an_event_has_a_level_and_a_message(event: events.Event, level: int, message: str | None) -> None:
    assert level_of(event) == level
    assert message is None or message_of(event) == message


@given(runs(hostile=True))
def test_every_message_is_one_line_that_is_safe_to_print(run: Run) -> None:
    assert all(message_of(event).isprintable() for event in run.events)
