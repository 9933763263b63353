"""Real peers from Debian: started on free loopback ports, ended by their own process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def require(program: str) -> str:
    """Return the path of `program`; without it the test is skipped, or fails where all peers must be there."""
    path = shutil.which(program)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")

        pytest.skip(f"{program} is not installed")

    return path


def free_port() -> int:
    """Return a port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_REGISTRY = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
  redirect: {{disable: true}}
http: {{addr: "127.0.0.1:{port}", host: "http://127.0.0.1:{port}"}}
"""


@contextmanager
def docker_registry(directory: Path) -> Iterator[str]:
    """Run Debian's docker-registry, and yield its URL; it is ended by its process id."""
    program = require("docker-registry")
    port = free_port()
    config = directory / "registry.yml"
    config.write_text(_REGISTRY.format(root=directory / "registry", port=port))
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)

    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail("docker-registry ended at once")

        try:
            with urllib.request.urlopen(f"{url}/v2/", timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)

    pytest.fail("docker-registry does not answer")


def push(url: str, repository: str, tag: str, image: Any) -> None:
    """Push a `quaymirror.testing` image to the registry at `url`, children first."""
    for child in image.children:
        push(url, repository, child.digest, child)

    for blob in image.blobs:
        location = _request("POST", f"{url}/v2/{repository}/blobs/uploads/").headers["Location"]
        separator = "&" if "?" in location else "?"
        _request("PUT", f"{location}{separator}digest={blob.digest}", blob.data, "application/octet-stream")

    _request("PUT", f"{url}/v2/{repository}/manifests/{tag}", image.raw, image.media_type)


def _request(method: str, url: str, body: bytes = b"", content_type: str = "") -> Any:
    headers = {"Content-Type": content_type} if content_type else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=20) as response:
        return response


def skopeo(*arguments: str) -> str:
    """Run skopeo and return what it prints."""
    program = require("skopeo")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def skopeo_inspect(*arguments: str) -> dict[str, Any]:
    """Run `skopeo inspect` and return its JSON."""
    document: dict[str, Any] = json.loads(skopeo("inspect", *arguments))
    return document
