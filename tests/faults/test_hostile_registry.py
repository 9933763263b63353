"""Broken or hostile registries: a clear message, the right exit code, and no unverified content in the mirror.

Each case affects one repository, `kolla/nova`; the other one, `kolla/glance`, has to arrive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.lowlevel
import layouts
import pytest
from organizations import TAG, small_image

import quaymirror
from quaymirror import Options, Report, Selection
from quaymirror.errors import ExitCode
from quaymirror.http.retry import RetryPolicy
from quaymirror.http.timeouts import Timeouts
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import (
    Action,
    Blob,
    CorruptBody,
    CutBody,
    DribbleBody,
    ExtraHeaders,
    Fault,
    QuayServer,
    Raw,
    Redirect,
    Registry,
    ReplaceBody,
    Reset,
    ShortBody,
    SourceManifest,
    Stall,
    bad_gateway,
    digest_of,
    too_many_requests,
)
from quaymirror.testing import Status as Answer

OCI = "application/vnd.oci.image"
CONFIG, LAYER, INDEX = f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+gzip", f"{OCI}.index.v1+json"
MANIFEST = f"{OCI}.manifest.v1+json"
BLOB_LINK = "^/v2/kolla/nova/blobs"
MANIFESTS, BLOBS, LISTING, TAGS = "^/v2/kolla/nova/manifests/", "/blob", "^/api/v1/repository$", "nova/tag/$"
CANARY = "canary-of-a-password"
OK, PARTIAL, CREDENTIALS, UNAVAILABLE = ExitCode.OK, ExitCode.PARTIAL, ExitCode.CREDENTIALS, ExitCode.UNAVAILABLE


async def _no_sleep(seconds: float) -> None:
    """Let other tasks run, without waiting."""
    await anyio.lowlevel.checkpoint()


def document(**changes: Any) -> SourceManifest:
    """Return a manifest with some fields changed, and its blobs."""
    config, layer = Blob.of(b"{}"), Blob.of(b"layer")
    fields: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": LAYER, "digest": layer.digest, "size": layer.size}],
    }
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    raw = json.dumps(fields).encode()
    return SourceManifest(raw, fields.get("mediaType", MANIFEST), digest_of(raw), (config, layer))


def layer(**changes: Any) -> SourceManifest:
    """Return a manifest with an unusual descriptor of a layer."""
    blob = Blob.of(b"layer")
    return document(layers=[{"mediaType": LAYER, "digest": blob.digest, "size": blob.size} | changes])


def index(depth: int, leaf: SourceManifest) -> SourceManifest:
    """Return an index of an index of ... `leaf`."""
    for _ in range(depth):
        child = {"mediaType": leaf.media_type, "digest": leaf.digest, "size": len(leaf.raw)}
        raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).encode()
        leaf = SourceManifest(raw, INDEX, digest_of(raw), children=(leaf,))

    return leaf


def wide(count: int) -> SourceManifest:
    """Return an index with that many children."""
    child = {"mediaType": MANIFEST, "digest": digest_of(b"x"), "size": 1}
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child] * count}).encode()
    return SourceManifest(raw, INDEX, digest_of(raw))


@dataclass(frozen=True)
class Case:
    """A fault of `kolla/nova`, and the expected end of the run."""

    exit_code: ExitCode
    says: str = ""
    image: SourceManifest = field(default_factory=lambda: small_image("nova", 400_000))
    path: str = "^$"
    action: Action | Callable[[QuayServer], Action] = field(default_factory=lambda: Answer(500))
    times: int | None = None
    others_arrive: bool = True
    require_token: bool = False
    query: str | None = None


SIZES = {"-1": -1, "1.5": 1.5, "text": "5", "true": True, "2^63": 2**63, "2^64": 2**64, "none": None}
HEX = hashlib.sha256(b"layer").hexdigest()
DIGESTS = {
    "a path": "sha256:../../../../etc/passwd",
    "upper case": f"sha256:{HEX.upper()}",
    "one digit less": f"sha256:{HEX[1:]}",
    "a newline": f"sha256:{HEX}\n",
    "empty": "",
    "md5": "md5:" + "0" * 32,
    "10 KB": "sha256:" + "0" * 10_000,
}

CASES: dict[str, Case] = {
    # Discovery
    "the next page is the same for ever": Case(
        UNAVAILABLE,
        "goes in circles",
        path=LISTING,
        action=ReplaceBody(
            b'{"repositories": [{"namespace": "kolla", "name": "nova", "last_modified": 5}], "next_page": "again"}'
        ),
        others_arrive=False,
    ),
    "HTML for a listing": Case(
        UNAVAILABLE, "page in HTML", path=LISTING, action=ReplaceBody(b"<html>", "text/html"), others_arrive=False
    ),
    "null for a listing": Case(
        UNAVAILABLE, "not a list", path=LISTING, action=ReplaceBody(b'{"repositories": null}'), others_arrive=False
    ),
    "half a listing, once": Case(OK, path=LISTING, action=CutBody(40), times=1),
    "an error that is a 200, for a tag": Case(PARTIAL, path=TAGS, action=ReplaceBody(b'{"error": "try later"}')),
    "a tag whose digest is a path": Case(
        PARTIAL,
        path=TAGS,
        action=ReplaceBody(json.dumps({"tags": [{"name": TAG, "manifest_digest": "sha256:../../x"}]}).encode()),
    ),
    # Authorization
    "a realm on another host": Case(
        PARTIAL,
        "add --allow-realm evil.example if you trust it",
        path=MANIFESTS,
        action=Answer(401, {"WWW-Authenticate": 'Bearer realm="https://evil.example/token",service="x"'}),
    ),
    "a realm with a password": Case(
        PARTIAL,
        "names a token service with an unusable URL: a user name or password has no place in a URL",
        path=MANIFESTS,
        action=Answer(401, {"WWW-Authenticate": 'Bearer realm="http://me:pw@127.0.0.1/token",service="x"'}),
    ),
    "a token service that redirects": Case(
        PARTIAL, "redirects elsewhere", path="^/v2/auth", query="nova", action=Redirect("/other"), require_token=True
    ),
    "a challenge that is none": Case(
        PARTIAL, "private, or needs credentials", path=MANIFESTS, action=Answer(401, {"WWW-Authenticate": "\\x01, ,=,"})
    ),
    "a token service that is busy": Case(
        OK, path="^/v2/auth", action=too_many_requests("1"), times=2, require_token=True
    ),
    "one repository that is not for us": Case(
        PARTIAL,
        "401",
        path=MANIFESTS,
        action=lambda server: Answer(401, {"WWW-Authenticate": f'Bearer realm="{server.url}/v2/auth",service="x"'}),
    ),
    # Redirects
    "plain HTTP with a password in the URL": Case(
        PARTIAL, "no place in a URL", path=BLOB_LINK, action=Redirect("http://me:pw@127.0.0.1/x")
    ),
    "redirects for ever": Case(PARTIAL, "more than 5", path=f"{BLOB_LINK}|^/loop", action=Redirect("/loop")),
    "a file": Case(PARTIAL, "can't be followed", path=BLOB_LINK, action=Redirect("file:///etc/passwd")),
    "nowhere": Case(PARTIAL, "can't be followed", path=BLOB_LINK, action=Redirect("")),
    "not an address": Case(PARTIAL, "can't be followed", path=BLOB_LINK, action=Redirect("http://[::1")),
    "9 KB": Case(PARTIAL, "not valid HTTP", path=BLOB_LINK, action=Redirect("/" + "x" * 8_190)),
    "a listing elsewhere": Case(
        UNAVAILABLE,
        "redirects elsewhere, to registry.example, which is not allowed",
        path=LISTING,
        action=Redirect("http://registry.example/x?secret=1"),
        others_arrive=False,
    ),
    # Manifests
    "other bytes": Case(PARTIAL, "other bytes", path=MANIFESTS, action=CorruptBody(30)),
    "another media type than the document's": Case(
        PARTIAL, "but its mediaType is", path=MANIFESTS, action=ExtraHeaders({"Content-Type": INDEX})
    ),
    "manifest and index at once": Case(PARTIAL, "has manifests", image=document(manifests=[])),
    "schema 1's fields beside": Case(PARTIAL, "has fsLayers", image=document(fsLayers=[])),
    "parameters and upper case": Case(
        OK, path=MANIFESTS, action=ExtraHeaders({"Content-Type": f"{MANIFEST.upper()}; charset=utf-8"})
    ),
    "a manifest of 5 MiB": Case(PARTIAL, "4,194,304", path=MANIFESTS, action=ReplaceBody(b" " * (5 << 20))),
    **{f"size {name}": Case(PARTIAL, "size", image=layer(size=size)) for name, size in SIZES.items()},
    **{f"digest {name}": Case(PARTIAL, "digest", image=layer(digest=text)) for name, text in DIGESTS.items()},
    "an index of indexes of indexes": Case(PARTIAL, "too deep or too wide", image=index(6, document())),
    "an index of 10,000": Case(PARTIAL, "10,000 entries; the limit is 2,000", image=wide(10_000)),
    "1,001 layers": Case(PARTIAL, "1,001 entries", image=document(layers=[document().document["layers"][0]] * 1_001)),
    "another size than its index says": Case(
        PARTIAL,
        "but its index says",
        image=(
            lambda child: SourceManifest(
                raw := json.dumps(
                    {
                        "schemaVersion": 2,
                        "mediaType": INDEX,
                        "manifests": [{"mediaType": MANIFEST, "digest": child.digest, "size": len(child.raw) + 1}],
                    }
                ).encode(),
                INDEX,
                digest_of(raw),
                children=(child,),
            )
        )(document()),
    ),
    "unknown fields": Case(OK, image=document(annotations={"a": "\x1b[2J"}, custom=[1, {"x": None}])),
    "Docker schema 1": Case(
        PARTIAL,
        "schema 1",
        path=MANIFESTS,
        action=ExtraHeaders({"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}),
    ),
    "the same key twice": Case(
        PARTIAL,
        "the same key twice",
        image=(lambda raw: SourceManifest(raw, MANIFEST, digest_of(raw)))(
            document().raw.replace(b'"schemaVersion": 2', b'"schemaVersion": 2, "schemaVersion": 2')
        ),
    ),
    "data that is not the content": Case(PARTIAL, "data does not match", image=layer(data="bm90IGl0")),
    "data that is the content": Case(OK, image=layer(data="bGF5ZXI=")),
    "a layer that is also elsewhere": Case(OK, image=layer(urls=["http://evil.example/layer"])),
    # Blobs
    "other bytes of the right length": Case(
        PARTIAL, "sha256:", path=BLOBS, action=CorruptBody(1000), others_arrive=False
    ),
    "cut off": Case(OK, path=BLOBS, action=CutBody(900), times=3),
    "cut off without a length": Case(OK, path=BLOBS, action=ShortBody(900), times=3),
    "silence": Case(OK, path=BLOBS, action=Stall(900), times=2),
    "an unrequested range": Case(OK, path=BLOBS, action=ExtraHeaders({"Content-Range": "bytes 5-9/10"}), times=2),
    "a blob that is gone": Case(PARTIAL, "404", path=BLOB_LINK, action=Answer(404)),
    "a CDN that refuses": Case(PARTIAL, "403", path="^/blob/", action=Answer(403), others_arrive=False),
    # HTTP itself
    "no status": Case(PARTIAL, "not valid HTTP", path=MANIFESTS, action=Raw(b"garbage\r\n\r\n")),
    "two lengths": Case(
        PARTIAL,
        "",
        path=MANIFESTS,
        action=Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
    ),
    "a length and chunks": Case(
        PARTIAL,
        "",
        path=MANIFESTS,
        action=Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ),
    "a header of 9 KB": Case(
        PARTIAL, "not valid HTTP", path=MANIFESTS, action=Raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9_000 + b"\r\n\r\n")
    ),
    "100 Continue for ever": Case(
        PARTIAL, "", path=MANIFESTS, action=Raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000), times=None
    ),
    "a reset": Case(OK, path=MANIFESTS, action=Reset(), times=3),
    "a manifest one byte at a time": Case(PARTIAL, "takes more than", path=MANIFESTS, action=DribbleBody(1, 0.05)),
    # Rate limits and overload
    **{
        f"Retry-After: {value}": Case(OK, path=MANIFESTS, action=too_many_requests(value), times=2)
        for value in ("0", "1", "-1", "1e3", "3.5", "soon", "9" * 30, "Tue, 24 Nov 2020 12:00:00 GMT")
    },
    "closed for an hour": Case(
        UNAVAILABLE, "3,600 s|3600 s", path=MANIFESTS, action=too_many_requests("3600"), others_arrive=False
    ),
    **{
        f"answered {status}": Case(OK, path=MANIFESTS, action=bad_gateway(status, "No"), times=3)
        for status in (408, 421, 425, 500, 502, 503, 504, 511, 521, 529, 599)
    },
    **{
        f"{status} for a {kind}": Case(OK, path=path, action=Answer(status), times=2)
        for status in (300, 304, 306)
        for kind, path in (("listing", LISTING), ("tag", TAGS), ("manifest", MANIFESTS), ("blob", BLOB_LINK))
    },
    "a manifest that is always a 500": Case(PARTIAL, "500", path=MANIFESTS, action=Answer(500)),
    "a teapot": Case(PARTIAL, "418", path=MANIFESTS, action=Answer(418)),
}


async def mirror(server: QuayServer, path: Path) -> Report:
    server.registry.robot("kolla+robot", token=CANARY)
    settings = Options.of(
        server=server.url,
        retries=3,
        credentials=Credentials("kolla+robot", Secret(CANARY)),
        timeouts=Timeouts(connect=2, headers=0.4, stall=0.4, total=0.8),
        retry=RetryPolicy(sleep=_no_sleep, clock=_Jumping()),
    )
    return await quaymirror.sync(Selection("kolla", "*", TAG), path, settings)


class _Jumping:
    """A clock that advances with each reading, for code that does not sleep."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.05
        return self.now


