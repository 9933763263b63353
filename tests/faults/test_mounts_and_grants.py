"""Targets that grant less than a push asks for: mounts, tokens, repositories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from organizations import TAG
from pushing import EVERYTHING, UPLOADS, check, organization
from receiver import Breakage, Receiver, refuse
from trouble import Impatient

import quaymirror
from quaymirror import Options
from quaymirror.errors import ExitCode, Side
from quaymirror.run.report import Report
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import QuayServer, make_image, make_layer

SHARED = [make_layer(f"shared {number}", 2048) for number in range(3)]
IMAGES = [make_image(SHARED, labels={"n": str(number)}) for number in range(12)]


async def push(server: QuayServer, target: Receiver, path: Path, **options: object) -> Report:
    settings = Options.of(server=server.url, state=path / "state", retry=Impatient().policy(), **options)
    return await quaymirror.sync(EVERYTHING, target.address, settings)


def mounts(target: Receiver) -> int:
    return sum("mount" in request.query for request in target.requests)


def breaks(target: Receiver, status: int) -> None:
    def react(request: object) -> object:
        return refuse(status)(request) if "mount" in request.query else None  # type: ignore[attr-defined, arg-type]

    target.breakages.append(Breakage("POST", UPLOADS, react, nth=0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "status", [401, 404, 500, *(pytest.param(status, marks=pytest.mark.soak) for status in (400, 403, 405, 501))]
)
async def test_a_mount_that_is_refused_becomes_an_upload(status: int, tmp_path: Path) -> None:
    async with QuayServer(organization(*IMAGES)) as server, Receiver() as target:
        breaks(target, status)
        report = await push(server, target, tmp_path, retries=1)
        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        check(target, *IMAGES)
        # Once for each of a few repositories, and not for each of 33 blobs.
        assert mounts(target) <= 12 * (2 if status == 500 else 1)


TWO: dict[str, tuple[Callable[[list[str]], bool], Callable[[str], bool]]] = {
    "a token service that refuses two scopes": (lambda scopes: len(scopes) < 2, lambda _: True),
    "a token service that grants no reading": (lambda _: True, lambda scope: "push" in scope),
    "a token service that refuses reading": (lambda scopes: all("push" in one for one in scopes), lambda _: True),
}


@pytest.mark.parametrize("name", TWO)
async def test_a_token_that_allows_no_mount_still_allows_an_upload(name: str, tmp_path: Path) -> None:
    credentials = Credentials("robot", Secret("pw"))
    async with QuayServer(organization(*IMAGES)) as server, Receiver(tokens=True) as target:
        target.issues, target.grants = TWO[name]
        report = await push(server, target, tmp_path, dest_credentials=credentials)
        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        check(target, *IMAGES)
        assert mounts(target) <= 2 * 12


async def test_an_account_that_may_not_push_is_named_with_the_namespace(tmp_path: Path) -> None:
    credentials = Credentials("org+robot", Secret("pw"))
    async with QuayServer(organization(*IMAGES)) as server, Receiver(tokens=True) as target:
        target.grants = lambda scope: False
        report = await push(server, target, tmp_path, dest_credentials=credentials)
        assert report.exit_code is ExitCode.CREDENTIALS
        messages = {outcome.error.message for outcome in report.outcomes if outcome.error}
        words = f"the account org+robot may not push to {target.host}/kolla: no such organization, or no permission"
        assert messages == {words}
        assert {outcome.error.side for outcome in report.outcomes if outcome.error} == {Side.TARGET}
        assert server.blob_bytes() == 0
        advice = {outcome.error.advice for outcome in report.outcomes if outcome.error}
        assert all("--dest-username" in one for one in advice)


async def test_an_account_that_may_push_some_images_is_a_partial_failure(tmp_path: Path) -> None:
    credentials = Credentials("org+robot", Secret("pw"))
    async with QuayServer(organization(*IMAGES)) as server, Receiver(tokens=True) as target:
        target.grants = lambda scope: "image-1" in scope
        report = await push(server, target, tmp_path, dest_credentials=credentials)
        assert report.exit_code is ExitCode.PARTIAL
        assert sum(outcome.error is None for outcome in report.outcomes) == 3  # 1, 10 and 11
        assert TAG in target.manifests["kolla/image-1"]


async def test_a_dry_run_asks_once_for_each_image_and_once_for_each_repository(tmp_path: Path) -> None:
    credentials = Credentials("robot", Secret("pw"))
    async with QuayServer(organization(*IMAGES)) as server, Receiver(tokens=True) as target:
        report = await push(server, target, tmp_path, dest_credentials=credentials, dry_run=True)
        assert report.exit_code is ExitCode.OK
        asked = [request for request in target.requests if request.path not in ("/v2/", "/token")]
        assert len(asked) <= 2 * len(IMAGES)
        assert target.challenges == 1
        blobs = {digest: len(blob.data) for image in IMAGES for digest, blob in image.all_blobs().items()}
        assert report.bytes_fetched == sum(blobs.values()) + sum(len(image.raw) for image in IMAGES)
