"""Faults of targets and sources during a push."""

from __future__ import annotations

from pathlib import Path

import pytest
from organizations import TAG, small_image
from pushing import EVERYTHING, LARGE, UPLOADS, check, error_of, organization
from receiver import Breakage, Receiver, refuse

import quaymirror
from quaymirror import Options, Status
from quaymirror.errors import ExitCode, Side
from quaymirror.events import Event, Notice
from quaymirror.progress.failed import FailedImage
from quaymirror.run.report import Report
from quaymirror.testing import (
    CorruptBody,
    CutBody,
    Fault,
    IgnoreRange,
    QuayServer,
    SourceManifest,
    make_image,
    make_layer,
)


async def push(server: QuayServer, target: Receiver, tmp_path: Path, **options: object) -> Report:
    settings = Options.of(server=server.url, state=tmp_path / "state", **options)
    return await quaymirror.sync(EVERYTHING, target.address, settings)


async def test_a_large_blob_goes_in_one_request(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, image)
        assert target.count("PUT", UPLOADS) == 2
        assert target.count("PATCH", UPLOADS) == 0


async def test_an_upload_that_breaks_goes_on_where_it_broke(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        target.cuts = [5_000_000]
        report = await push(server, target, tmp_path)
        check(target, image)
        assert report.exit_code is ExitCode.OK
        # No byte was sent twice, and only bytes in flight were fetched twice.
        assert target.received == sum(len(blob.data) for blob in image.all_blobs().values())
        assert server.blob_bytes() < 2 * LARGE


async def test_an_interrupted_source_is_resumed_and_the_target_keeps_its_bytes(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        server.faults.append(Fault("", CutBody(6_000_000), listener="cdn", nth=1))
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, image)
        assert target.received == sum(len(blob.data) for blob in image.all_blobs().values())


async def test_a_source_that_knows_no_ranges_starts_over(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        server.faults.append(Fault("", CutBody(6_000_000), listener="cdn", nth=1))
        server.faults.append(Fault("", IgnoreRange(), listener="cdn"))
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, image)


async def test_a_registry_that_counts_one_too_many_gets_the_blob_from_its_start_again(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver(off_by_one=True) as target:
        target.cuts = [5_000_000]
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, image)


@pytest.mark.parametrize("size", [2048, LARGE], ids=["small", "large"])
async def test_wrong_bytes_never_become_a_blob_and_the_upload_is_given_up(size: int, tmp_path: Path) -> None:
    image = small_image("corrupt", size)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        server.faults.append(Fault("", CorruptBody(100), listener="cdn"))
        report = await push(server, target, tmp_path)
        error = error_of(report)
        assert error.side is Side.SOURCE
        assert "other bytes" in error.message
        assert not target.blobs["kolla/image-0"]
        assert not target.uploads
        assert TAG not in target.manifests["kolla/image-0"]


async def test_a_target_behind_a_proxy_that_limits_bodies_gets_pieces(tmp_path: Path) -> None:
    images = small_image("one", LARGE), small_image("two", LARGE)
    async with QuayServer(organization(*images)) as server, Receiver(limit=1024 * 1024) as target:
        report = await push(server, target, tmp_path, concurrency=1)
        assert report.exit_code is ExitCode.OK
        check(target, *images)
        # The second blob uses the upload mode that the first one found out.
        assert sum(int(r.headers.get("Content-Length", 0)) > 1024 * 1024 for r in target.requests) == 1


async def test_pieces_that_break_go_on_where_they_broke(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver(limit=1024 * 1024) as target:
        target.breakages.append(Breakage("PATCH", UPLOADS, refuse(502), nth=4))
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, image)


async def test_a_finished_upload_with_a_lost_answer_is_not_sent_again(tmp_path: Path) -> None:
    image = small_image("large", LARGE)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        layer = next(digest for digest, blob in image.all_blobs().items() if len(blob.data) > LARGE // 2)
        data = image.all_blobs()[layer].data

        def lose(request: object) -> None:
            target.blobs["kolla/image-0"][layer] = data

        target.cuts = [5_000_000]
        target.breakages.append(Breakage("HEAD", layer, lose, nth=2))
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        assert target.manifests["kolla/image-0"][TAG] == (image.media_type, image.raw)


async def test_a_registry_that_never_mounts_gets_each_blob_in_each_repository(tmp_path: Path) -> None:
    shared = make_layer("shared", 2048)
    images = [make_image([shared], labels={"n": str(number)}) for number in range(12)]
    events: list[Event] = []
    async with QuayServer(organization(*images)) as server, Receiver(mounts=False) as target:
        settings = Options.of(server=server.url, state=tmp_path / "state", concurrency=4)
        report = await quaymirror.sync(EVERYTHING, target.address, settings, observer=events.append)
        assert report.exit_code is ExitCode.OK
        check(target, *images)

    assert sum("does not mount" in event.message for event in events if isinstance(event, Notice)) == 1


async def test_a_registry_that_mounts_tells_in_one_request_whether_it_has_a_blob_or_begins_its_upload(
    tmp_path: Path,
) -> None:
    shared = make_layer("shared", 2048)
    images = [make_image([shared, make_layer(f"own {number}", 1024)]) for number in range(12)]
    last = "kolla/image-9"  # by name
    layer = next(digest for digest in images[9].all_blobs() if digest not in images[8].all_blobs())
    async with QuayServer(organization(*images)) as server, Receiver() as target:
        target.blobs[last][layer] = images[9].all_blobs()[layer].data  # left by a run that was interrupted
        report = await push(server, target, tmp_path, concurrency=1)
        assert report.exit_code is ExitCode.OK
        check(target, *images)
        blobs = [request for request in target.requests if request.path.startswith(f"/v2/{last}/blobs/")]
        assert "HEAD" not in {request.method for request in blobs}
        assert not [request for request in blobs if request.query.get("digest") == layer]
        assert target.received == sum(len(data) for data in _distinct(images).values()) - len(target.blobs[last][layer])


def _distinct(images: list[SourceManifest]) -> dict[str, bytes]:
    return {digest: blob.data for image in images for digest, blob in image.all_blobs().items()}


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (Breakage("POST", UPLOADS, refuse(403), nth=0), "permission, quota, or read-only"),
        (Breakage("POST", UPLOADS, refuse(405, "UNSUPPORTED"), nth=0), "read-only"),
        (Breakage("PUT", UPLOADS, refuse(507), nth=0), "no space"),
        (Breakage("PUT", "/manifests/sha256:", refuse(415), nth=0), "media type"),
        (Breakage("PUT", "/manifests/sha256:", refuse(413), nth=0), "too large"),
        (Breakage("PUT", f"/manifests/{TAG}", refuse(409, "TAG_IMMUTABLE"), nth=0), "immutable"),
        (Breakage("PUT", "/manifests/sha256:", refuse(400, "MANIFEST_INVALID"), nth=0), "the target rejects it"),
    ],
    ids=["403", "405", "507", "415", "413", "409", "400"],
)
async def test_a_refusal_fails_one_image_and_names_the_target(breakage: Breakage, words: str, tmp_path: Path) -> None:
    async with QuayServer(organization(small_image("refused"))) as server, Receiver() as target:
        breakage.seen = 0
        target.breakages.append(breakage)
        report = await push(server, target, tmp_path)

    error = error_of(report)
    assert error.side is Side.TARGET
    assert words in error.message
    assert target.host in error.message
    assert report.exit_code is ExitCode.PARTIAL
    assert not target.uploads


