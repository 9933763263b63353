"""Faults during transfers: the right bytes arrive, or that image alone fails with a clear message."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import anyio
import layouts
import pytest
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Options, ReferrerMode, Selection, Status
from quaymirror.errors import (
    AccessDenied,
    DigestMismatch,
    ExitCode,
    NotFound,
    QuaymirrorError,
    UnsafeRedirect,
    UnsupportedContent,
)
from quaymirror.testing import (
    Action,
    CorruptBody,
    CutBody,
    ExtraHeaders,
    Fault,
    Hold,
    IgnoreRange,
    QuayServer,
    Raw,
    Redirect,
    Registry,
    ReplaceBody,
    Reset,
    ShortBody,
    WrongContentRange,
    bad_gateway,
    too_many_requests,
)
from quaymirror.testing import Status as Answer

EVERYTHING = Selection("kolla", "*", TAG)
MANIFESTS, BLOBS = r"^/v2/.*/manifests/", r"^/v2/.*/blobs/"
GONE = Answer(404, {"Content-Type": "application/json"}, b'{"errors": [{"code": "BLOB_UNKNOWN", "message": "no"}]}')


def one_image(*layers: int) -> Registry:
    registry = Registry()
    registry.organization("kolla").repository("nova").push(TAG, small_image("nova", *layers))
    return registry


# The one layer of three million bytes, on the CDN.
LAYER = small_image("nova", 3_000_000).blobs[1].digest.partition(":")[2]


async def mirror(server: QuayServer, path: Path, *, retries: int = 5) -> quaymirror.Report:
    report = await quaymirror.sync(
        EVERYTHING, path, Options.of(server=server.url, retries=retries, referrers=ReferrerMode.NONE)
    )
    layouts.check(path)
    return report


PASSING = {
    "connection reset before a manifest": Fault(MANIFESTS, Reset(), times=2),
    "bad gateway for a manifest": Fault(MANIFESTS, bad_gateway(), times=2),
    "other bytes for a manifest, once": Fault(MANIFESTS, CorruptBody(30), times=1),
    "no HTTP at all": Fault(MANIFESTS, Raw(b"garbage\r\n\r\n"), times=1),
    "a page of HTML for a listing": Fault("^/api/v1/repository$", ReplaceBody(b"<html>", "text/html"), times=1),
    "an error that is a 200": Fault("^/api/v1/repository$", ReplaceBody(b'{"error": "try later"}'), times=1),
    "half a listing": Fault("^/api/v1/repository$", CutBody(40), times=1),
    "too many tag checks": Fault("/tag/$", too_many_requests("0"), times=3),
    "a blob cut off": Fault(".*", CutBody(900_000), listener="cdn", times=1),
    "a blob cut off without a length": Fault(".*", ShortBody(900_000), listener="cdn", times=1),
    "other bytes for a blob, once": Fault(".*", CorruptBody(1000), listener="cdn", times=1),
    "an expired signature": Fault(".*", Answer(403), listener="cdn", times=1),
}


@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("case", PASSING)
async def test_a_passing_fault_is_survived(case: str, tmp_path: Path) -> None:
    async with QuayServer(one_image(2_000_000)) as server:
        server.faults.append(fault := PASSING[case])
        report = await mirror(server, tmp_path / "mirror")

    assert fault.fired
    assert report.exit_code is ExitCode.OK
    assert set(layouts.names(tmp_path / "mirror")) == {f"kolla/nova:{TAG}"}


@pytest.mark.usefixtures("receivers")
async def test_a_blob_that_breaks_off_goes_on_from_its_last_good_byte(tmp_path: Path) -> None:
    async with QuayServer(one_image(3_000_000)) as server:
        server.faults.append(Fault(LAYER, CutBody(2_000_000), listener="cdn", nth=1))
        await mirror(server, tmp_path / "mirror")
        ranges = [r.headers["range"] for r in server.requests if r.listener == "cdn" and "range" in r.headers]

    assert len(ranges) == 1
    assert 1_000_000 < int(ranges[0].removeprefix("bytes=").partition("-")[0]) <= 2_000_000


@pytest.mark.usefixtures("receivers")
async def test_a_blob_that_breaks_off_goes_on_in_the_next_run(tmp_path: Path) -> None:
    async with QuayServer(one_image(3_000_000)) as server:
        server.faults.append(Fault(".*", CutBody(2_000_000), listener="cdn"))
        first = await mirror(server, tmp_path / "mirror", retries=0)
        server.faults.clear()
        server.reset_records()
        second = await mirror(server, tmp_path / "mirror")

    assert first.exit_code is ExitCode.PARTIAL
    assert second.exit_code is ExitCode.OK
    assert second.bytes_fetched < 2_000_000


@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("lie", [IgnoreRange(), WrongContentRange("bytes 5-9/10"), WrongContentRange(None)], ids=repr)
async def test_a_server_that_lies_about_ranges_costs_a_new_start_and_nothing_else(lie: Action, tmp_path: Path) -> None:
    async with QuayServer(one_image(3_000_000)) as server:
        server.faults.append(Fault(LAYER, CutBody(2_000_000), listener="cdn", nth=1))
        server.faults.append(fault := Fault(LAYER, lie, listener="cdn", nth=2))
        report = await mirror(server, tmp_path / "mirror")

    assert fault.fired
    assert report.exit_code is ExitCode.OK


FAILING = {
    "other bytes for a manifest": (Fault(MANIFESTS, CorruptBody(30)), DigestMismatch),
    "other bytes for a blob": (Fault(".*", CorruptBody(1000), listener="cdn"), DigestMismatch),
    "another media type than the document's": (
        Fault(MANIFESTS, ExtraHeaders({"Content-Type": "application/vnd.oci.image.index.v1+json"})),
        UnsupportedContent,
    ),
    "a blob that is gone": (Fault(BLOBS, GONE), NotFound),
    "a redirect to something that is not HTTP": (Fault(BLOBS, Redirect("ftp://127.0.0.1/x")), UnsafeRedirect),
    "a redirect in circles": (Fault(".*", Redirect("/again"), listener="cdn"), UnsafeRedirect),
    "a manifest for others only": (Fault(MANIFESTS, Answer(403)), AccessDenied),
}


@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("case", FAILING)
async def test_a_lasting_fault_fails_that_image_and_names_nothing(case: str, tmp_path: Path) -> None:
    fault, error = FAILING[case]
    async with QuayServer(one_image(5000)) as server:
        server.faults.append(fault)
        report = await mirror(server, tmp_path / "mirror", retries=1)

    # It is the only image, so access to everything selected is denied.
    assert report.exit_code is (ExitCode.CREDENTIALS if error is AccessDenied else ExitCode.PARTIAL)
    (outcome,) = report.outcomes
    assert outcome.error is not None
    assert outcome.error.kind is error
    assert outcome.error.phase is not None
    assert layouts.names(tmp_path / "mirror") == {}


async def test_a_report_of_failed_images_keeps_no_exception_alive(tmp_path: Path) -> None:
    registry = Registry()
    for number in range(30):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, small_image(f"image-{number}"))

    gc.collect()
    before = {id(item) for item in gc.get_objects() if isinstance(item, QuaymirrorError)}
    async with QuayServer(registry) as server:
        server.faults.append(Fault(BLOBS, GONE))
        report = await mirror(server, tmp_path / "mirror", retries=0)

    gc.collect()
    alive = [item for item in gc.get_objects() if isinstance(item, QuaymirrorError) and id(item) not in before]
    assert report.counts[Status.FAILED] == 30
    assert alive == []


async def test_a_layer_that_one_repository_lost_comes_from_another_that_has_it(tmp_path: Path) -> None:
    registry, images = kolla(6)
    names = sorted(images)
    shared = images[names[0]].blobs[1].digest
    async with QuayServer(registry) as server:
        server.faults.append(Fault(rf"^/v2/kolla/{names[0]}/blobs/{shared}", GONE))
        report = await mirror(server, tmp_path / "mirror")

    assert {outcome.reference.name for outcome in report.outcomes if outcome.error} <= {f"kolla/{names[0]}:{TAG}"}
    assert report.counts[Status.MIRRORED] >= len(images) - 1


async def test_a_tag_that_moves_after_it_was_checked_is_mirrored_as_it_is_now_when_nothing_else_is_left(
    tmp_path: Path,
) -> None:
    registry = one_image(5000)
    held = asyncio.Event()
    async with QuayServer(registry) as server:
        server.faults.append(Fault(MANIFESTS, Hold(held), nth=1))

        def move(request: object) -> None:
            if "/manifests/" in getattr(request, "path", "") and not held.is_set():
                registry.organization("kolla").repository("nova").push(TAG, small_image("moved"))
                held.set()

        server.on_request = move
        report = await mirror(server, tmp_path / "mirror")

    # Quay gives no manifest that no living tag leads to.
    assert layouts.names(tmp_path / "mirror") == {f"kolla/nova:{TAG}": small_image("moved").digest}
    assert report.exit_code is ExitCode.OK
    (outcome,) = report.outcomes
    assert (outcome.status, outcome.reason) == (Status.MIRRORED, "its tag has moved since it was found")
    assert str(outcome.reference.digest) == small_image("moved").digest


async def test_a_tag_that_moves_while_another_keeps_the_old_image_is_followed_in_the_same_run(tmp_path: Path) -> None:
    registry = one_image(5000)
    nova = registry.organization("kolla").repository("nova")
    nova.push("keeps", small_image("nova", 5000))
    held = asyncio.Event()
    async with QuayServer(registry) as server:
        server.faults.append(Fault(MANIFESTS, Hold(held), nth=1))

        def move(request: object) -> None:
            if "/manifests/" in getattr(request, "path", "") and not held.is_set():
                nova.push(TAG, small_image("moved"))
                held.set()

        server.on_request = move
        report = await mirror(server, tmp_path / "mirror")

    assert layouts.names(tmp_path / "mirror") == {f"kolla/nova:{TAG}": small_image("moved").digest}
    assert {outcome.status for outcome in report.outcomes} == {Status.MIRRORED}
    assert report.exit_code is ExitCode.OK


@pytest.mark.parametrize("gone", ["tag", "repository"])
async def test_an_image_that_disappears_after_its_check_is_skipped_with_a_reason(gone: str, tmp_path: Path) -> None:
    registry = one_image(5000)
    organization = registry.organization("kolla")
    organization.repository("other").push(TAG, small_image("other"))
    held = asyncio.Event()
    async with QuayServer(registry) as server:
        server.faults.append(Fault("^/v2/kolla/nova/manifests/", Hold(held), nth=1))

        def delete(request: object) -> None:
            if "/nova/manifests/" in getattr(request, "path", "") and not held.is_set():
                if gone == "tag":
                    organization.repository("nova").delete_tag(TAG)
                else:
                    organization.delete_repository("nova")

                held.set()

        server.on_request = delete
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK
    reasons = {o.reference.repository.name: o.reason for o in report.outcomes if o.status is Status.SKIPPED}
    expected = {"tag": "no such tag", "repository": "deleted or private since it was listed"}
    assert reasons == {"kolla/nova": expected[gone]}
    assert layouts.names(tmp_path / "mirror") == {f"kolla/other:{TAG}": small_image("other").digest}


@pytest.mark.parametrize("path", ["^/api/v1/repository$", "/tag/$", MANIFESTS], ids=["listing", "tags", "manifests"])
async def test_a_server_that_is_closed_for_an_hour_ends_the_run_at_once(path: str, tmp_path: Path) -> None:
    registry, _ = kolla(8)
    async with QuayServer(registry) as server:
        server.faults.append(Fault(path, too_many_requests("3600")))
        with anyio.fail_after(20):
            report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert "come back in 3600 s" in str(report.fatal)


async def test_a_token_that_expires_is_renewed_once(tmp_path: Path) -> None:
    registry, images = kolla(5)
    async with QuayServer(registry, require_token=True) as server:
        server.faults.append(Fault(BLOBS, Answer(401, headers={"WWW-Authenticate": _challenge(server)}), nth=3))
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK
    assert len(layouts.names(tmp_path / "mirror")) == len(images)


def _challenge(server: QuayServer) -> str:
    return f'Bearer realm="{server.url}/v2/auth",service="{server.host}"'


async def test_a_token_service_on_another_host_is_never_used(tmp_path: Path) -> None:
    async with QuayServer(one_image(5000)) as server, QuayServer(Registry()) as evil:
        headers = {"WWW-Authenticate": f'Bearer realm="{evil.url}/v2/auth",service="x"'}
        server.faults.append(Fault(MANIFESTS, Answer(401, headers=headers)))
        report = await mirror(server, tmp_path / "mirror", retries=0)
        assert evil.requests == []

    (outcome,) = report.outcomes
    assert outcome.error is not None
    assert outcome.error.is_a(UnsafeRedirect)
    assert evil.host in outcome.error.message


async def test_a_full_listing_that_goes_in_circles_ends_with_an_error(tmp_path: Path) -> None:
    page = b'{"repositories": [{"namespace": "kolla", "name": "nova", "last_modified": 5}], "next_page": "again"}'
    async with QuayServer(one_image(5000)) as server:
        server.faults.append(Fault("^/api/v1/repository$", ReplaceBody(page)))
        report = await mirror(server, tmp_path / "mirror", retries=0)
        assert server.count("^/api/v1/repository$") <= 4

    assert report.exit_code is ExitCode.UNAVAILABLE
