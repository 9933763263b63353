"""The command `serve`: its streams and exit codes, access rules, and pulls while a mirror changes."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import bcrypt
import pytest
import trustme
from commands import run
from organizations import TAG, kolla, small_image
from serving import served, write_layout

import quaymirror
from quaymirror import Options, PruneOptions, Selection
from quaymirror.errors import ConfigError
from quaymirror.serve.passwords import PasswordFile
from quaymirror.store.layout import OCILayout
from quaymirror.store.snapshots import SnapshotNote, take_snapshot
from quaymirror.testing import QuayServer

# The evening of 3 March 2026 in most of the world's time zones.
NIGHT = 1_772_535_600.0
USERS = "mirror:" + bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode() + "\n"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "mirror", {f"kolla/{name}:{TAG}": small_image(name) for name in "abc"})


@contextmanager
def server(*arguments: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command until the context ends; yield the process and its URL."""
    command = [sys.executable, "-m", "quaymirror", "serve", *arguments, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line.startswith("quaymirror: serving at http"), line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_success(mirror: Path, number: signal.Signals) -> None:
    with server(str(mirror)) as (process, url):
        with urllib.request.urlopen(f"{url}/v2/_catalog", timeout=10) as response:
            assert len(json.loads(response.read())["repositories"]) == 3

        process.send_signal(number)
        stdout, stderr = await anyio.to_thread.run_sync(partial(process.communicate, timeout=20))
        assert (process.returncode, stdout, stderr) == (0, "", "")


async def test_a_port_in_use_and_other_mistakes_are_one_line(mirror: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await run("serve", str(mirror), "--listen", listen, cwd=tmp_path, check=2)
        assert done.stderr == f"quaymirror: can't listen at {listen}: another program listens there\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls_cert": "key"}, "--tls-cert and --tls-key go together"),
        ({"tls_cert": "key", "tls_key": "key"}, "not a certificate and its key"),
        ({"htpasswd": "key"}, "line 1: not a user with a bcrypt hash: use htpasswd -B"),
        ({"htpasswd": "none"}, "can't read the users in"),
        ({"access_log": "no/such/log"}, "can't write the access log"),
        ({"listen": "no.such.host.invalid:5000"}, "can't listen at"),
        ({"listen": "192.0.2.1:5000"}, "can't listen at"),
    ],
)
async def test_options_that_can_not_be_used_are_refused(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key").write_text("mirror:{SHA}abc\n")
    given: dict[str, Any] = {k: Path(v) if k not in ("listen", "access_log") else v for k, v in options.items()}
    with pytest.raises(ConfigError, match=words):
        async with served(mirror, **given):
            pass


async def test_a_missing_mirror_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no OCI image layout at .*missing"):
        async with served(tmp_path / "missing"):
            pass


async def test_tls_and_users(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quaymirror.serve.serving._REFRESH_SECONDS", 0.02)
    authority = trustme.CA()
    files = {"tls_cert": tmp_path / "crt", "tls_key": tmp_path / "key", "htpasswd": tmp_path / "users"}
    certify(authority, files)
    files["htpasswd"].write_text(USERS)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with served(mirror, **files) as client:
        assert client.url.startswith("https://")

        async def ask(url: str, path: str, user: str, context: ssl.SSLContext) -> tuple[int, str]:
            return await anyio.to_thread.run_sync(fetch, url, path, user, context)

        assert await ask(client.url, "/healthz", "", context) == (200, "")
        assert await ask(client.url, "/v2/", "", context) == (401, 'Basic realm="quaymirror", charset="UTF-8"')
        for wrong in ("mirror:wrong", "other:right", "mirror:", "mirror", ":", "mirror:right\0", "mirror:" + "x" * 500):
            assert (await ask(client.url, "/v2/", wrong, context))[0] == 401

        for path in ("/v2/", "/v2/_catalog", "/metrics"):
            assert (await ask(client.url, path, "mirror:right", context))[0] == 200

        before = await anyio.to_thread.run_sync(serial, client.url)
        certify(authority, files)
        files["htpasswd"].write_text(USERS.replace("mirror", "another"))
        with anyio.fail_after(10):
            while (await ask(client.url, "/v2/", "another:right", context))[0] != 200:
                await anyio.sleep(0.02)

            while await anyio.to_thread.run_sync(serial, client.url) == before:
                await anyio.sleep(0.02)

        assert (await ask(client.url, "/v2/", "mirror:right", context))[0] == 401
        files["htpasswd"].write_text("")
        with anyio.fail_after(10):
            while not client.said:
                await anyio.sleep(0.02)

        assert "has no users: add one with htpasswd -B; the earlier one stays in use" in client.said[0]
        assert (await ask(client.url, "/v2/", "another:right", context))[0] == 200


def certify(authority: trustme.CA, files: dict[str, Path]) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(files["tls_key"])
    files["tls_cert"].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))