async def test_an_upload_is_refused_before_a_byte_is_fetched(tmp_path: Path) -> None:
    async with QuayServer(organization(small_image("refused", LARGE))) as server, Receiver() as target:
        target.breakages.append(Breakage("POST", UPLOADS, refuse(403), nth=0))
        await push(server, target, tmp_path)
        assert server.blob_bytes() < 4096  # the config is small: it is fetched first


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.2:1{path}", "//evil.example{path}", "ftp://x{path}", ""])
async def test_uploads_are_never_sent_to_another_host(elsewhere: str, tmp_path: Path) -> None:
    async with QuayServer(organization(small_image("lured"))) as server, Receiver() as target:
        target.location = lambda path: elsewhere.replace("{path}", path)
        report = await push(server, target, tmp_path)

    error = error_of(report)
    assert "refused" in error.message
    assert error.side is Side.TARGET


async def test_an_absolute_location_at_the_registry_is_followed_with_any_scheme(tmp_path: Path) -> None:
    image = small_image("behind a proxy")
    async with QuayServer(organization(image)) as server, Receiver() as target:
        target.location = lambda path: f"https://{target.host}{path}?_state=a%2Bb%3D"
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, image)
        puts = [request for request in target.requests if request.method == "PUT" and UPLOADS in request.path]
        assert {request.query["_state"] for request in puts} == {"a+b="}


