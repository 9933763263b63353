"""Layouts written by hand, servers of them, and a client that shows exactly what was answered."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from quaymirror.serve import serving
from quaymirror.serve.options import ServeOptions
from quaymirror.testing import SourceManifest

REF_NAME, FULL_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"


def entry(name: str | None, image: SourceManifest, registry: str = "quay.io") -> dict[str, Any]:
    """Return an entry of an index."""
    names = {} if name is None else {"annotations": {REF_NAME: name, FULL_NAME: f"{registry}/{name}"}}
    return {"mediaType": image.media_type, "digest": image.digest, "size": len(image.raw), **names}


def write_layout(root: Path, images: Mapping[str, SourceManifest], *more: dict[str, Any]) -> Path:
    """Write a layout of `images` by name, and further entries; return its path."""
    (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    for image in images.values():
        write_blobs(root, image)

    entries = [entry(name, image) for name, image in images.items()]
    temporary = root / "index.json.new"
    temporary.write_text(json.dumps({"schemaVersion": 2, "manifests": [*entries, *more]}))
    temporary.rename(root / "index.json")
    return root


def write_blobs(root: Path, image: SourceManifest) -> None:
    """Write the manifests and blobs of an image."""
    contents = {node.digest: node.raw for node in image.walk()}
    contents |= {digest: blob.data for digest, blob in image.all_blobs().items()}
    for digest, content in contents.items():
        path = blob_path(root, digest)
        if not path.exists():
            path.write_bytes(content)


def blob_path(root: Path, digest: str) -> Path:
    """Return the file of a blob."""
    algorithm, _, encoded = digest.partition(":")
    return root / "blobs" / algorithm / encoded


@dataclass(frozen=True)
class Answered:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error."""
        assert self.headers["content-type"] == "application/json"
        [error] = self.json["errors"]
        assert error["message"]
        return str(error["code"])


@dataclass
class Client:
    """A client of the server at `url`; `said` are the lines of the server."""

    url: str
    said: list[str] = field(default_factory=list)

    def request(self, method: str, path: str, **headers: str) -> Answered:
        """Ask, with a connection of its own; `_` in names of headers stands for `-`."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)

            connection.endheaders()
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, fields, response.read())
        finally:
            connection.close()

    async def send(self, method: str, path: str, **headers: str) -> Answered:
        """Ask in a thread."""
        return await anyio.to_thread.run_sync(lambda: self.request(method, path, **headers))

    async def get(self, path: str, **headers: str) -> Answered:
        """Send a GET."""
        return await self.send("GET", path, **headers)

    async def head(self, path: str, **headers: str) -> Answered:
        """Send a HEAD."""
        return await self.send("HEAD", path, **headers)

    async def until(self, path: str, status: int) -> Answered:
        """Ask until the status is this one."""
        with anyio.fail_after(10):
            while (answer := await self.get(path)).status != status:
                await anyio.sleep(0.02)

        return answer


@asynccontextmanager
async def served(*mirrors: Path | str, **options: Any) -> AsyncIterator[Client]:
    """Serve `mirrors` at a free port during the context."""
    said: list[str] = []
    wanted = ServeOptions(**{"listen": "127.0.0.1:0", "stop_seconds": 1.0, **options})
    async with serving.serving([str(mirror) for mirror in mirrors], wanted, say=said.append) as server:
        yield Client(server.url, said)
