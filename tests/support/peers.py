"""Real peers from Debian: started on free loopback ports, ended by their own process."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest


def require(program: str, *, everywhere: bool = True) -> str:
    """Return the path of `program`; without it the test is skipped, or fails where all peers must be there.

    Not all of them can be `everywhere`: some are too large to be installed for a test.
    """
    path = shutil.which(program)
    if path is None:
        if everywhere and os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")

        pytest.skip(f"{program} is not installed")

    return path


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_REGISTRY = """
version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
  redirect: {{disable: true}}
http: {{addr: "127.0.0.1:{port}", host: "{url}"{tls}}}
{auth}
"""
_LOG_LINE = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/1\.1" (?P<status>[0-9]{3}) ')


@dataclass(frozen=True)
class Asked:
    """One request in a registry's access log."""

    method: str
    path: str
    status: int


class DockerRegistry:
    """Debian's docker-registry on a free loopback port; it can be killed and restarted with its content.

    `tls` is a certificate chain and its key, `password` that of the user `mirror`; `auth` is another configuration of
    access.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tls: tuple[Path, Path] | None = None,
        client_ca: Path | None = None,
        password: str | None = None,
        auth: str = "",
    ) -> None:
        self._program = require("docker-registry")
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self.log = directory / f"registry-{self.port}.log"
        self._config = directory / f"registry-{self.port}.yml"
        self._config.write_text(
            _REGISTRY.format(
                root=directory / "registry",
                port=self.port,
                url=self.url,
                tls=_tls(tls, client_ca),
                auth=auth or self._auth(password),
            )
        )

    def _auth(self, password: str | None) -> str:
        if password is None:
            return ""

        file = self._directory / "htpasswd"
        subprocess.run([require("htpasswd"), "-Bbc", str(file), "mirror", password], check=True, capture_output=True)
        return f"auth: {{htpasswd: {{realm: test, path: {file}}}}}"

    def start(self) -> None:
        """Run it, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([self._program, "serve", str(self._config)], stdout=log, stderr=log)

        wait_for(self.port, self._process)

    @property
    def is_running(self) -> bool:
        """Return whether it was started and not killed."""
        return self._process is not None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def requests(self) -> list[Asked]:
        """Return the requests since `forget`."""
        lines = _LOG_LINE.finditer(self.log.read_text(errors="replace"))
        return [Asked(line["method"], line["path"], int(line["status"])) for line in lines]

    def forget(self) -> None:
        """Empty the access log."""
        os.truncate(self.log, 0)

    def __enter__(self) -> DockerRegistry:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _tls(chain: tuple[Path, Path] | None, client_ca: Path | None) -> str:
    if chain is None:
        return ""

    clients = f", clientcas: [{client_ca}]" if client_ca else ""
    return f", tls: {{certificate: {chain[0]}, key: {chain[1]}{clients}}}"


@contextmanager
def docker_registry(directory: Path) -> Iterator[str]:
    """Run Debian's docker-registry, and yield its URL; it is ended by its process id."""
    with DockerRegistry(directory) as registry:
        yield registry.url