async def test_a_manifest_that_the_target_stores_otherwise_gets_no_tag(tmp_path: Path) -> None:
    from aiohttp import web

    def rewrite(_: object) -> web.Response:
        return web.Response(status=201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64})

    async with QuayServer(organization(small_image("rewritten"))) as server, Receiver() as target:
        target.breakages.append(Breakage("PUT", "/manifests/", rewrite, nth=0))
        report = await push(server, target, tmp_path)
        assert "stored" in error_of(report).message
        assert target.count("PUT", f"/manifests/{TAG}") == 0


async def test_a_length_that_is_wrong_is_not_trusted(tmp_path: Path) -> None:
    image = small_image("truncated")
    async with QuayServer(organization(image)) as server, Receiver() as target:
        target.blobs["kolla/image-0"] = dict.fromkeys(image.all_blobs(), b"x")
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, image)


async def test_overload_of_the_target_is_waited_out(tmp_path: Path) -> None:
    from aiohttp import web

    def busy(_: object) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "0"})

    images = [small_image(str(number), LARGE // 4) for number in range(4)]
    async with QuayServer(organization(*images)) as server, Receiver() as target:
        for method in ("HEAD", "POST", "PUT"):
            target.breakages += [Breakage(method, "", busy, nth=nth) for nth in (1, 2, 5)]

        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, *images)


async def test_a_dry_run_asks_and_changes_nothing(tmp_path: Path) -> None:
    image = small_image("planned", LARGE)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        report = await push(server, target, tmp_path, dry_run=True)
        assert report.counts == {Status.MIRRORED: 1, Status.SKIPPED: 0}
        assert report.bytes_fetched == len(image.raw) + sum(len(b.data) for b in image.all_blobs().values())
        assert {request.method for request in target.requests} == {"GET", "HEAD"}
        assert server.blob_bytes() == 0
        assert not (tmp_path / "state").exists()


async def test_one_token_is_requested_for_several_repositories_and_covers_mounts(tmp_path: Path) -> None:
    shared = [make_layer(f"shared {number}", 2048) for number in range(3)]
    images = [make_image(shared, labels={"n": str(number)}) for number in range(60)]
    source = QuayServer(organization(*images), require_token=True, latency=0.02)
    async with source as server, Receiver(tokens=True) as target:
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK
        check(target, *images)
        assert server.count("/v2/auth") < 50  # and not 60
        # At most one to look and upload, and one more for each place that something is mounted from; mostly less.
        assert target.count("GET", "/token") < 2 * 60
        # The first ones, before the token service is known; then tokens are requested ahead.
        assert target.challenges < 20
        assert server.blob_bytes() == sum(
            len(data) for data in {digest: blob.data for i in images for digest, blob in i.all_blobs().items()}.values()
        )


REASONS = {
    "a quota": ("PUT", UPLOADS, 403, "Quota has been exceeded", "writing is forbidden"),
    "no project": ("POST", UPLOADS, 404, "project mirror not found", "create its project"),
    "a media type": ("PUT", "/manifests/", 415, "no such type here", "this media type"),
    "no permission": ("POST", UPLOADS, 401, "action: push", "no permission to write"),
}


@pytest.mark.parametrize("name", REASONS)
async def test_the_sentence_of_the_registry_is_one_reason_for_all_images(name: str, tmp_path: Path) -> None:
    method, path, status, sentence, words = REASONS[name]
    images = [small_image(str(number)) for number in range(3)]
    async with QuayServer(organization(*images)) as server, Receiver() as target:
        target.breakages.append(Breakage(method, path, refuse(status, text=sentence), nth=0))
        report = await push(server, target, tmp_path)

    (reason,) = {str(FailedImage.of(outcome)) for outcome in report.outcomes}
    assert reason.startswith("target: ")
    assert words in reason
    assert sentence in reason
    advice = {outcome.error.advice for outcome in report.outcomes if outcome.error}
    assert all("--dest-username" in one for one in advice) is (name == "no permission")
