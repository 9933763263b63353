"""The report's exit code: part of the contract."""

from __future__ import annotations

import json
from dataclasses import replace

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
from quaymirror.events import Outcome, Status
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.run.report import Report
from quaymirror.selection.selection import Selection

IMAGE = Reference(Repository("quay.io", "kolla/nova-api"), "2025.1", Digest.of(b"x"))
DONE = Report(
    run_id="0",
    selections=[Selection("kolla")],
    server="https://quay.io",
    target="mirror",
    started=0.0,
    elapsed=1.0,
    outcomes=[Outcome(IMAGE, Status.MIRRORED, bytes_fetched=5)],
    complete=True,
)
FAILED = Outcome(IMAGE, Status.FAILED, error=Failure.of(NotFound("gone", status=404)))


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (DONE, ExitCode.OK),
        (replace(DONE, outcomes=[FAILED]), ExitCode.PARTIAL),
        (replace(DONE, complete=False, stopped="interrupted"), ExitCode.PARTIAL),
        (replace(DONE, outcomes=[]), ExitCode.EMPTY),
        (replace(DONE, outcomes=[], allow_empty=True), ExitCode.OK),
        (replace(DONE, outcomes=[FAILED], fatal=Failure.of(StoreError("full"))), ExitCode.STORAGE),
        (replace(DONE, fatal=Failure.of(DiscoveryIncomplete("broke off"))), ExitCode.UNAVAILABLE),
        (replace(DONE, fatal=Failure.of(SelectionEmpty("none"))), ExitCode.EMPTY),
        (replace(DONE, fatal=Failure.of(SelectionEmpty("none")), allow_empty=True), ExitCode.OK),
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
    document = json.loads(json.dumps(replace(DONE, outcomes=[FAILED]).to_json()))
    (outcome,) = document["outcomes"]
    assert outcome["reference"] == "quay.io/kolla/nova-api:2025.1"
    assert outcome["error"] == {"type": "NotFound", "message": "gone", "side": "source", "phase": None}
    assert document["images"] == {"mirrored": 0, "unchanged": 0, "skipped": 0, "failed": 1}
    assert document["schema_version"] == 1
