"""Situations in which a command fails: each with the way into it, the line that it ends with, and its exit code.

The page docs/reference/messages.md is made from this table and from that of `mistakes`.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from aiohttp import web
from organizations import TAG, small_image
from receiver import Breakage, Receiver, refuse

from quaymirror.testing import (
    CorruptBody,
    CutBody,
    ExtraHeaders,
    Fault,
    QuayServer,
    Redirect,
    Registry,
    ReplaceBody,
    Reset,
    Status,
    digest_of,
    make_image,
    make_index,
    make_layer,
)

JSON = {"Content-Type": "application/json"}
SYNC = "sync kolla * {tag} --to mirror --retries 0"
PUSH = "sync kolla * {tag} --to {target} --state state --retries 0"
LISTING = "^/api/v1/repository$"
NOVA = "^/v2/kolla/nova/"
MANIFEST = "^/v2/kolla/nova/manifests/"
BLOBS = "^/v2/kolla/nova/blobs/"


@dataclass(frozen=True)
class Scene:
    """A source with the images kolla/nova and kolla/glance, a registry to push to, and the directory of the command."""

    server: QuayServer
    target: Receiver
    path: Path
    held: list[IO[str]] = field(default_factory=list)

    @property
    def registry(self) -> Registry:
        """Return the content of the source."""
        return self.server.registry


@dataclass(frozen=True)
class Situation:
    """A situation, the command that gets into it, and its end.

    `message` is part of a line of the output: `…` stands for anything. `error` is the class that reports name, "" if
    the command ended before it had a report. `prepare` changes the scene; `first` is a command that succeeds before.
    """

    title: str
    message: str
    code: int
    error: str = ""
    command: str = SYNC
    prepare: Callable[[Scene], None] = lambda scene: None
    first: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    tls: bool = False


def fault(path: str, action: object, **options: object) -> Callable[[Scene], None]:
    """Return a preparation: the source answers requests of these paths like this."""
    return lambda scene: scene.server.faults.append(Fault(path, action, **options))  # type: ignore[arg-type]


def answers(path: str, status: int, code: str, text: str) -> Callable[[Scene], None]:
    """Return a preparation: the source answers with an error of the distribution specification."""
    return fault(path, Status(status, JSON, json.dumps({"errors": [{"code": code, "message": text}]}).encode()))


def rejects(method: str, path: str, status: int, code: str, text: str) -> Callable[[Scene], None]:
    """Return a preparation: the target refuses requests."""
    return lambda scene: scene.target.breakages.append(Breakage(method, path, refuse(status, code, text), nth=0))


def compressed(scene: Scene) -> None:
    """Let the listing come through a proxy that compresses it."""
    fault(LISTING, ReplaceBody(b"\x1f\x8b compressed"))(scene)
    fault(LISTING, ExtraHeaders({"Content-Encoding": "gzip"}))(scene)


def closed(scene: Scene) -> None:
    """Let the token service of the target grant nothing."""
    scene.target.tokens = True
    scene.target.grants = lambda scope: False


def no_scope(scene: Scene) -> None:
    """Let the organization `private` have a token that reads nothing."""
    scene.registry.organization("private").repository("nova", public=False).push(TAG, small_image("private"))
    scene.registry.organization("private").admins.add("me")
    scene.registry.oauth_token("me", value="canary", scopes=("user:read",))


def multi(scene: Scene) -> None:
    """Add an image for two platforms."""
    children = [make_image([make_layer(name, 500)], labels={"arch": name}) for name in ("amd64", "arm64")]
    index = make_index([(children[0], "linux/amd64"), (children[1], "linux/arm64")])
    scene.registry.organization("kolla").repository("multi").push(TAG, index)


def without_child(scene: Scene) -> None:
    """Add an index whose children are lost."""
    multi(scene)
    answers("/multi/manifests/sha256:", 404, "MANIFEST_UNKNOWN", "manifest unknown")(scene)


def foreign(scene: Scene) -> None:
    """Add an image with a foreign layer, which the target refuses as docker-registry does."""
    layer = make_layer("foreign", 2048)
    document = json.loads(make_image([layer]).raw)
    document["layers"][0]["urls"] = ["https://example.com/layer"]
    raw = json.dumps(document).encode()
    image = replace(make_image([layer]), raw=raw, digest=digest_of(raw))
    scene.registry.organization("kolla").repository("windows").push(TAG, image)
    rejects("PUT", "windows/manifests/", 500, "MANIFEST_BLOB_UNKNOWN", "blob unknown")(scene)


def inaccessible(scene: Scene) -> None:
    """Let the registry give no image without credentials."""
    for name in ("nova", "glance"):
        answers(f"^/v2/kolla/{name}/", 401, "UNAUTHORIZED", "access to the requested resource is not authorized")(scene)


def claims(size: int) -> Callable[[Scene], None]:
    """Return a preparation: an image claims a layer of this size."""

    def prepare(scene: Scene) -> None:
        document = json.loads(small_image("claim").raw)
        document["layers"][0]["size"] = size
        raw = json.dumps(document).encode()
        image = replace(small_image("claim"), raw=raw, digest=digest_of(raw))
        scene.registry.organization("kolla").repository("claim").push(TAG, image)

    return prepare


def odd(scene: Scene) -> None:
    """Let the source have an image that is none."""
    raw = small_image("odd").raw.replace(b'"layers"', b'"manifests": [], "layers"')
    image = replace(small_image("odd"), raw=raw, digest=digest_of(raw))
    scene.registry.organization("kolla").repository("odd").push(TAG, image)


def without_index(scene: Scene) -> None:
    """Damage the index of the mirror."""
    (scene.path / "mirror/index.json").write_text("{")


def locked(scene: Scene) -> None:
    """Let another run work on the mirror; it ends with the process of the test."""
    lock = (scene.path / "mirror/.quaymirror/lock").open("r+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    scene.held.append(lock)


def unwritable(scene: Scene) -> None:
    """Put a file where the mirror has a directory."""
    shutil.rmtree(scene.path / "mirror/.quaymirror/ingest", ignore_errors=True)
    (scene.path / "mirror/.quaymirror/ingest").write_text("")


def damaged(scene: Scene) -> None:
    """Change the bytes of a blob of the mirror."""
    blobs = (path for path in (scene.path / "mirror/blobs/sha256").iterdir() if path.stat().st_size > 1000)
    blob = next(blobs)
    blob.chmod(0o600)
    blob.write_bytes(bytes(blob.stat().st_size))


_TYPE_REFUSED = {
    "errors": [
        {"code": "MANIFEST_INVALID", "message": "manifest invalid", "detail": {"message": "schema not supported"}}
    ]
}
_EVIL = 'Bearer realm="https://token.example/token",service="x"'
_S3 = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ALLOW_HTTP": "true",
}

SOURCE = (
    Situation(
        "the server redirects everything to HTTPS",
        "redirects plain HTTP to HTTPS: write https:// instead of http://, or leave out ?insecure=true",
        5,
        "UnsafeRedirect",
        prepare=lambda scene: fault("", Redirect(f"https://{scene.server.host}/"))(scene),
    ),
    Situation(
        "the source speaks plain HTTP, not TLS",
        "does not speak TLS as expected (…): for plain HTTP write http:// instead of https://, or add ?insecure=true",
        5,
        "HostUnusable",
        f"{SYNC} --server https://{{host}}",
    ),
    Situation(
        "the source speaks TLS, not plain HTTP",
        "the connection broke before an answer; if the server speaks TLS, write https://",
        5,
        "DiscoveryIncomplete",
        f"{SYNC} --server http://{{host}}",
        tls=True,
    ),
    Situation(
        "the certificate is not trusted",
        "the TLS certificate is not trusted: … (--cafile names other authorities)",
        5,
        "CertificateRefused",
        tls=True,
    ),
    Situation(
        "the name service does not know the host",
        "cannot resolve the host name: …; check its spelling, and the name service",
        5,
        "NameUnknown",
        f"{SYNC} --server quay.invalid",
    ),
    Situation(
        "no server listens at the port",
        "cannot connect: connection refused; check the address, the network, and whether a proxy is needed",
        5,
        "DiscoveryIncomplete",
        f"{SYNC} --server http://127.0.0.1:1",
    ),
    Situation(
        "a proxy compresses answers",
        "a proxy has changed the answer (Content-Encoding: gzip): let it pass through as it is",
        5,
        "DiscoveryIncomplete",
        prepare=compressed,
    ),
    Situation(
        "a page for a login is the answer",
        "200 with a page in HTML, of a proxy or for a login, instead of the registry's answer",
        5,
        "HostUnusable",
        prepare=fault("^/api/", ReplaceBody(b"<html>Log in</html>", "text/html")),
    ),
    Situation(
        "the server has no API of Quay",
        "is a registry, but answers as one without Quay's API (…: 404 Not Found): name repositories as registry://…/REPO:TAG",
        5,
        "HostUnusable",
        prepare=fault("^/api/", Status(404, {"Content-Type": "text/plain"}, b"404 page not found\n")),
    ),
    Situation(
        "the API token lacks its scope",
        "403 Forbidden: private, or needs credentials; the API token needs the scope repo:read, and its user the right",
        4,
        "AccessDenied",
        "sync private * {tag} --to mirror --token-file token",
        no_scope,
        files={"token": "canary"},
    ),
    Situation(
        "the API token lacks its scope, for `list`",
        "403 Forbidden: private, or needs credentials; the API token needs the scope repo:read, and its user the right",
        4,
        "",
        "list private * {tag} --token-file token",
        no_scope,
        files={"token": "canary"},
    ),
    Situation(
        "the API token is wrong",
        "the API token is not accepted: expired, revoked, or no OAuth token (…); make a new one for --token-file",
        4,
        "CredentialsRefused",
        f"{SYNC} --token-file token",
        files={"token": "wrong"},
    ),
    Situation(
        "every image needs credentials",
        "for private repositories pass --username or --authfile",
        4,
        "AccessDenied",
        prepare=inaccessible,
    ),
    Situation(
        "one image needs credentials",
        "401 Unauthorized: private, or needs credentials",
        3,
        "AccessDenied",
        prepare=answers(NOVA, 401, "UNAUTHORIZED", "access to the requested resource is not authorized"),
    ),
    Situation(
        "a token service is on an unknown host",
        "uses a token service on another host (…), which is blocked by default: add --allow-realm … if you trust it",
        4,
        "RealmRefused",
        prepare=fault("^/v2/", Status(401, {"WWW-Authenticate": _EVIL})),
    ),
    Situation(
        "the server asks for a long pause",
        "429, come back in 3600 s",
        5,
        "DiscoveryIncomplete",
        prepare=fault("", Status(429, {"Retry-After": "3600"})),
    ),
    Situation("the server fails", "502 Bad Gateway", 5, "DiscoveryIncomplete", prepare=fault("", Status(502))),
    Situation(
        "the listing repeats itself",
        "the listing goes in circles: its next page was there before",
        5,
        "DiscoveryIncomplete",
        prepare=fault(LISTING, ReplaceBody(b'{"repositories": [], "next_page": "x"}')),
    ),
    Situation(
        "fewer images than expected",
        "only 2 images were found, fewer than the expected 10: look at the source, or lower --expect-at-least",
        5,
        "DiscoveryIncomplete",
        f"{SYNC} --expect-at-least 10",
    ),
    Situation(
        "a repository has no tags, and more of them",
        "the API's answer has no tags, and says that there are more",
        3,
        "Unavailable",
        prepare=fault("nova/tag/", ReplaceBody(b'{"tags": [], "has_additional": true}')),
    ),
)

IMAGES = (
    Situation(
        "the source has lost a blob",
        "404 BLOB_UNKNOWN: …",
        3,
        "NotFound",
        prepare=answers(BLOBS, 404, "BLOB_UNKNOWN", "blob unknown to registry"),
    ),
    Situation(
        "a blob is refused for a reason of the server's",
        "418 TEAPOT: …",
        3,
        "ServiceError",
        prepare=answers(BLOBS, 418, "TEAPOT", "I am a teapot"),
    ),
    Situation(
        "a blob can't be read by the server",
        "500 UNKNOWN: the storage is down",
        3,
        "Unavailable",
        prepare=answers(BLOBS, 500, "UNKNOWN", "the storage is down"),
    ),
    Situation("connections break", "the connection broke", 3, "ReadInterrupted", prepare=fault(BLOBS, Reset())),
    Situation(
        "answers end early",
        "the answer ended early",
        3,
        "ReadInterrupted",
        prepare=fault("", CutBody(9), listener="cdn"),
    ),
    Situation(
        "a redirect without end",
        "more than 5 redirects",
        3,
        "UnsafeRedirect",
        prepare=fault(BLOBS, Redirect("/v2/kolla/nova/blobs/x")),
    ),
    Situation(
        "a redirect to what is no address",
        "redirects to an address that can't be followed: not an http(s) URL",
        3,
        "UnsafeRedirect",
        prepare=fault(BLOBS, Redirect("ftp://example.com/blob")),
    ),
    Situation(
        "a layer has other bytes",
        "the content has another digest",
        3,
        "DigestMismatch",
        prepare=fault("", CorruptBody(100), listener="cdn"),
    ),
    Situation(
        "a manifest has other bytes",
        "the registry sent other bytes",
        3,
        "DigestMismatch",
        prepare=fault(MANIFEST, CorruptBody(30)),
    ),
    Situation(
        "a layer has another size", "the server has … bytes of it, not 77", 3, "SizeMismatch", prepare=claims(77)
    ),
    Situation(
        "an image is larger than the disk",
        "more bytes are needed, but only … are free on the disk of …: free some space, or use --no-space-check",
        3,
        "DoesNotFit",
        prepare=claims(2**62),
    ),
    Situation(
        "a manifest of two kinds",
        "is a manifest, but has manifests",
        3,
        "UnsupportedContent",
        prepare=odd,
    ),
    Situation(
        "a child of an index is missing",
        "the source lacks linux/… of the index; --platform mirrors the others",
        3,
        "NotFound",
        prepare=without_child,
    ),
    Situation(
        "no image for the platform", "not available for linux/s390x: 1", 0, "", f"{SYNC} --platform linux/s390x", multi
    ),
)

TARGET = (
    Situation(
        "the account may not push",
        "the account … may not push to …: no such organization, or no permission",
        4,
        "NotGranted",
        f"{PUSH} --authfile auth.json",
        closed,
        files={"auth.json": '{"auths": {"{target_host}": {"auth": "bWU6cHc="}}}'},
    ),
    Situation(
        "the target needs credentials",
        "for the target pass --dest-username or --authfile, with an account that may push there",
        4,
        "AccessDenied",
        PUSH,
        rejects("POST", "blobs/uploads", 401, "UNAUTHORIZED", "authentication required"),
    ),
    Situation(
        "a quota is used up",
        "writing is forbidden: permission, quota, or read-only (403 Forbidden: Quota has been exceeded on namespace)",
        3,
        "AccessDenied",
        PUSH,
        rejects("PUT", "nova/manifests/", 403, "DENIED", "Quota has been exceeded on namespace"),
    ),
    Situation(
        "the project does not exist",
        "repository not found at the target: create its project or organization there (404 NAME_UNKNOWN: project …)",
        3,
        "NotFound",
        PUSH,
        rejects("POST", "nova/blobs/", 404, "NAME_UNKNOWN", "project kolla not found)"),
    ),
    Situation(
        "a media type is refused",
        "the target rejects this media type (415 MANIFEST_INVALID: manifest schema unsupported)",
        3,
        "ServiceError",
        PUSH,
        rejects("PUT", "nova/manifests/", 415, "MANIFEST_INVALID", "manifest schema unsupported"),
    ),
    Situation(
        "Quay refuses a manifest",
        "the target rejects it (400 MANIFEST_INVALID: schema not supported)",
        3,
        "ContentMissing",
        PUSH,
        lambda scene: scene.target.breakages.append(
            Breakage("PUT", "nova/manifests/", lambda _: web.json_response(_TYPE_REFUSED, status=400), nth=0)
        ),
    ),
    Situation(
        "the target refuses foreign layers",
        "the target refuses its foreign layers, which have URLs elsewhere (…): allow these URLs there (…), or leave",
        3,
        "ForeignLayersRefused",
        PUSH,
        foreign,
    ),
    Situation(
        "a tag is immutable",
        "the tag is immutable at the target (409 DENIED: tag is immutable)",
        3,
        "ServiceError",
        PUSH,
        rejects("PUT", f"nova/manifests/{TAG}", 409, "DENIED", "tag is immutable"),
    ),
    Situation(
        "the target is read-only",
        "the target accepts no uploads: is it read-only? (405 UNSUPPORTED: …)",
        3,
        "ServiceError",
        PUSH,
        rejects("POST", "nova/blobs/uploads", 405, "UNSUPPORTED", "read-only mode"),
    ),
    Situation(
        "a blob is too large for the target",
        "it is too large for the target (413 SIZE_INVALID: …)",
        3,
        "ServiceError",
        PUSH,
        rejects("PUT", "nova/blobs/uploads", 413, "SIZE_INVALID", "too large"),
    ),
    Situation(
        "the target has no space",
        "no space left at the target (507 …)",
        3,
        "ServiceError",
        PUSH,
        rejects("PUT", "nova/blobs/uploads", 507, "FULL", "no space"),
    ),
    Situation(
        "the target fails",
        "500 UNKNOWN: internal",
        3,
        "Unavailable",
        PUSH,
        rejects("POST", "nova/blobs/uploads", 500, "UNKNOWN", "internal"),
    ),
    Situation(
        "the target speaks plain HTTP, not TLS",
        "does not speak TLS as expected (…): for plain HTTP write http:// instead of https://, or add ?insecure=true",
        5,
        "",
        "sync kolla * {tag} --to registry://{target_host} --state state",
    ),
    Situation(
        "the object store does not answer",
        "can't read s3://…: the object store does not answer: check its address and the network",
        5,
        "",
        "sync kolla * {tag} --to s3://mirrors/x --retries 0",
        env=_S3,
    ),
)

LOCAL = (
    Situation("content of the mirror is damaged", "1 missing or damaged", 8, "", "verify mirror", damaged, first=SYNC),
    Situation(
        "the index of the mirror is damaged",
        "index.json: is not JSON; verify --repair-state writes it again",
        8,
        "",
        "prune mirror",
        without_index,
        first=SYNC,
    ),
    Situation(
        "damaged content is to be pushed",
        "the blob … in mirror is damaged: its bytes have another digest",
        3,
        "MirrorDamaged",
        "push mirror {target} --state state",
        damaged,
        first=SYNC,
    ),
    Situation(
        "a file can't be written",
        "can't open /proc/none/x: no such file or directory",
        6,
        "StoreError",
        "sync kolla * {tag} --to dir://out --filter inspect:file=/proc/none/x",
    ),
    Situation(
        "another run works on the mirror",
        "mirror is in use by another run (…): wait for its end; sync, run and push do with --wait",
        7,
        "",
        SYNC,
        locked,
        first=SYNC,
    ),
    Situation(
        "a file is in the way",
        "can't create directory mirror/.quaymirror/ingest: file exists",
        6,
        "",
        SYNC,
        unwritable,
        first=SYNC,
    ),
)

GROUPS = {
    "The source": SOURCE,
    "Single images": IMAGES,
    "Targets": TARGET,
    "Mirrors and disks": LOCAL,
}
