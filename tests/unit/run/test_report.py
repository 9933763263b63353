"""The report's exit code: part of the contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quaymirror.errors import (
    ConfigError,
    ConnectFailed,
    CredentialsRefused,
    DiscoveryIncomplete,
    ExitCode,
    Failure,
    LockHeld,
    NotFound,
    QuaymirrorError,
    SelectionEmpty,
    StoreError,
    TargetRefused,
    most_severe,
)
from quaymirror.events import Event, ImageFinished, ListingFinished, Outcome, RunStarted, Status, StopRequested
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.progress.run import RunProgress
from quaymirror.run.report import Report
from quaymirror.selection.selection import Selection

IMAGE = Reference(Repository("quay.io", "kolla/nova-api"), "2025.1", Digest.of(b"x"))
FAILED = Outcome(IMAGE, Status.FAILED, error=Failure.of(NotFound("gone", status=404)))
STARTED = RunStarted("0", "quay.io", "kolla", "*", "2025.1", "mirror", 0.0)


def report_of(*happened: Event, **changes: Any) -> Report:
    """Return the report of a complete run in which `happened`."""
    progress = RunProgress()
    for event in (STARTED, ListingFinished(1, complete=True), *happened):
        progress.apply(event)

    selections = [Selection("kolla")]
    fields: dict[str, Any] = {
        "run_id": "0",
        "server": "https://quay.io",
        "target": "mirror",
        "started": 0.0,
        "elapsed": 1.0,
    }
    return Report(selections=selections, progress=progress, **(fields | changes))


DONE = ImageFinished(Outcome(IMAGE, Status.MIRRORED, bytes_fetched=5))
BROKEN = ImageFinished(FAILED)
STOP = StopRequested("interrupted")


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (report_of(DONE), ExitCode.OK),
        (report_of(BROKEN), ExitCode.PARTIAL),
        (report_of(DONE, STOP, stopped="interrupted"), ExitCode.PARTIAL),
        (report_of(DONE, STOP, stopped="interrupted", signal=ExitCode.INTERRUPTED), ExitCode.INTERRUPTED),
        (report_of(DONE, signal=ExitCode.INTERRUPTED), ExitCode.OK),
        (report_of(), ExitCode.EMPTY),
        (report_of(allow_empty=True), ExitCode.OK),
        (report_of(BROKEN, fatal=Failure.of(StoreError("full"))), ExitCode.STORAGE),
        (report_of(DONE, fatal=Failure.of(DiscoveryIncomplete("broke off"))), ExitCode.UNAVAILABLE),
        (report_of(DONE, fatal=Failure.of(SelectionEmpty("none"))), ExitCode.EMPTY),
        (report_of(DONE, fatal=Failure.of(SelectionEmpty("none")), allow_empty=True), ExitCode.OK),
    ],
)
def test_the_exit_code_is_the_most_severe_one(report: Report, code: ExitCode) -> None:
    assert report.exit_code is code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("no"), 2),
        (TargetRefused("no"), 2),
        (CredentialsRefused("no"), 4),
        (ConnectFailed("no"), 5),
        (DiscoveryIncomplete("no"), 5),
        (StoreError("full"), 6),
        (LockHeld("held"), 7),
        (SelectionEmpty("none"), 9),
    ],
)
def test_each_error_that_ends_a_command_has_the_code_of_the_contract(error: QuaymirrorError, code: int) -> None:
    assert error.exit_code == code


def test_the_most_severe_error_that_ended_a_run_is_reported_whichever_came_first() -> None:
    unavailable, full = DiscoveryIncomplete("broke off"), StoreError("full")
    assert most_severe([unavailable, full]) is full
    assert most_severe([full, unavailable]) is full
    assert most_severe([unavailable, DiscoveryIncomplete("no")]) is unavailable


def test_the_report_is_json_with_one_outcome_an_image_and_the_side_of_each_failure() -> None:
    document = json.loads(json.dumps(report_of(BROKEN).to_json()))
    (outcome,) = document["outcomes"]
    assert outcome["reference"] == "quay.io/kolla/nova-api:2025.1"
    assert outcome["error"] == {"type": "NotFound", "message": "gone", "side": "source", "phase": None}
    assert document["images"] == {"mirrored": 0, "unchanged": 0, "skipped": 0, "failed": 1, "refused": 0}
    assert document["schema_version"] == 2