def serial(url: str) -> str:
    return ssl.get_server_certificate(("127.0.0.1", int(url.rpartition(":")[2])))


def fetch(url: str, path: str, user: str, context: ssl.SSLContext) -> tuple[int, str]:
    headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), context=context) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, error.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "text",
    ["", "\n# none\n", "mirror", "mirror:plain", ":x", USERS.replace("$04$", "$31$"), "\xff"],
    ids=["empty", "comment", "no password", "plain", "no name", "too slow", "not UTF-8"],  # salts are random
)
def test_password_files_that_can_not_be_used_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "users").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="users"):
        PasswordFile(tmp_path / "users")


async def test_prune_during_a_pull_neither_waits_nor_interrupts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaymirror.serve.serving._REFRESH_SECONDS", 0.02)
    registry, images = kolla(3)
    kept, gone = sorted(images)[:2]
    target = tmp_path / "mirror"
    async with QuayServer(registry) as source:
        options = Options.of(server=source.url)
        await quaymirror.sync(Selection("kolla", "*", TAG), target, options)
        async with served(target) as client:
            tag = await client.get(f"/v2/kolla/{gone}/manifests/{TAG}")
            registry.organization("kolla").repository(gone).delete_tag(TAG)
            removing = options.replace(prune=True, grace=0.0, max_delete=100.0, full_check_every=0.0, keep_last=1)
            for _ in range(2):
                await quaymirror.sync(Selection("kolla", "*", TAG), target, removing)

            await client.until(f"/v2/kolla/{gone}/manifests/{TAG}", 404)
            for node in images[gone].walk():
                assert (await client.get(f"/v2/kolla/{gone}/manifests/{node.digest}")).body == node.raw

            for digest, blob in images[gone].all_blobs().items():
                assert (await client.get(f"/v2/kolla/{gone}/blobs/{digest}")).body == blob.data

            assert tag.headers["docker-content-digest"] == images[gone].digest
            assert (await client.get(f"/v2/kolla/{kept}/manifests/{TAG}")).status == 200

        plan = await quaymirror.prune_layout(target, PruneOptions(grace=0.0, keep_last=1), dry_run=False)
        assert images[gone].digest in {str(orphan.digest) for orphan in plan.remove}


