from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from run_stories import Run, runs
from scene import image, run_started

from quaymirror import errors, events
from quaymirror.oci import Digest, Repository
from quaymirror.ui.jsonl import JsonLines, event_name, to_json

GOLDEN = Path(__file__).parent / "golden" / "events.jsonl"
NOVA = image("nova")
GONE = errors.Failure.of(errors.NotFound("gone", phase=errors.Phase.FETCH))
DOWN = errors.Failure.of(errors.Unavailable("answered 500", status=500))
EVERY_EVENT: list[events.Event] = [
    run_started(),
    events.PageListed(1, 100, 90),
    events.ListingFinished(1, complete=True),
    events.CandidateChecked("kolla/nova", 1),
    events.TagChecked(NOVA),
    events.CheckFailed("quay.io/kolla/x", "2025.1-*", DOWN),
    events.TagsRejected("kolla/x", 2),
    events.DigestTagsSeen("kolla/x", 3),
    events.CandidateSkipped("kolla/old", "no such tag"),
    events.NameUnmatched("kolla/nvoa", ("kolla/nova",)),
    events.ImageQueued(NOVA),
    events.ImageStarted(NOVA),
    events.ImagePlanned(NOVA, 12, 400, 60),
    events.BlobFinished(Digest.of(b""), 60),
    events.WorkerReported("tcp://10.0.0.1:40001", 60, brought=True),
    events.ImageDerived(NOVA, ("Found 1 match.", ""), ("warning: look",)),
    events.ImageFinished(events.Outcome(NOVA, events.Status.FAILED, 1, 2, 3.5, None, GONE)),
    events.RetryScheduled("layer", 1, 2.5, "reset", "quay.io"),
    events.HostPaused("quay.io", 30.0, "429"),
    events.HostResumed("quay.io"),
    events.ImagesMoved(("quay.io/kolla/nova-api:2025.1",), is_left=True),
    events.HostPaced("quay.io", "api", 4, 4.8125, 3),
    events.Notice("look"),
    events.StopRequested("Ctrl-C"),
    events.RunFinished(12.5, 3, totals=events.Totals(mirrored=2, failed=1, bytes_fetched=60)),
]


def lines_of(*happened: events.Event) -> list[str]:
    written: list[str] = []
    observer = JsonLines(written.append, lambda: 1_790_000_000.12345)
    for event in happened:
        observer(event)

    return written


def test_every_class_of_event_is_tried_here() -> None:
    assert {type(event) for event in EVERY_EVENT} == set(get_args(events.Event))


def test_every_event_is_written_as_it_always_was() -> None:
    """The format is read by programs: a change of this file is a new version of it."""
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text("".join(lines_of(*EVERY_EVENT)), encoding="ascii")

    assert "".join(lines_of(*EVERY_EVENT)) == GOLDEN.read_text(encoding="ascii")


def test_names_of_events_are_their_classes_in_snake_case() -> None:
    assert event_name(events.RunFinished(1, 0)) == "run_finished"
    assert event_name(events.Notice("")) == "notice"


def test_the_run_is_named_in_every_line_once_it_has_begun() -> None:
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in lines_of(events.Notice("early"), run_started(), events.Notice("late"))
    ]

    assert [line["run_id"] for line in lines] == [None, "20261123-r7", "20261123-r7"]


def test_an_error_is_an_object() -> None:
    error = errors.Failure.of(errors.NotFound("gone\x1b[2J", phase=errors.Phase.FETCH))

    assert to_json(error) == {
        "type": "NotFound",
        "message": "gone\\x1b[2J",
        "side": "source",
        "phase": "fetch",
        "scope": "image",
    }
    assert to_json(errors.Failure.of(errors.ConfigError("no"))) == {
        "type": "ConfigError",
        "message": "no",
        "side": "source",
        "phase": None,
        "scope": "run",
    }


def test_names_are_texts() -> None:
    assert to_json(Repository("quay.io", "kolla/nova")) == "quay.io/kolla/nova"
    assert to_json(NOVA) == f"quay.io/kolla/nova:2025.1-debian@{NOVA.digest}"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_has_no_word_for_is_null(number: float) -> None:
    assert to_json(number) is None


@given(runs(hostile=True))
def test_every_line_is_one_ascii_object(run: Run) -> None:
    lines = lines_of(*run.events)

    assert len(lines) == len(run.events)
    assert all(line.isascii() and line[:-1].isprintable() and line[-1] == "\n" for line in lines)
    assert all(json.loads(line)["v"] == 2 for line in lines)
