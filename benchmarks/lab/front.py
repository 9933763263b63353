"""nginx as a Quay server and as its CDN, over plain HTTP and over TLS, and what it was asked for."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .corpus import MANIFEST_TYPE, ORGANIZATION, TAG

_CONFIG = """
{user} daemon off; worker_processes 2; pid {home}/nginx.pid; error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  log_format asked '$request_method $uri $status $body_bytes_sent';
  access_log {home}/access.log asked buffer=64k flush=200ms;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u;
  scgi_temp_path {home}/s;
  sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 75s; absolute_redirect off;
  open_file_cache max=10000; default_type application/octet-stream;
  map $arg_next_page $page {{ "" 1; default $arg_next_page; }}
  server {{
    {listen_quay}
    root {site};
    location = /v2/ {{ default_type application/json; return 200 '{{}}'; }}
    location = /api/v1/repository {{ default_type application/json; rewrite ^ /api/pages/$page.json break; }}
    location ~ ^/api/v1/repository/{organization}/([^/]+)/tag/?$ {{
      default_type application/json; rewrite ^/api/v1/repository/{organization}/([^/]+)/tag/?$ /api/tags/$1.json break;
    }}
    location ~ ^/v2/{organization}/([^/]+)/manifests/(.+)$ {{
      default_type {manifest_type}; rewrite ^/v2/{organization}/([^/]+)/manifests/(.+)$ /manifests/$1/$2 break;
    }}
    location ~ ^/v2/{organization}/[^/]+/tags/list$ {{
      default_type application/json; return 200 '{{"name": "x", "tags": ["{tag}"]}}';
    }}
    location ~ ^/v2/{organization}/[^/]+/blobs/(sha256:[0-9a-f]+)$ {{ return 302 {cdn}/blobs/$1?signature=0; }}
  }}
  server {{ {listen_cdn} root {site}; {limit} }}
}}
"""


@dataclass(slots=True)
class Front:
    """A running nginx. `quay` and `cdn` are its origins; `links` are what clients are told to use instead, if any."""

    home: Path
    quay_port: int
    cdn_port: int
    scheme: str
    cafile: Path | None

    @property
    def url(self) -> str:
        """Where the Quay server is."""
        return f"{self.scheme}://127.0.0.1:{self.quay_port}"

    def asked(self) -> Counter[str]:
        """Return what was asked since the last time: `requests`, `api`, `manifests`, `blobs`, and their `bytes`."""
        time.sleep(0.5)  # the log is written every 200 ms
        counts: Counter[str] = Counter()
        log = self.home / "access.log"
        for line in log.read_text().splitlines():
            method, path, _status, size = line.split(" ")
            counts["requests"] += 1
            counts["api"] += path.startswith("/api/")
            counts["manifests"] += "/manifests/" in path
            if method == "GET" and path.startswith("/blobs/"):
                counts["blobs"] += 1
                counts["bytes"] += int(size)

        # nginx goes on writing to the same file: it is opened for appending.
        log.write_bytes(b"")
        return counts


@contextlib.contextmanager
def front(
    site: Path,
    home: Path,
    *,
    tls: bool = False,
    cdn: str | None = None,
    limit_rate: str | None = None,
    ports: tuple[int, int] | None = None,
) -> Iterator[Front]:
    """Serve `site` while the context lasts. `cdn` is what blobs are redirected to, instead of nginx's own CDN port.

    `limit_rate` is nginx's, for each connection of the CDN.
    """
    quay_port, cdn_port = ports or (free_port(), free_port())
    scheme = "https" if tls else "http"
    home.mkdir(parents=True, exist_ok=True)
    keys = _certificate(home) if tls else ""
    listen = f" ssl; {keys}" if tls else ";"
    config = home / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            home=home,
            # As root its workers would be nobody, who may not read here.
            user="user root;" if os.geteuid() == 0 else "",
            site=site,
            organization=ORGANIZATION,
            tag=TAG,
            manifest_type=MANIFEST_TYPE,
            listen_quay=f"listen 127.0.0.1:{quay_port}{listen}",
            listen_cdn=f"listen 127.0.0.1:{cdn_port}{listen}",
            cdn=cdn or f"{scheme}://127.0.0.1:{cdn_port}",
            limit=f"limit_rate {limit_rate};" if limit_rate else "",
        )
    )
    process = subprocess.Popen(["nginx", "-c", str(config), "-p", str(home)], stderr=subprocess.DEVNULL)
    try:
        for port in (quay_port, cdn_port):
            wait_for(port)

        yield Front(home, quay_port, cdn_port, scheme, home / "ca.pem" if tls else None)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, *, seconds: float = 10.0) -> None:
    """Wait until somebody listens on `port`.

    :raises TimeoutError: when nobody does.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return

        time.sleep(0.02)

    raise TimeoutError(f"nobody listens on {port}")


def _certificate(home: Path) -> str:
    import trustme

    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(home / "ca.pem")
    (home / "certs").mkdir(exist_ok=True)
    authority.cert_pem.write_to_path(home / "certs" / "ca.crt")
    server.private_key_pem.write_to_path(home / "key.pem")
    with (home / "cert.pem").open("wb") as file:
        for part in server.cert_chain_pems:
            file.write(part.bytes())

    return f"ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;"
