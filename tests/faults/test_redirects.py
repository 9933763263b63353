"""Redirects: followed without credentials, never into a private network, requested again after a link expired."""

from __future__ import annotations

from pathlib import Path

import layouts
import pytest
from organizations import small_image
from trouble import GLANCE, NOVA, messages, mirror, resolving, two_images

from quaymirror.errors import ExitCode
from quaymirror.http import guard
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import CutBody, ExtraHeaders, Fault, QuayServer, Redirect, Registry, ReplaceBody, RequestRecord
from quaymirror.testing import Status as Answer

BLOBS, MANIFESTS = "^/v2/kolla/nova/blobs/", "^/v2/kolla/nova/manifests/"
BIG = small_image("nova", 3_000_000)
HEX = BIG.blobs[1].digest.partition(":")[2]


async def test_no_redirect_takes_anything_along_that_is_for_the_registry(tmp_path: Path) -> None:
    registry = two_images()
    registry.robot("kolla+robot", token="canary")
    async with QuayServer(registry, require_token=True) as server:
        report = await mirror(server, tmp_path / "mirror", credentials=Credentials("kolla+robot", Secret("canary")))
        followed = [request for request in server.requests if request.listener == "cdn"]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert followed
    allowed = {"host", "user-agent", "accept", "accept-encoding", "range", "if-range"}
    assert {name for request in followed for name in request.headers} <= allowed


PRIVATE = {
    "an address": "http://127.0.0.2:{port}/x",
    "an address in IPv6": "http://[::ffff:127.0.0.2]:{port}/x",
    "a name": "http://inside.example:{port}/x",
    "another way to write an address": "http://127.2:{port}/x",
    "a number": "http://2130706434:{port}/x",
    "hexadecimal": "http://0x7f.0.0.2:{port}/x",
    "the cloud's own data": "http://169.254.169.254/latest/meta-data",
    "nowhere in particular": "http://0.0.0.0:{port}/x",
    "a name that ends in a dot": "http://inside.example.:{port}/x",
    "no host but a path": "//127.0.0.2:{port}/x",
}


@pytest.mark.parametrize("path", [BLOBS, MANIFESTS], ids=["blob", "manifest"])
@pytest.mark.parametrize("name", PRIVATE)
async def test_a_public_registry_sends_us_to_no_private_address(
    name: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection is made, whatever the spelling of the address."""
    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1")
    async with QuayServer(two_images()) as server, QuayServer(Registry(), host="127.0.0.2") as inside:
        port = int(inside.host.rpartition(":")[2])
        resolving(monkeypatch, {"inside.example": [("127.0.0.2", port)], "inside.example.": [("127.0.0.2", port)]})
        server.faults.append(Fault(path, Redirect(PRIVATE[name].format(port=port))))
        report = await mirror(server, tmp_path / "mirror", retries=1)
        assert not inside.requests

    assert report.exit_code is ExitCode.PARTIAL, messages(report)
    assert list(layouts.names(tmp_path / "mirror")) == [GLANCE]


async def test_a_name_that_is_public_first_and_private_when_it_counts_is_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of the connection itself is checked, so that a second DNS answer can't differ."""
    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1")
    async with QuayServer(two_images()) as server, QuayServer(Registry(), host="127.0.0.2") as inside:
        port = int(inside.host.rpartition(":")[2])
        # The first address refuses connections, so that the second one is tried.
        resolving(monkeypatch, {"both.example": [("127.0.0.1", 9), ("127.0.0.2", port)]})
        server.faults.append(Fault(BLOBS, Redirect(f"http://both.example:{port}/x")))
        report = await mirror(server, tmp_path / "mirror", retries=1)
        assert not inside.requests

    assert report.exit_code is ExitCode.PARTIAL, messages(report)


async def test_an_expired_link_is_requested_again_for_the_rest_of_a_blob(tmp_path: Path) -> None:
    """Signed links live ten minutes."""
    async with QuayServer(two_images(BIG)) as server:
        server.faults += [
            Fault(HEX, CutBody(2_000_000), listener="cdn", nth=1),
            Fault(HEX, Answer(403, body=b"<Error><Code>AccessDenied</Code></Error>"), listener="cdn", nth=2),
        ]
        report = await mirror(server, tmp_path / "mirror")
        links = [request for request in server.requests if request.listener == "cdn" and HEX in request.path]
        asked = [request for request in server.requests if request.listener == "quay" and HEX in request.path]

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(asked) == len(links) == 3, "never a link that was used before"
    assert [request.status for request in links] == [200, 403, 206]


async def test_no_cookie_is_kept(tmp_path: Path) -> None:
    """Browsers send those of one port of a host to all others."""
    async with QuayServer(two_images(), require_token=True) as server:
        server.faults.append(
            Fault("", ExtraHeaders([("Set-Cookie", "sid=canary; Path=/"), ("Set-Cookie", "a=b; Domain=127.0.0.1")]))
        )
        report = await mirror(server, tmp_path / "mirror")
        assert not any("cookie" in request.headers for request in server.requests)

    assert report.exit_code is ExitCode.OK, messages(report)
    assert not any(b"canary" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


async def test_a_manifest_that_is_kept_elsewhere_is_verified_like_any_other(tmp_path: Path) -> None:
    image = small_image("nova", 400_000)
    headers = {"Content-Type": image.media_type}
    async with QuayServer(two_images()) as server:
        server.faults += [
            Fault(MANIFESTS, Redirect(f"{server.cdn_url}/elsewhere")),
            Fault("^/elsewhere", Answer(200, headers, image.raw)),
        ]
        report = await mirror(server, tmp_path / "right")
        assert report.exit_code is ExitCode.OK, messages(report)
        server.faults.append(Fault("^/elsewhere", ReplaceBody(image.raw + b" ", image.media_type)))
        report = await mirror(server, tmp_path / "wrong")

    assert report.exit_code is ExitCode.PARTIAL
    assert list(layouts.names(tmp_path / "wrong")) == [GLANCE]


async def test_redirects_that_differ_each_time_end(tmp_path: Path) -> None:
    """And those of a token's own host count, too."""
    hops: list[RequestRecord] = []
    async with QuayServer(two_images()) as server:
        server.faults += [
            Fault(BLOBS, Redirect("/hop/1")),
            *[Fault(f"^/hop/{n}$", Redirect(f"{(server.url, server.cdn_url)[n % 2]}/hop/{n + 1}")) for n in range(30)],
        ]
        server.on_request = lambda request: hops.append(request) if "/hop/" in request.path else None
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.PARTIAL
    assert any("more than 5 redirects" in message for message in messages(report))
    assert len(hops) <= 2 * 6, "two blobs"
    assert NOVA not in layouts.names(tmp_path / "mirror")