@contextmanager
def docker_daemon(directory: Path) -> Iterator[str]:
    """Run a private Docker daemon, and yield its address for `docker -H`."""
    program = require("dockerd", everywhere=False)
    if os.geteuid() != 0:
        pytest.skip("a Docker daemon needs root")

    address = f"unix://{directory}/docker.sock"
    places = ["--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid"]
    offline = ["--iptables=false", "--ip-forward=false", "--bridge=none"]
    with (directory / "dockerd.log").open("wb") as log:
        process = subprocess.Popen([program, "-H", address, *places, *offline], stdout=log, stderr=log)

    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["docker", "-H", address, "version"], capture_output=True, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("a Docker daemon can't run here")

            time.sleep(0.1)

        yield address
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def containerd(directory: Path) -> Iterator[str]:
    """Run a private containerd, and yield its address for `ctr --address`."""
    program = require("containerd", everywhere=False)
    if os.geteuid() != 0:
        pytest.skip("containerd needs root")

    config, address = directory / "config.toml", f"{directory}/containerd.sock"
    config.write_text(
        f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{address}"\n[ttrpc]\naddress = "{address}.ttrpc"\n'
    )
    with (directory / "containerd.log").open("wb") as log:
        process = subprocess.Popen([program, "--config", str(config)], stdout=log, stderr=log)

    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["ctr", "--address", address, "version"], capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("containerd can't run here")

            time.sleep(0.1)

        yield address
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def nginx(tmp_path: Path, http: str) -> Iterator[None]:
    """Run nginx with the directives `http`; it may take a moment until it answers."""
    program, place = require("nginx", everywhere=False), tmp_path / "nginx"
    place.mkdir()
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    main = f"{user} daemon off; pid {place}/pid; error_log {place}/errors; events {{}}"
    (place / "nginx.conf").write_text(f"{main} http {{ access_log off; {temporary}\n{http}\n}}")
    process = subprocess.Popen([program, "-p", str(place), "-c", str(place / "nginx.conf")], stderr=subprocess.PIPE)
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


async def answers(port: int) -> None:
    """Wait until a server answers at `port`."""
    with anyio.fail_after(20):
        while True:
            try:
                return await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            except OSError:
                await anyio.sleep(0.02)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when a server answers at `port`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"{process.args!r} ended at once")

        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)

    pytest.fail(f"{process.args!r} does not answer")


def push(url: str, repository: str, tag: str, image: Any) -> None:
    """Push a `quaymirror.testing` image to the registry at `url`, children first."""
    for child in image.children:
        push(url, repository, child.digest, child)

    for blob in image.blobs:
        location = _request("POST", f"{url}/v2/{repository}/blobs/uploads/").headers["Location"]
        separator = "&" if "?" in location else "?"
        _request("PUT", f"{location}{separator}digest={blob.digest}", blob.data, "application/octet-stream")

    _request("PUT", f"{url}/v2/{repository}/manifests/{tag}", image.raw, image.media_type)


def _request(method: str, url: str, body: bytes = b"", content_type: str = "", accept: str = "") -> Any:
    fields = {"Content-Type": content_type, "Accept": accept}
    headers = {name: value for name, value in fields.items() if value}
    with urllib.request.urlopen(
        urllib.request.Request(url, body or None, headers, method=method), timeout=20
    ) as response:
        return response


_OCI, _DOCKER = "application/vnd.oci.image.", "application/vnd.docker.distribution.manifest."
_ANY_IMAGE = f"{_OCI}index.v1+json, {_OCI}manifest.v1+json, {_DOCKER}list.v2+json, {_DOCKER}v2+json"


def has_tag(url: str, repository: str, tag: str) -> bool:
    """Return whether the registry at `url` has the tag."""
    try:
        return bool(_request("GET", f"{url}/v2/{repository}/manifests/{tag}", accept=_ANY_IMAGE).status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


@contextmanager
def podman() -> Iterator[list[str]]:
    """Yield the words of a podman with a store of its own."""
    program = require("podman", everywhere=False)
    if os.geteuid() != 0:
        pytest.skip("podman needs root here")

    # It allows short names of directories only.
    with tempfile.TemporaryDirectory(prefix="qm-", dir="/tmp") as place:
        store = ["--root", f"{place}/store", "--runroot", f"{place}/run", "--storage-driver", "vfs"]
        yield [program, *store, "--events-backend", "none", "--cgroup-manager", "cgroupfs"]


def tag_digest(url: str, repository: str, tag: str) -> str:
    """Return the digest of the manifest or index that a tag has."""
    answer = _request("HEAD", f"{url}/v2/{repository}/manifests/{tag}", accept=_ANY_IMAGE)
    return str(answer.headers["Docker-Content-Digest"])


def skopeo(*arguments: str) -> str:
    """Run skopeo and return its output."""
    program = require("skopeo")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def skopeo_inspect(*arguments: str) -> dict[str, Any]:
    """Run `skopeo inspect` and return its JSON."""
    document: dict[str, Any] = json.loads(skopeo("inspect", *arguments))
    return document