async def test_earlier_images_are_served_by_day_and_by_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, images = kolla(3)
    first, second = sorted(images)[:2]
    target, repository = tmp_path / "mirror", registry.organization("kolla").repository(first)
    async with QuayServer(registry) as source:
        options = Options.of(server=source.url, full_check_every=0.0)
        monkeypatch.setattr("time.time", lambda: NIGHT)
        await quaymirror.sync(Selection("kolla", "*", TAG), target, options)
        await snapshot(target)
        monkeypatch.setattr("time.time", lambda: NIGHT + 86_400)
        repository.push(TAG, images[second])
        await quaymirror.sync(Selection("kolla", "*", TAG), target, options)
        await snapshot(target)

    path, days = f"/v2/kolla/{first}/manifests/{TAG}", [f"2026-03-0{number}" for number in (2, 3, 4)]
    async with served(target) as client:
        assert (await client.get(path)).body == images[second].raw
        assert (await client.get(f"{path}.at.{days[2]}")).body == images[second].raw
        answer = await client.get(f"{path}.at.{days[1]}")
        assert (answer.body, answer.headers["docker-content-digest"]) == (images[first].raw, images[first].digest)
        for digest, blob in images[first].all_blobs().items():
            assert (await client.get(f"/v2/kolla/{first}/blobs/{digest}")).body == blob.data

        for day in (days[0], "2026-13-01", "2027-01-01", "x", ""):
            assert (await client.get(f"{path}.at.{day}")).code == "MANIFEST_UNKNOWN"

        page = (await client.get("/snapshots")).body.decode()
        latest, earliest = re.findall(r'href="/snapshots/(\w+)"', page)
        page = (await client.get(f"/snapshots/{latest}")).body.decode()
        assert "Moved (1)" in page
        assert f'<a href="/images/kolla/{first}:{TAG}">' in page
        assert "New (3)" in (await client.get(f"/snapshots/{earliest}")).body.decode()
        assert (await client.get("/snapshots/none")).status == 404
        assert (await client.get(f"/images/kolla/{first}:{TAG}.at.{days[1]}")).status == 200

    write_layout_without(target, f"kolla/{first}")
    async with served(target) as client:
        assert (await client.get(f"/v2/kolla/{first}/tags/list")).code == "NAME_UNKNOWN"
        assert (await client.get(f"{path}.at.{days[1]}")).body == images[first].raw
        for digest, blob in images[first].all_blobs().items():
            assert (await client.get(f"/v2/kolla/{first}/blobs/{digest}")).body == blob.data

    for at in (earliest, days[1]):
        async with served(target, at=at) as client:
            assert (await client.get(path)).body == images[first].raw
            assert f"as of {at}" in (await client.get("/")).body.decode()

    with pytest.raises(ConfigError, match="no snapshot '2020-01-01': the nearest is"):
        async with served(target, at="2020-01-01"):
            pass


def write_layout_without(root: Path, repository: str) -> None:
    index = json.loads((root / "index.json").read_text())
    kept = [entry for entry in index["manifests"] if f"{repository}:" not in json.dumps(entry)]
    (root / "index.json").write_text(json.dumps(index | {"manifests": kept}))


async def snapshot(target: Path) -> None:
    async with OCILayout.open(target) as layout:
        await layout.use(partial(take_snapshot, note=SnapshotNote("sync")))


async def test_a_mirror_that_can_not_be_written_is_served_without_a_lease(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror / ".quaymirror").mkdir()
    (mirror / ".quaymirror" / "leases").write_text("not a directory")
    async with served(mirror) as client:
        assert (await client.get("/v2/_catalog")).status == 200
        with anyio.fail_after(5):
            while not client.said:
                await anyio.sleep(0.01)

    [line] = client.said
    assert "is served without a lease, so a prune may interrupt pulls" in line


