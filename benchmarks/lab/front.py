"""nginx as a Quay server and as its CDN, over plain HTTP and over TLS, near or far away, with counts of its requests.

Far away means a round trip before each answer, one more for a new connection, another one for its TLS handshake, and a
limited number of bytes per second and connection. nginx waits, if it has Lua, and the kernel paces the sockets: neither
uses CPU time of the cores that are measured. Without Lua, a proxy does both (`lab.link`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .corpus import MANIFEST_TYPE, ORGANIZATION, TAG

_MODULES = Path("/usr/lib/nginx/modules")
_LUA = [_MODULES / "ndk_http_module.so", _MODULES / "ngx_http_lua_module.so"]
_MAX_PACING_RATE = 47  # of Linux; the socket module does not have it
_CONFIG = """
{load} {user} daemon off; worker_processes 2; pid {home}/nginx.pid; error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  log_format asked '$request_method $uri $status $body_bytes_sent';
  access_log {home}/access.log asked buffer=64k flush=50ms;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u;
  scgi_temp_path {home}/s;
  sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 75s; absolute_redirect off;
  default_type application/octet-stream; {wait}
  map $arg_next_page $page {{ "" 1; default $arg_next_page; }}
  server {{
    {listen_quay}
    root {site};
    location = /v2/ {{ try_files /none @version; }}
    location = /api/v1/repository {{ default_type application/json; rewrite ^ /api/pages/$page.json break; }}
    location ~ ^/api/v1/repository/{organization}/([^/]+)/tag/?$ {{
      default_type application/json; rewrite ^/api/v1/repository/{organization}/([^/]+)/tag/?$ /api/tags/$1.json break;
    }}
    location ~ ^/v2/{organization}/([^/]+)/manifests/(.+)$ {{
      default_type {manifest_type}; rewrite ^/v2/{organization}/([^/]+)/manifests/(.+)$ /manifests/$1/$2 break;
    }}
    location ~ ^/v2/{organization}/[^/]+/tags/list$ {{ try_files /none @tags; }}
    location ~ ^/v2/{organization}/[^/]+/referrers/ {{ try_files /none @referrers; }}
    location ~ ^/v2/{organization}/[^/]+/blobs/(?<digest>sha256:[0-9a-f]+)$ {{ try_files /none @cdn; }}
    # Reached once the wait is over: `return` itself would not wait.
    location @version {{ default_type application/json; return 200 '{{}}'; }}
    location @tags {{ default_type application/json; return 200 '{{"name": "x", "tags": ["{tag}"]}}'; }}
    location @referrers {{
      default_type application/vnd.oci.image.index.v1+json;
      return 200 '{{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}}';
    }}
    location @cdn {{ return 302 {cdn}/blobs/$digest?signature=0; }}
  }}
  server {{ {listen_cdn} root {site}; }}
}}
"""
_WAIT = """
  access_by_lua_block {{
    local owed = {trip}
    if ngx.var.connection_requests == "1" then
      owed = owed + math.max(0, {handshakes} * {trip} - tonumber(ngx.var.connection_time))
    end
    ngx.sleep(owed)
  }}
