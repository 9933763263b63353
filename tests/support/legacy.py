"""The organization, its server and the target registry that mirrors of earlier releases were made with.

`tests/data/legacy/make.py` also runs this module with an earlier release, so it only uses names that 0.1.0 has.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from organizations import TAG
from receiver import Receiver

from quaymirror.testing import (
    QuayServer,
    Registry,
    SourceManifest,
    make_attestation,
    make_image,
    make_index,
    make_layer,
)

# A state names the registry that images came from, and is named by the target that they went to.
HOST, PORT, TARGET_PORT = "127.86.1.6", 18_086, 18_087
SELECTION = ("sync", "kolla", "*", TAG)
REMOVED = "glance"
TARGET = f"registry://{HOST}:{TARGET_PORT}?insecure=true"


def image(seed: str, platform: str = "linux/amd64") -> SourceManifest:
    """Return an image with the same bytes on every machine: compressed layers depend on the version of zlib."""
    layers = [make_layer(f"{name}", 3_000, compression="none") for name in ("base", seed, f"{seed} {platform}")]
    return make_image(layers, platform=platform)


def organization() -> Registry:
    """Return the organization as it was when the mirror was made: `REMOVED` was deleted before the last run."""
    amd64, arm64 = image("nova"), image("nova", "linux/arm64")
    pairs = [(amd64, "linux/amd64"), (arm64, "linux/arm64"), (make_attestation(amd64), "unknown/unknown")]
    images = {"nova": make_index(pairs), REMOVED: image(REMOVED), "keystone": image("keystone")}
    registry = Registry(now=lambda: 1_764_000_000.0)
    for name, manifest in images.items():
        registry.organization("kolla").repository(name).push(TAG, manifest)

    return registry


def quay(registry: Registry) -> QuayServer:
    """Return a server of `registry` that listens where the one of the legacy mirror did."""
    server = QuayServer(registry, host=HOST)
    server._sockets["quay"].port = PORT
    return server


class Destination(Receiver):
    """A registry that listens where the one of the legacy state did."""

    async def __aenter__(self) -> Destination:
        server = web.Server(self._serve, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.02)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, TARGET_PORT).start()
        self.host = f"{HOST}:{TARGET_PORT}"
        await asyncio.sleep(0)
        return self
