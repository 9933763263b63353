"""Count the requests for one image with a `.sig` tag, a bundle, an SBOM and a signature of the SBOM.

Run `python benchmarks/referrers.py`: it needs no other program. The rows of other tools in the docs were counted by a
proxy in front of registries of both kinds, with the same image.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time

import quaymirror
from quaymirror import Options, ReferrerMode, Selection
from quaymirror.testing import (
    Fault,
    QuayServer,
    Registry,
    Status,
    make_artifact,
    make_image,
    make_index,
    make_layer,
)

TAG = "1"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
DAY = 86_400
NIGHTS = 8
_NO_API = Status(404, {"Content-Type": "text/plain"}, b"404 page not found\n")


def make_registry(*, has_api: bool) -> Registry:
    """Return an organization with the image, whose referrers have fallback tags unless there is the API."""
    registry = Registry(now=lambda: time.time() - DAY)
    repository = registry.organization("org").repository("image")
    image = make_image([make_layer(f"layer {number}", 2000) for number in range(4)])
    repository.push(TAG, image)
    repository.push(f"{image.digest.replace(':', '-')}.sig", make_artifact(SIMPLE, b"payload"))
    sbom = make_artifact("application/spdx+json", b"sbom", subject=image)
    of_image, of_sbom = [make_artifact(BUNDLE, b"of the image", subject=image), sbom], []
    of_sbom.append(make_artifact(BUNDLE, b"of the sbom", subject=sbom))
    for subject, referrers in ((image, of_image), (sbom, of_sbom)):
        for each in referrers:
            repository.attach(each)

        if not has_api:
            index = make_index([(each, None) for each in referrers])
            repository.push(subject.digest.replace(":", "-"), index)

    return registry


async def count(*, has_api: bool) -> list[int]:
    """Return the requests of each night."""
    registry, counts = make_registry(has_api=has_api), []
    async with QuayServer(registry, redirect_blobs=False) as server:
        if not has_api:
            server.faults.append(Fault("/referrers/", _NO_API))

        with tempfile.TemporaryDirectory() as mirror:
            for night in range(NIGHTS):
                registry.now = lambda night=night: time.time() + night * DAY  # type: ignore[misc]
                server.reset_records()
                options = Options.of(server=server.url, referrers=ReferrerMode.ALL)
                report = await quaymirror.sync(Selection("org", "*", TAG), mirror, options)
                assert report.exit_code == 0
                counts.append(len(server.requests))

    return counts


async def main() -> None:
    """Print a table in Markdown."""
    lines = ["| registry | first night | each other night | night of the rotation |", "|---|--:|--:|--:|"]
    for name, has_api in (("with the referrers API", True), ("with fallback tags", False)):
        first, *others, last = await count(has_api=has_api)
        assert len(set(others)) == 1, others
        lines.append(f"| {name} | {first} | {others[0]} | {last} |")

    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
