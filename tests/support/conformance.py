"""The requests of the OCI conformance program in its read-only mode, and what each must be answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from serving import Client

from quaymirror.testing import SourceManifest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_ABSENT = "sha256:" + hashlib.sha256(b"absent").hexdigest()
_ACCEPT = ", ".join(
    [
        OCI_INDEX,
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)


def failures(
    client: Client, repository: str, tag: str, image: SourceManifest, referrers: list[SourceManifest]
) -> Iterator[str]:
    """Yield each request that is answered wrongly; `referrers` are those of `image`. It blocks."""
    base = f"/v2/{repository}"
    if client.request("GET", "/v2/").status != 200:
        yield "GET /v2/"

    yield from _tags(client, base, tag)
    manifests = [(tag, image), *((node.digest, node) for node in image.walk())]
    for reference, node in manifests:
        yield from _content(client, f"{base}/manifests/{reference}", node.digest, node.raw, node.media_type)

    for digest, blob in image.all_blobs().items():
        yield from _content(client, f"{base}/blobs/{digest}", digest, blob.data, None)

    for subject, expected in ((image.digest, referrers), (_ABSENT, [])):
        answer = client.request("GET", f"{base}/referrers/{subject}")
        right = answer.status == 200 and answer.headers["content-type"] == OCI_INDEX
        if not right or {one["digest"] for one in json.loads(answer.body)["manifests"]} != {r.digest for r in expected}:
            yield f"referrers/{subject}"

    for reference, status in ((_ABSENT, 404), ("no-such-tag", 404), ("sha256:baddigeststring", 400)):
        if client.request("GET", f"{base}/manifests/{reference}", Accept=_ACCEPT).status != status:
            yield f"manifests/{reference}"


def _tags(client: Client, base: str, tag: str) -> Iterator[str]:
    tags = client.request("GET", f"{base}/tags/list")
    if tags.status != 200 or tag not in tags.json["tags"]:
        yield "tags/list"

    rest = [one for one in tags.json["tags"] if one > tag]
    if client.request("GET", f"{base}/tags/list?last={tag}").json["tags"] != rest:
        yield "tags/list?last="


def _content(client: Client, path: str, digest: str, content: bytes, media_type: str | None) -> Iterator[str]:
    for method in ("HEAD", "GET"):
        answer = client.request(method, path, Accept=_ACCEPT)
        right = answer.status == 200 and answer.headers["docker-content-digest"] == digest
        right &= answer.headers["content-length"] == str(len(content))
        right &= media_type is None or answer.headers["content-type"] == media_type
        if not right or answer.body != (content if method == "GET" else b""):
            yield f"{method} {path}"