async def test_many_idle_connections_slow_readers_and_nonsense(mirror: Path, tmp_path: Path) -> None:
    idle: list[socket.socket] = []
    async with served(mirror, idle_seconds=0.5, max_connections=60) as client:
        address = ("127.0.0.1", int(client.url.rpartition(":")[2]))
        try:
            for number in range(50):
                idle.append(socket.create_connection(address))
                idle[-1].sendall((b"", b"GET /v2/ HT", b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: ")[number % 3])

            for nonsense in (
                b"\0\0\0\0\r\n\r\n",
                b"GET\r\n\r\n",
                b"GET /v2/ HTTP/9.9\r\n\r\n",
                b"\x16\x03\x01\x02\r\n",
            ):
                with socket.create_connection(address) as other:
                    other.sendall(nonsense)

            assert (await client.get("/v2/_catalog")).status == 200
            with anyio.fail_after(10):
                closed = await anyio.to_thread.run_sync(lambda: [each.recv(4096) for each in idle])

            assert {answer[:12] for answer in closed} <= {b"", b"HTTP/1.1 400", b"HTTP/1.0 400"}
        finally:
            for connection in idle:
                connection.close()

    assert client.said == []


async def test_more_connections_than_descriptors_neither_end_nor_block_it(mirror: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    def answer(connection: socket.socket) -> bytes:
        with connection, suppress(ConnectionError):
            connection.sendall(b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(12)

        return b""

    with server(str(mirror), preexec_fn=limit) as (process, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        connections = [socket.create_connection(address, timeout=20) for _ in range(100)]
        answers = await anyio.to_thread.run_sync(lambda: {answer(each) for each in connections})
        assert answers <= {b"", b"HTTP/1.1 200"}
        with urllib.request.urlopen(f"{url}/v2/_catalog", timeout=20) as response:
            assert response.status == 200

        process.send_signal(signal.SIGTERM)
        _, stderr = await anyio.to_thread.run_sync(partial(process.communicate, timeout=20))
        assert (process.returncode, stderr) == (0, "")


async def test_a_client_that_does_not_read_is_broken_off(tmp_path: Path) -> None:
    name, image = "one", small_image("one", 10_000_000)
    write_layout(tmp_path / "m", {f"kolla/{name}:{TAG}": image})
    large = max(image.all_blobs().values(), key=lambda blob: blob.size)
    async with served(tmp_path / "m", stall_seconds=0.2) as client:
        with socket.create_connection(("127.0.0.1", int(client.url.rpartition(":")[2]))) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(f"GET /v2/kolla/{name}/blobs/{large.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            with anyio.fail_after(10):
                while "connections 1.0" not in (await client.get("/metrics")).body.decode():
                    await anyio.sleep(0.05)

        assert (await client.get(f"/v2/kolla/{name}/blobs/{large.digest}")).body == large.data


async def test_a_blob_that_is_cut_during_a_transfer_breaks_the_connection_off(tmp_path: Path) -> None:
    name, image = "one", small_image("one", 10_000_000)
    write_layout(tmp_path / "m", {f"kolla/{name}:{TAG}": image})
    large = max(image.all_blobs().values(), key=lambda blob: blob.size)
    path = tmp_path / "m" / "blobs" / "sha256" / large.digest.removeprefix("sha256:")
    async with served(tmp_path / "m") as client:

        def read() -> bytes:
            with socket.create_connection(("127.0.0.1", int(client.url.rpartition(":")[2]))) as slow:
                slow.sendall(f"GET /v2/kolla/{name}/blobs/{large.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                received = slow.recv(1000)
                os.truncate(path, 1000)
                while chunk := slow.recv(1_000_000):
                    received += chunk

                return received

        with suppress(ConnectionResetError):
            assert len(await anyio.to_thread.run_sync(read)) < large.size


def test_the_socket_of_a_unit_is_served(mirror: Path) -> None:
    # As systemd does it: the socket is descriptor 3, and the variables name the process.
    started = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "{sys.executable}" -m quaymirror serve "$1" --listen systemd 3<&$2'
    with socket.create_server(("127.0.0.1", 0)) as listening:
        words = ["bash", "-c", started, "bash", str(mirror), str(listening.fileno())]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, pass_fds=[listening.fileno()]) as process:
            try:
                url = f"http://127.0.0.1:{listening.getsockname()[1]}"
                with urllib.request.urlopen(f"{url}/v2/_catalog", timeout=20) as answer:
                    assert json.load(answer)["repositories"] == ["kolla/a", "kolla/b", "kolla/c"]

                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=20)
            finally:
                process.kill()

    assert process.returncode == 0
    assert f"serving at {url}" in said
    assert "the socket of systemd is served without TLS" in said


async def test_without_a_socket_of_a_unit_the_message_says_so(mirror: Path) -> None:
    for env in ({}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}):
        done = await run("serve", str(mirror), "--listen", "systemd", cwd=mirror, env=env, check=2)
        assert "systemd passed no socket" in done.stderr