"""


@dataclass(frozen=True, slots=True)
class Link:
    """The link between client and server: seconds per round trip, bytes per second and connection."""

    round_trip: float = 0.0
    rate: int = 0

    @property
    def waits_in_nginx(self) -> bool:
        """Return whether nginx can delay answers."""
        return all(module.exists() for module in _LUA)


NEAR = Link()
FAR = Link(0.05, 20_000_000)


@dataclass(frozen=True, slots=True)
class Front:
    """A running nginx, as its clients see it."""

    home: Path
    quay_port: int
    cdn_port: int
    scheme: str
    cafile: Path | None

    @property
    def host(self) -> str:
        """Host and port of the Quay server."""
        return f"127.0.0.1:{self.quay_port}"

    @property
    def url(self) -> str:
        """Return the URL of the Quay server."""
        return f"{self.scheme}://{self.host}"

    @property
    def cdn(self) -> str:
        """Return the URL of the CDN."""
        return f"{self.scheme}://127.0.0.1:{self.cdn_port}"

    def asked(self) -> Counter[str]:
        """Return the counts since the last call: `requests`, `api`, `manifests`, `blobs`, and their `bytes`."""
        time.sleep(0.15)  # the log is written every 50 ms
        counts: Counter[str] = Counter()
        log = self.home / "access.log"
        # nginx may not have created it yet: its sockets accept connections before it runs.
        for line in log.read_text().splitlines() if log.exists() else ():
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
    site: Path, home: Path, *, tls: bool = False, link: Link = NEAR, ports: tuple[int, int] = (0, 0)
) -> Iterator[Front]:
    """Serve `site` at the other end of `link` while the context lasts, at free ports if none are given."""
    home.mkdir(parents=True, exist_ok=True)
    by_proxy = link != NEAR and not link.waits_in_nginx
    with contextlib.ExitStack() as stack:
        # Listening starts here: no other process takes the port, and connections are paced from their beginning.
        rate, wanted = (0, (0, 0)) if by_proxy else (link.rate, ports)
        sockets = [stack.enter_context(listening(rate, port)) for port in wanted]
        far = [listener.getsockname()[1] for listener in sockets]
        near = [port or free_port() for port in ports] if by_proxy else far
        server = Front(home, near[0], near[1], "https" if tls else "http", home / "ca.pem" if tls else None)
        config = _configuration(site, server, far, tls=tls, waits=0.0 if by_proxy else link.round_trip)
        stack.enter_context(nginx(home, config, sockets))
        if by_proxy:
            stack.enter_context(proxy(link, near, far))

        for port in near:
            wait_for(port)

        server.asked()
        yield server


def _configuration(site: Path, server: Front, ports: list[int], *, tls: bool, waits: float) -> str:
    home = server.home
    keys = f" ssl; {_certificate(home)}" if tls else ";"
    return _CONFIG.format(
        home=home,
        user=user(),
        site=site,
        organization=ORGANIZATION,
        tag=TAG,
        manifest_type=MANIFEST_TYPE,
        listen_quay=f"listen 127.0.0.1:{ports[0]}{keys}",
        listen_cdn=f"listen 127.0.0.1:{ports[1]}{keys}",
        cdn=server.cdn,
        load=loading() if waits else "",
        wait=_WAIT.format(trip=waits, handshakes=2 if tls else 1) if waits else "",
    )


def user() -> str:
    """Return the line with the user of the workers, which under root would be one without access to the lab's files."""
    return "user root;" if os.geteuid() == 0 else ""


def loading() -> str:
    """Return the lines of a configuration with which nginx has Lua."""
    return "".join(f"load_module {module}; " for module in _LUA)


@contextlib.contextmanager
def nginx(home: Path, configuration: str, sockets: list[socket.socket]) -> Iterator[None]:
    """Run nginx with its files in `home` while the context lasts; it accepts connections from `sockets`."""
    config = home / "nginx.conf"
    config.write_text(configuration)
    # It takes over sockets that are named there, as it does when its binary is replaced.
    numbers = [listener.fileno() for listener in sockets]
    environment = {**os.environ, "NGINX": "".join(f"{number};" for number in numbers)}
    with (home / "stderr.log").open("wb") as log:
        command = ["nginx", "-c", str(config), "-p", str(home), "-e", str(home / "error.log")]
        process = subprocess.Popen(command, stderr=log, env=environment, pass_fds=numbers)

    with ended(process):
        yield


@contextlib.contextmanager
def proxy(link: Link, near: list[int], far: list[int]) -> Iterator[None]:
    """Delay what passes from each port of `near` to the one of `far`, and back, while the context lasts."""
    pairs = [f"{listen}:{to}" for listen, to in zip(near, far, strict=True)]
    command = [sys.executable, "-m", "lab.link", str(link.round_trip), str(link.rate), *pairs]
    with ended(subprocess.Popen(command, cwd=Path(__file__).parent.parent)):
        yield


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End this very process when the context does."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listening(rate: int = 0, port: int = 0) -> socket.socket:
    """Return a listening socket, each connection of which sends at most `rate` bytes a second."""
    listener = socket.socket()
    # nginx takes for granted that it is: a worker would wait for a connection that another one has accepted already.
    listener.setblocking(False)
    with contextlib.suppress(OSError):  # the usual one: some algorithms pace even loopback connections
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")

    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rate:
        listener.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, rate)

    listener.bind(("127.0.0.1", port))
    listener.listen(4096)
    return listener


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, *, seconds: float = 10.0) -> None:
    """Wait until `port` accepts connections.

    :raises TimeoutError: if it does not in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return

        time.sleep(0.02)

    raise TimeoutError(f"nothing listens on {port}")


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

    return f"ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;"
