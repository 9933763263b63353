"""An S3 server in this process, which counts requests and can fail some of them."""

from __future__ import annotations

import base64
import hmac
import http.client
import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from threading import Thread
from typing import Any

import peers
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "mirrors"
# The account that every Azurite has.
_AZURITE = "devstoreaccount1"
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
_SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"

Fault = Callable[[str, str], int]
"""Returns the status to answer a request with, by its method and path; 0 to answer it."""


@dataclass
class S3Server:
    """The address of a server with an empty bucket, and the requests that it got."""

    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    """The hash of the content that a PUT announced, by path."""
    fault: Fault = lambda *_: 0
    code: str = ""
    """The code in the body of answers that `fault` asks for."""

    after: Callable[[str, str], None] = lambda *_: None
    """Called when a request was carried out, before it is answered."""
    ignores_conditions: bool = False

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that lead to this server."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true"}

    def watch(self, application: Any) -> Any:
        """Return the WSGI application between the network and the server."""

        def watched(environ: dict[str, Any], start: Any) -> Any:
            if "HTTP_X_TEST" in environ:
                return application(environ, start)

            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            query = environ.get("QUERY_STRING", "")
            self.requests.append((method, f"{path}?{query}" if query else path))
            if method == "PUT":
                self.hashes[path] = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")

            if self.ignores_conditions:
                environ.pop("HTTP_IF_MATCH", None)
                environ.pop("HTTP_IF_NONE_MATCH", None)

            if status := self.fault(method, path):
                reason = f"<Error><Code>{self.code}</Code></Error>".encode() if self.code and method != "HEAD" else b""
                start(f"{status} Fault", [("Content-Length", str(len(reason)))])
                return [reason]

            answer = application(environ, start)
            self.after(method, path)
            return answer

        return watched

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Ask the server itself, without counting."""
        connection = http.client.HTTPConnection(self.url.partition("//")[2])
        headers = {"Authorization": _SIGNED, "Content-Length": str(len(body)), "X-Test": "1"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.status, answer.read()
        connection.close()
        return content

    def empty(self) -> None:
        """Delete everything, and make the empty bucket."""
        self.ask("POST", "/moto-api/reset")
        assert self.ask("PUT", f"/{BUCKET}")[0] == 200

    def get(self, key: str) -> bytes | None:
        """Return an object, None if it does not exist."""
        status, content = self.ask("GET", f"/{BUCKET}/{key}")
        return content if status == 200 else None

    def put(self, key: str, content: bytes) -> None:
        """Write an object."""
        assert self.ask("PUT", f"/{BUCKET}/{key}", content)[0] == 200

    def delete(self, key: str) -> None:
        """Delete an object."""
        self.ask("DELETE", f"/{BUCKET}/{key}")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server during the context, whose objects are gone afterwards."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = S3Server()
    application = served.watch(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    served.empty()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rclone_copy(s3: S3Server, prefix: str, directory: Path) -> None:
    """Let rclone copy the mirror at `prefix` to a directory."""
    remote = f":s3,provider=Other,env_auth,endpoint='{s3.url}',force_path_style:{BUCKET}/{prefix}"
    words = [peers.require("rclone"), "copy", remote, str(directory), "--exclude", ".quaymirror/**"]
    environment = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    subprocess.run([*words, "--config", os.devnull], check=True, timeout=300, env=environment)


@contextmanager
def s3rver(directory: Path) -> Iterator[Mapping[str, str]]:
    """Run s3rver (npm), which ignores conditions, and return the variables that lead to it."""
    port = peers.free_port()
    words = ["--directory", str(directory), "--port", str(port), "--address", "127.0.0.1", "--silent"]
    with _running([peers.require("s3rver", everywhere=False), *words, "--configure-bucket", BUCKET], port):
        keys = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER", "AWS_REGION": "us-east-1"}
        yield {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true"}


@contextmanager
def azurite(directory: Path) -> Iterator[Mapping[str, str]]:
    """Run Azurite (npm), the emulator of Azure's blobs, with an empty container."""
    port = peers.free_port()
    words = ["--location", str(directory), "--blobPort", str(port), "--silent", "--skipApiVersionCheck"]
    with _running([peers.require("azurite-blob", everywhere=False), *words], port):
        url = f"http://127.0.0.1:{port}/{_AZURITE}"
        found = {
            "AZURE_STORAGE_ACCOUNT_NAME": _AZURITE,
            "AZURE_STORAGE_ACCOUNT_KEY": _AZURITE_KEY,
            "AZURE_STORAGE_ENDPOINT": url,
            "AZURE_ALLOW_HTTP": "true",
        }
        _create_container(url)
        yield found


def _create_container(url: str) -> None:
    """Create the container with a request that is signed by the account's key."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    text = "\n".join([*lines, f"/{_AZURITE}/{_AZURITE}/{BUCKET}", "restype:container"])
    digest = hmac.new(base64.b64decode(_AZURITE_KEY), text.encode(), "sha256").digest()
    headers["Authorization"] = f"SharedKey {_AZURITE}:{base64.b64encode(digest).decode()}"
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host)
    connection.request("PUT", f"/{path}/{BUCKET}?restype=container", b"", {**headers, "Content-Length": "0"})
    assert connection.getresponse().status == 201
    connection.close()


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            peers.wait_for(port, process)
            yield
        finally:
            process.terminate()
            process.wait(10)
