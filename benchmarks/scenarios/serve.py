"""Pulls from a mirror that is served, beside docker-registry and nginx with the same bytes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import measure
from lab.measure import Contestant, Cost
from lab.peers import PYTHON
from lab.scenario import Case, Lab, Scenario

from quaymirror.testing import SourceManifest, make_image, make_layer

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

OURS, _REGISTRY, _NGINX = "quaymirror serve", "docker-registry", "nginx"
_REQUESTS, _CONNECTIONS, _PULLS = 20_000, 16, 10
_BLOB = 200_000_000
_PROGRAMS = ("ab", "curl", "docker-registry", "nginx", "openssl")
_ACCEPT = "application/vnd.oci.image.manifest.v1+json"


def run(lab: Lab) -> Iterator[Case]:
    """Measure a client of each server; all servers run all the time, and only one of them has requests."""
    missing = [
        program for program in ("ab", "curl", "docker-registry", "nginx", "openssl") if not shutil.which(program)
    ]
    if missing:
        print(f"\nleft out: {', '.join(missing)} not here")
        return

    small = make_image([make_layer("small", 1_500)])
    large = make_image([make_layer("large", _BLOB // 20 if lab.quick else _BLOB)])
    blob = max(large.blobs, key=lambda each: each.size).digest
    requests = _REQUESTS // 20 if lab.quick else _REQUESTS
    with _servers(lab.home, {"kolla/small": small, "kolla/large": large}) as urls:
        ab = f"ab -q -k -c {_CONNECTIONS} -n {requests} -H 'Accept: {_ACCEPT}'"
        if lab.wants("manifests"):
            costs = _compare(lab, [(name, f"{ab} {url}/v2/kolla/small/manifests/1") for name, url in urls[:3]])
            case = Case("manifests", f"{requests:,} requests for a small manifest", _NGINX, costs, counts=())
            case.at_least(23, f"ahead of {_REGISTRY}", 10.0, case.ratio(_REGISTRY, OURS))
            yield case

        if lab.wants("blob"):
            costs = _compare(lab, [(name, _curl(f"{url}/v2/kolla/large/blobs/{blob}")) for name, url in urls[:3]])
            case = Case("blob", f"{_PULLS} pulls of one large layer", _NGINX, costs, counts=())
            case.at_least(23, "throughput, of nginx's", 0.9, case.ratio(_NGINX, OURS))
            yield case

        if lab.wants("blob-tls"):
            costs = _compare(lab, [(name, _curl(f"{url}/v2/kolla/large/blobs/{blob}")) for name, url in urls[3:]])
            case = Case("blob-tls", f"{_PULLS} pulls of one large layer over TLS", _NGINX, costs, counts=())
            case.at_least(23, "throughput, of nginx's", 0.7, case.ratio(_NGINX, OURS))
            yield case


def _curl(url: str) -> str:
    return f"for n in $(seq {_PULLS}); do curl -skf -o /dev/null {url} || exit 1; done"


def _compare(lab: Lab, commands: Sequence[tuple[str, str]]) -> dict[str, list[Cost]]:
    contestants = [Contestant(name, command, always=True) for name, command in commands]
    return measure.compare(
        contestants, lambda one: measure.run(one, measure.fresh(lab.home / "out")), rounds=lab.rounds
    )


@contextlib.contextmanager
def _servers(home: Path, images: dict[str, SourceManifest]) -> Iterator[list[tuple[str, str]]]:
    """Yield the names and addresses of three servers over plain HTTP, and of two over TLS."""
    from peers import DockerRegistry, free_port, push
    from serving import write_layout

    place = measure.fresh(home / "serve")
    place.mkdir(parents=True, exist_ok=True)
    mirror = write_layout(place / "mirror", {f"{name}:1": image for name, image in images.items()})
    key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*key, "-keyout", place / "key", "-out", place / "crt"], check=True, capture_output=True)
    plain, static, tls, static_tls = (free_port() for _ in range(4))
    ours = [PYTHON, "-m", "quaymirror", "serve", str(mirror)]
    secure = ["--tls-cert", str(place / "crt"), "--tls-key", str(place / "key")]
    listen = f"127.0.0.1:{static}"
    subprocess.run([*ours, "--write-nginx", str(place / "static"), "--listen", listen], check=True, capture_output=True)
    (place / "nginx.conf").write_text(_nginx(place, listen, static_tls))
    with contextlib.ExitStack() as stack:
        for words in (
            [*ours, "--listen", f"127.0.0.1:{plain}"],
            [*ours, "--listen", f"127.0.0.1:{tls}", *secure],
            ["nginx", "-p", str(place), "-c", str(place / "nginx.conf")],
        ):
            stack.enter_context(_running(words))

        registry = stack.enter_context(DockerRegistry(place))
        for name, image in images.items():
            push(registry.url, name, "1", image)

        for port in (plain, static, tls, static_tls):
            _wait_for(port)

        yield [
            (OURS, f"http://127.0.0.1:{plain}"),
            (_REGISTRY, registry.url),
            (_NGINX, f"http://{listen}"),
            (OURS, f"https://127.0.0.1:{tls}"),
            (_NGINX, f"https://127.0.0.1:{static_tls}"),
        ]

    shutil.rmtree(place, ignore_errors=True)


def _nginx(place: Path, listen: str, port: int) -> str:
    """Return the main file of nginx: the generated one, and the same over TLS."""
    text = (place / "static" / "nginx.conf").read_text()
    maps, _, server = text.partition("\nserver {")
    lines = f"listen 127.0.0.1:{port} ssl; ssl_certificate {place}/crt; ssl_certificate_key {place}/key;"
    over_tls = server.replace(f"listen {listen};", lines)
    head = f"user root; daemon off; worker_processes 1; pid {place}/pid; error_log {place}/errors; events {{}}"
    return f"{head} http {{ access_log off; sendfile on;\n{maps}\nserver {{{server}\nserver {{{over_tls}}}\n"


@contextlib.contextmanager
def _running(words: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return

        time.sleep(0.05)

    raise RuntimeError("a server does not answer")


SCENARIO = Scenario("serve", "pulls from a mirror that is served", ("manifests", "blob", "blob-tls"), run)