@pytest.mark.parametrize("name", CASES)
async def test_a_hostile_registry_does_no_harm(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "mirror"
    registry = Registry()
    registry.robot("kolla+robot", token=CANARY)
    registry.organization("kolla").repository("nova").push(TAG, case.image)
    registry.organization("kolla").repository("glance").push(TAG, small_image("glance"))
    async with QuayServer(registry, require_token=case.require_token) as server:
        action = case.action if isinstance(case.action, Action) else case.action(server)
        server.faults.append(fault := Fault(case.path, action, times=case.times, query=case.query))
        report = await mirror(server, path)
        told = [request.headers for request in server.requests if request.listener == "cdn"]

    problems = [outcome.error for outcome in report.outcomes if outcome.error] + [report.fatal or ""]
    messages = [getattr(problem, "message", "") for problem in problems]
    assert report.exit_code is case.exit_code, messages
    assert case.path == "^$" or fault.fired
    assert any(part in message for part in case.says.split("|") for message in messages) or not case.says, messages
    assert all(len(message.splitlines()) <= 1 for message in messages)

    layouts.check(path)
    names = layouts.names(path)
    honest = {f"kolla/glance:{TAG}": small_image("glance").digest, f"kolla/nova:{TAG}": case.image.digest}
    assert names.items() <= honest.items()
    assert (f"kolla/nova:{TAG}" in names) == (case.exit_code is OK)
    assert f"kolla/glance:{TAG}" in names or not case.others_arrive

    text = json.dumps(report.to_json()) + repr(report)
    assert CANARY not in text
    assert "X-Amz-Signature" not in text
    assert not any("authorization" in headers or "cookie" in headers for headers in told)


async def test_content_with_sha512_digests_is_mirrored_and_verified(tmp_path: Path) -> None:
    data = b"a layer with a long name"
    blob = Blob("sha512:" + hashlib.sha512(data).hexdigest(), data)
    made = layer(digest=blob.digest, size=blob.size)
    image = SourceManifest(made.raw, made.media_type, made.digest, (made.blobs[0], blob))
    registry = Registry()
    registry.organization("kolla").repository("nova").push(TAG, image)
    async with QuayServer(registry) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is OK, [outcome.error for outcome in report.outcomes]
    assert blob.digest in layouts.check(tmp_path / "mirror")


@pytest.mark.parametrize("name", ["../../etc", "/abs", "", "a\0b", "a\nb", "%2e%2e", "x" * 300, "a//b", "\x1b[2J", "A"])
async def test_a_repository_with_an_invalid_name_is_left_out_and_reported(name: str, tmp_path: Path) -> None:
    """The entry may have been selected, so the run is partial."""
    notices: list[str] = []
    body = {"repositories": [{"namespace": "kolla", "name": n, "last_modified": 5} for n in (name, "glance")]}
    registry = Registry()
    registry.organization("kolla").repository("glance").push(TAG, small_image("glance"))
    async with QuayServer(registry) as server:
        server.faults.append(Fault(LISTING, ReplaceBody(json.dumps(body).encode())))
        report = await quaymirror.sync(
            Selection("kolla", "*", TAG),
            tmp_path / "mirror",
            Options.of(server=server.url),
            observer=lambda event: notices.append(str(event)) if type(event).__name__ == "Notice" else None,
        )

    assert report.exit_code is PARTIAL
    assert list(layouts.names(tmp_path / "mirror")) == [f"kolla/glance:{TAG}"]
    assert len(notices) == 1
    assert notices[0].isprintable()


@pytest.mark.parametrize("tokens", [("wrong",), ("robot-token",), ("expired",)], ids=lambda t: t[0])
async def test_an_ignored_api_token_is_reported_before_the_listing_is_used(tokens: tuple[str], tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("kolla").repository("nova").push(TAG, small_image("nova"))
    registry.oauth_token("me", value="expired", expires_at=1.0)
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url, api_token=Secret(tokens[0]))
        report = await quaymirror.sync(Selection("kolla", "*", TAG), tmp_path / "mirror", settings)
        assert server.count("^/v2/") == 0

    assert report.exit_code is CREDENTIALS
    assert "the API token is not accepted" in str(report.fatal)
    assert tokens[0] not in json.dumps(report.to_json()) or tokens[0] == "expired"
    assert layouts.names(tmp_path / "mirror") == {}


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_a_token_service_elsewhere_gets_credentials_only_if_it_is_allowed(
    is_allowed: bool, tmp_path: Path
) -> None:
    registry = Registry()
    registry.robot("kolla+robot", token=CANARY)
    registry.organization("kolla").repository("nova").push(TAG, small_image("nova"))
    async with QuayServer(registry) as server, QuayServer(registry) as other:
        challenge = f'Bearer realm="{other.url}/v2/auth",service="{server.host}"'
        server.faults.append(Fault(MANIFESTS, Answer(401, {"WWW-Authenticate": challenge})))
        settings = Options.of(
            server=server.url,
            credentials=Credentials("kolla+robot", Secret(CANARY)),
            allow_realms=frozenset({other.host}) if is_allowed else frozenset(),
        )
        report = await quaymirror.sync(Selection("kolla", "*", TAG), tmp_path / "mirror", settings)
        asked = [request.headers.get("authorization", "") for request in other.requests]

    # A token of another registry is invalid: access is denied either way.
    assert report.exit_code is CREDENTIALS
    assert bool(asked) == is_allowed
    assert CANARY not in json.dumps(report.to_json())
