"""Pushes while the source or the target breaks: the source sends each byte about once."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import peers
import pytest
from aiohttp import web
from organizations import TAG, small_image
from pushing import EVERYTHING, LARGE, check, organization
from receiver import Breakage, Receiver
from trouble import Impatient

import quaymirror
from quaymirror import Options
from quaymirror.errors import ExitCode
from quaymirror.run.report import Report
from quaymirror.store import fsops
from quaymirror.testing import Fault, QuayServer, SourceManifest
from quaymirror.testing.faults import Action
from quaymirror.testing.messages import Answer

IMAGES = small_image("one", LARGE, 20_000), small_image("two", LARGE // 2, 1_500_000)
UNIQUE = sum(len(blob.data) for image in IMAGES for blob in image.all_blobs().values())


@dataclass(frozen=True)
class CutShare(Action):
    """Break each body after 30 % of its blob, or of what is left if that is less."""

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        whole = answer.headers.get("Content-Range", "").rpartition("/")[2] or answer.length or 0
        after = int(int(whole) * 0.3)
        if answer.length is None or answer.length <= after:
            return answer

        return answer.delivered(lambda delivery: replace(delivery, cut_after=after))


async def push(server: QuayServer, address: str, path: Path, **options: object) -> Report:
    settings = Options.of(server=server.url, state=path / "state", retry=Impatient().policy(), **options)
    return await quaymirror.sync(EVERYTHING, address, settings)


@contextmanager
def full(operation: str) -> Iterator[None]:
    """Let `operation` fail for the files without names."""

    def watch(kind: str, path: Path) -> AbstractContextManager[None]:
        if kind == operation and path.is_dir():
            raise OSError(errno.ENOSPC, "full")

        return nullcontext()

    fsops.watch(watch)
    try:
        yield
    finally:
        fsops.watch(None)


@asynccontextmanager
async def source(*images: SourceManifest) -> AsyncIterator[QuayServer]:
    async with QuayServer(organization(*images)) as server:
        yield server


@pytest.mark.parametrize("kind", ["keeps", "forgets", "chunks"])
async def test_a_source_that_breaks_every_body_sends_each_byte_about_once(kind: str, tmp_path: Path) -> None:
    async with source(*IMAGES) as server, Receiver(limit=1024 * 1024 if kind == "chunks" else None) as target:
        target.forgets = kind == "forgets"
        server.faults.append(Fault("", CutShare(), listener="cdn"))
        report = await push(server, target.address, tmp_path)
        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        check(target, *IMAGES)
        # A body that is refused at its first byte is lost as far as it was under way.
        assert server.blob_bytes() / UNIQUE <= (1.4 if kind == "chunks" else 1.1)


@pytest.mark.interop
async def test_a_source_that_breaks_every_body_sends_each_byte_about_once_to_a_real_registry(tmp_path: Path) -> None:
    with peers.DockerRegistry(tmp_path) as target:
        async with source(*IMAGES) as server:
            server.faults.append(Fault("", CutShare(), listener="cdn"))
            report = await push(server, f"registry://{target.host}?insecure=true", tmp_path)
            assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
            assert server.blob_bytes() <= 1.1 * UNIQUE

        for number, image in enumerate(IMAGES):
            reference = f"docker://{target.host}/kolla/image-{number}:{TAG}"
            assert peers.skopeo("inspect", "--raw", "--tls-verify=false", reference).encode() == image.raw


@pytest.mark.parametrize("status", [429, 503, pytest.param(500, marks=pytest.mark.soak)])
async def test_a_target_that_is_busy_after_a_body_costs_the_source_nothing(status: int, tmp_path: Path) -> None:
    async with source(*IMAGES) as server, Receiver() as target:
        target.late = [status] * 6
        report = await push(server, target.address, tmp_path)
        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        check(target, *IMAGES)
        assert server.blob_bytes() == UNIQUE


async def test_a_target_that_does_not_continue_an_upload_gets_all_of_it_again(tmp_path: Path) -> None:
    async with source(IMAGES[0]) as server, Receiver() as target:
        target.cuts = [5_000_000]

        def refuse(request: object) -> web.Response:
            return web.json_response({"errors": [{"code": "UNSUPPORTED", "message": "no"}]}, status=405)

        target.breakages.append(Breakage("PATCH", "", refuse, nth=0))
        report = await push(server, target.address, tmp_path)
        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        check(target, IMAGES[0])


@pytest.mark.parametrize("operation", ["write", pytest.param("open", marks=pytest.mark.soak)])
async def test_without_space_for_copies_blobs_are_fetched_again(operation: str, tmp_path: Path) -> None:
    async with source(*IMAGES) as server, Receiver() as target:
        target.cuts = [3_000_000]
        target.late = [503]
        with full(operation):
            report = await push(server, target.address, tmp_path)

        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        check(target, *IMAGES)
